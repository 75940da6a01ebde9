"""Real preference pairs on the tiny images: drawn and voted as the embedded ones are."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from unifl.data.contracts import PREFERENCES, ImageTable
from unifl.data.preferences import annotators, make_pairs, votes
from unifl.data.vocabulary import AXES


def write_tiny_preferences(file: Path, images: ImageTable, pairs: int = 8) -> Path:
    """Write ``pairs`` training pairs of each axis, five votes a pair."""
    rows = []
    for axis in AXES:
        rows += votes(list(make_pairs(images, axis, "train", pairs, seed=0)), annotators(5, seed=0), seed=0)
    pq.write_table(pa.Table.from_pylist(rows, schema=PREFERENCES), file)
    return file
