"""Kubeflow components, one folder a step: a wrapper of a few lines, importing only kfp and the standard library, around
the step's function in `unifl.steps`.

All of them take their container image from one file, `images/digests.json` (or the one that $UNIFL_IMAGES_FILE names).
"""

import json
import os
from pathlib import Path
from typing import Any

IMAGES_VARIABLE = "UNIFL_IMAGES_FILE"


def image(name: str) -> str:
    """The reference of the image `name` ("data" or "train"): by digest once it was pushed, else by the tag of a local
    build.

    Raises KeyError for an image that the file does not name.
    """
    entry = _images()[name]
    return f"{entry['repository']}@{entry['digest']}" if entry["digest"] else f"{entry['repository']}:{entry['tag']}"


def images_without_digest() -> list[str]:
    """Names of the images that were never pushed: only a machine that built them can run them."""
    return [name for name, entry in _images().items() if not entry["digest"]]


def _images() -> dict[str, Any]:
    file = os.environ.get(IMAGES_VARIABLE) or Path(__file__).resolve().parents[1] / "images" / "digests.json"
    entries: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
    return entries
