"""Ingests the icon sets: SVG pictures of the embedded concepts become RGBA sprites with exact alpha.

This is the maintainers' first stage of the embedded data set. It reads the npm packages ``@iconify-json/*`` from a
``node_modules`` folder and writes one Parquet file; everyone else starts from that file or from what is made of it.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from unifl.core.errors import DataContractError
from unifl.data.vocabulary import CONCEPT_ICONS, DRAWN_STYLES

SPRITE_SIDE = 128  # pixels; twice the side of the final image, so that scaling only ever shrinks

SCHEMA = pa.schema(
    [
        ("concept", pa.string()),
        ("style", pa.string()),
        ("sprite", pa.binary()),  # lossless WebP, RGBA
        ("source", pa.string()),
        ("licence", pa.string()),
        ("attribution", pa.string()),
    ]
)


@dataclass(frozen=True)
class Sprite:
    """One drawn object: RGBA pixels cropped to the visible part, with its licence and attribution."""

    concept: str
    style: str
    pixels: Image.Image
    source: str
    licence: str
    attribution: str


def rasterise(body: str, width: float, height: float, side: int = SPRITE_SIDE) -> Image.Image:
    """Render the body of an SVG icon to ``side`` x ``side`` RGBA pixels."""
    import resvg_py

    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{side}" height="{side}">{body}</svg>'
    )
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")


def ingest(node_modules: Path) -> pa.Table:
    """Read every concept in every drawn style from ``node_modules`` and return the table of sprites.

    Raises:
        DataContractError: a set or an icon is missing, or renders to almost nothing.
    """
    rows: list[dict[str, object]] = []
    for style in DRAWN_STYLES:
        folder = node_modules / "@iconify-json" / style
        if not folder.is_dir():
            raise DataContractError(
                f"icon set {style} is missing",
                file=folder,
                remedy="run `npm ci` in data/ to install the pinned icon sets",
            )
        icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
        info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
        package = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        for concept, name in CONCEPT_ICONS.items():
            icon = icons["icons"].get(name)
            if icon is None:
                raise DataContractError(
                    f"icon {name} is not in the set {style}",
                    file=folder / "icons.json",
                    expected=f"an icon for {concept}",
                )
            default = icons.get("width", 16), icons.get("height", 16)
            pixels = rasterise(icon["body"], icon.get("width", default[0]), icon.get("height", default[1]))
            box = pixels.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
            if box is None or (box[2] - box[0]) * (box[3] - box[1]) < SPRITE_SIDE**2 // 20:
                raise DataContractError(f"icon {name} of {style} renders to almost nothing", file=folder / "icons.json")
            buffer = io.BytesIO()
            pixels.crop(box).save(buffer, "WEBP", lossless=True, method=6)
            rows.append(
                {
                    "concept": concept,
                    "style": style,
                    "sprite": buffer.getvalue(),
                    "source": f"@iconify-json/{style}@{package['version']}#{name}",
                    "licence": info["license"]["spdx"],
                    "attribution": f"{info['author']['name']}, {info['author']['url']}",
                }
            )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write_sprites(table: pa.Table, path: Path) -> None:
    """Write the table of sprites to ``path`` as Parquet."""
    pq.write_table(table, path, compression="zstd")


def read_sprites(path: Path) -> dict[tuple[str, str], Sprite]:
    """Read the sprites of an icons folder (or its Parquet file) by ``(concept, style)``.

    Raises:
        DataContractError: the file is missing, unreadable, or lacks a concept in a style.
    """
    file = path / "sprites.parquet" if path.is_dir() else path
    try:
        table = pq.read_table(file, schema=SCHEMA)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataContractError(
            f"the sprites cannot be read: {error}", file=file, remedy="restore the file with `dvc pull`"
        ) from error
    sprites = {
        (row["concept"], row["style"]): Sprite(
            row["concept"],
            row["style"],
            Image.open(io.BytesIO(row["sprite"])).convert("RGBA"),
            row["source"],
            row["licence"],
            row["attribution"],
        )
        for row in table.to_pylist()
    }
    missing = [(c, s) for c in CONCEPT_ICONS for s in DRAWN_STYLES if (c, s) not in sprites]
    if missing:
        raise DataContractError(f"no sprite for {missing[0]}", file=file, expected=f"{len(missing)} more sprites")
    return sprites


def recolour(pixels: Image.Image, hue: float) -> Image.Image:
    """Turn an RGBA sprite to one hue (0 to 1) while its light and dark parts keep their order.

    Saturation is lifted to at least one half except near white and black, so that the colour word is visibly true.
    """
    rgba = np.asarray(pixels)
    hsv = np.array(Image.fromarray(rgba[..., :3]).convert("HSV"))
    hsv[..., 0] = round(hue * 255)
    saturation = hsv[..., 1].astype(np.float32)
    hsv[..., 1] = np.clip(np.maximum(saturation, 140), 0, 255).astype(np.uint8)
    hsv[..., 2] = np.clip(60 + hsv[..., 2].astype(np.float32) * 0.76, 0, 255).astype(np.uint8)
    rgb = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    return Image.fromarray(np.concatenate([rgb, rgba[..., 3:]], axis=-1), "RGBA")
