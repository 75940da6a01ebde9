"""The pictures a person looks at: one PNG a picture, and a grid of all models over the same prompts and seeds.

Rows are the samplers that arXiv 2404.05595 compares (many steps before and after stage 1, few before and after
stage 2); prompts are the first of the held-out captions, not chosen ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unifl.evaluation.cells import Cell

GRID_SCALE = 2  # screen pixels a pixel of the model
LABEL_WIDTH = 130  # screen pixels


def write_samples(
    rows: Sequence[tuple[Cell, NDArray[np.uint8]]], prompts: Sequence[str], seeds: Sequence[int], folder: Path
) -> None:
    """Write `<model>-<steps>-<number>.png`, `grid.png` and samples.json (prompts, seeds, files a row) into `folder`.

    rows: each cell with its pictures uint8 [K, H, W, 3], K prompts in all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listing = []
    for cell, pictures in rows:
        names = [f"{cell.model}-{cell.steps}-{number:02d}.png" for number in range(len(prompts))]
        for name, picture in zip(names, pictures, strict=True):
            Image.fromarray(picture).save(folder / name, optimize=True)
        listing.append({"model": cell.model, "steps": cell.steps, "images": names})
    grid([(cell.name, pictures) for cell, pictures in rows]).save(folder / "grid.png", optimize=True)
    content = {"prompts": list(prompts), "seeds": list(seeds), "rows": listing}
    (folder / "samples.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def grid(rows: Sequence[tuple[str, NDArray[np.uint8]]]) -> Image.Image:
    """A picture of labelled rows: each a title and pictures uint8 [K, H, W, 3]."""
    count, height, width = rows[0][1].shape[:3]
    tall, wide = height * GRID_SCALE, width * GRID_SCALE
    canvas = Image.new("RGB", (LABEL_WIDTH + count * wide, len(rows) * tall), "white")
    pen = ImageDraw.Draw(canvas)
    for line, (title, pictures) in enumerate(rows):
        pen.text((8, line * tall + tall // 2 - 6), title, fill="black")
        for column, picture in enumerate(pictures):
            enlarged = Image.fromarray(picture).resize((wide, tall), Image.Resampling.NEAREST)
            canvas.paste(enlarged, (LABEL_WIDTH + column * wide, line * tall))
    return canvas
