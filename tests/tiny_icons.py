"""A sprite for every concept in every drawn style: a polygon whose corners and color depend on the concept."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from unifl.data.icons import SCHEMA, write_sprites
from unifl.data.vocabulary import CONCEPTS, DRAWN_STYLES


def write_tiny_icons(folder: Path) -> Path:
    """Write sprites.parquet into ``folder``, as embedded_icons would, and give the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, concept in enumerate(CONCEPTS):
        for style in DRAWN_STYLES:
            sprite = Image.new("RGBA", (48, 48))
            color = tuple(int(value) for value in np.random.default_rng(number).integers(0, 200, 3))
            ImageDraw.Draw(sprite).regular_polygon((24, 24, 22), 3 + number % 6, fill=(*color, 255))
            buffer = io.BytesIO()
            sprite.save(buffer, "PNG")
            rows.append(
                {"concept": concept, "style": style, "sprite": buffer.getvalue(), "source": "drawn",
                 "licence": "CC0-1.0", "attribution": ""}
            )  # fmt: skip
    write_sprites(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "sprites.parquet")
    return folder
