"""Kubeflow components, one folder a step: a wrapper of a few lines, importing only kfp and the standard library, around
the step's function in `unifl.steps`.

All of them take their container image from one file, `images/digests.json`.
"""

import json
from pathlib import Path

IMAGES_FILE = Path(__file__).resolve().parents[1] / "images" / "digests.json"


def image(name: str) -> str:
    """The reference of the image `name` ("cpu" or "train"): by digest once it was published, else by release tag.

    Raises KeyError for an image that `images/digests.json` does not name.
    """
    entry = json.loads(IMAGES_FILE.read_text(encoding="utf-8"))[name]
    return f"{entry['repository']}@{entry['digest']}" if entry["digest"] else f"{entry['repository']}:{entry['tag']}"
