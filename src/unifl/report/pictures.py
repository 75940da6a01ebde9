"""Cuts the evaluation's samples into a table of pictures for the page: one row a sampler, one column a prompt and
seed.

The same prompts and the same seeds in every row make the effect of the two stages visible, as in the figures of
arXiv 2404.05595 §4.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from unifl.report.run_folder import Missing, read_json
from unifl.report.scores import MODEL_TITLES, steps_words

MOST_PROMPTS = 8  # columns on the page; more do not fit a printed line, and each costs a page about 50 kB
SMALL_SOURCE = 128  # pixels; smaller pictures are shown with hard pixel edges instead of a blur that they do not have


@dataclass(frozen=True)
class PictureRow:
    """One sampler's pictures as data URIs, in the order of the prompts."""

    model: str
    title: str
    subtitle: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class PictureTable:
    """All rows with the prompts under the columns; `pixelated` says that the sources are small, `more` counts
    prompts not shown."""

    rows: tuple[PictureRow, ...]
    prompts: tuple[str, ...]
    pixelated: bool
    more: int


def picture_table(folder: Path) -> PictureTable | Missing:
    """Reads samples.json and the PNG files that it names from `folder`."""
    listing = read_json(folder / "samples.json")
    if isinstance(listing, Missing):
        return listing
    prompts = tuple(str(prompt) for prompt in listing["prompts"][:MOST_PROMPTS])
    more = len(listing["prompts"]) - len(prompts)
    rows = []
    smallest = None
    for entry in listing["rows"]:
        files = [folder / name for name in entry["images"][: len(prompts)]]
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            return Missing(f"Sample pictures are not there: {', '.join(absent)}.")
        pictures = [read_png(file) for file in files]
        smallest = min([width for width, _ in pictures] + ([smallest] if smallest else []))
        title = MODEL_TITLES.get(entry["model"], str(entry["model"]))
        rows.append(PictureRow(entry["model"], title, steps_words(entry["steps"]), tuple(uri for _, uri in pictures)))
    if not rows or not prompts:
        return Missing("The evaluation drew no samples.")
    return PictureTable(tuple(rows), prompts, smallest is not None and smallest < SMALL_SOURCE, more)


def read_png(file: Path | BinaryIO) -> tuple[int, str]:
    """The picture's width in pixels and its data URI, stored again as the smallest lossless PNG."""
    from PIL import Image

    with Image.open(file) as picture:
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, format="PNG", optimize=True)
        return picture.width, data_uri(buffer.getvalue())


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
