"""A handful of real pictures in the images contract: one or two colored discs on a plain background, exact masks."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from unifl.data.contracts import IMAGES, encode_mask
from unifl.data.vocabulary import CONCEPTS

NAMES = [str(getattr(concept, "name", concept)) for concept in CONCEPTS][:4]


def write_tiny_images(folder: Path, count: int = 10, style: str | Sequence[str] = "flat", validation: int = 0) -> Path:
    """Write ``count`` images of 64 pixels, the last two in test, ``validation`` before them; styles take turns."""
    styles = [style] if isinstance(style, str) else style
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    rows = []
    splits = ["train"] * (count - 2 - validation) + ["validation"] * validation + ["test"] * 2
    for number in range(count):
        pixels = np.empty((64, 64, 3), np.uint8)
        pixels[:] = rng.integers(180, 255, 3)
        masks, concepts = [], []
        for place in range(1 + number % 2):
            mask = (x - 18 - 28 * place) ** 2 + (y - 32) ** 2 < 13**2
            pixels[mask] = rng.integers(0, 160, 3)
            masks.append(encode_mask(mask))
            concepts.append(NAMES[(number + place) % len(NAMES)])
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "WEBP", lossless=True)
        rows.append(
            {
                "image_id": f"image-{number}",
                "image": buffer.getvalue(),
                "caption": " and ".join(concepts),
                "style": styles[number % len(styles)],
                "concepts": concepts,
                "attributes": [],
                "relation": None,
                "background": "plain",
                "masks": masks,
                "split": splits[number],
                "source": "drawn",
                "licence": "CC0-1.0",
                "attribution": "",
            }
        )
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=IMAGES), folder / "images-00000.parquet")
    return folder
