"""A small folder of real pictures with train and validation splits, pairs on them, and features kept apart from the
user's own cache."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tiny_images import write_tiny_images
from unifl.data.contracts import IMAGES, PREFERENCES, ImageTable, open_images
from unifl.data.preferences import annotators, make_pairs, votes
from unifl.data.vocabulary import AXES


@pytest.fixture(scope="session", autouse=True)
def features_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("features")
    patch.setenv("UNIFL_FEATURES", str(folder))
    return folder


@pytest.fixture(scope="session")
def images_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_images(tmp_path_factory.mktemp("reward_data") / "images", count=12)
    shard = folder / "images-00000.parquet"
    rows = pq.read_table(shard).to_pylist()
    for row in rows[-4:]:
        row["split"] = "validation"
    pq.write_table(pa.Table.from_pylist(rows, schema=IMAGES), shard)
    return folder


@pytest.fixture(scope="session")
def images(images_folder: Path) -> ImageTable:
    return open_images(images_folder)


@pytest.fixture(scope="session")
def preferences_file(images: ImageTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = []
    for axis in AXES:
        for split, count in (("train", 64), ("validation", 24)):
            rows += votes(list(make_pairs(images, axis, split, count, seed=0)), annotators(5, seed=0), seed=0)
    file = tmp_path_factory.mktemp("votes") / "preferences.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=PREFERENCES), file)
    return file
