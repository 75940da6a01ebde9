"""What a reward model sees of an image and of a prompt, computed once and kept on disk by content.

The four axes (arXiv 2404.05595 §3.2) show many of the same pictures, and trunks cost most of a reward's training: a
feature is stored under the digest of everything it depends on, so the second axis finds what the first has computed.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from unifl.core.digest import sha256_file
from unifl.core.files import atomic_path
from unifl.core.progress import progress
from unifl.core.step import checkpoint_folder
from unifl.data import degradation_operations, degradations, pixel_operations
from unifl.data.contracts import ImageTable
from unifl.perception import efficientnet
from unifl.perception.efficientnet import EfficientNetLite, pooled_statistics
from unifl.perception.minilm import SentenceEncoder
from unifl.perception.packages import digest
from unifl.perception.precision import native_bfloat16
from unifl.rewards.pairs import Reference

IMAGE_SIZE = 96  # pixels; a 64-pixel image loses less in five halvings than at its own size
# (stage, cells a side): coarse maps that keep *where* things are, for layout. Stage 3 is at 1/8, stage 5 at 1/16.
GRIDS = ((3, 4), (5, 3))
FEATURES_VARIABLE = "UNIFL_FEATURES"
_CHUNK = 512  # images between two files of the cache: what a kill costs at most
_BATCH = 64

Matrix = npt.NDArray[np.float16]
Item = TypeVar("Item")


def image_features(trunk: EfficientNetLite, images: Tensor) -> Tensor:
    """[N, D] float32, differentiable: pooled statistics of several stages, then coarse maps of two of them.

    `images` is float [N, 3, H, W] in [0, 1].
    """
    stages = trunk.stages(images, IMAGE_SIZE)
    grids = [F.adaptive_avg_pool2d(stages[stage], cells).flatten(1) for stage, cells in GRIDS]
    return torch.cat([pooled_statistics(stages), *grids], dim=1)


def feature_width(trunk: EfficientNetLite) -> int:
    """D of `image_features`."""
    return trunk.pooled_width + sum(trunk.stage_widths[stage] * cells**2 for stage, cells in GRIDS)


def feature_folder() -> Path:
    """Where features are kept: $UNIFL_FEATURES, or `features` beside the checkpoints. It may be deleted at any time."""
    given = os.environ.get(FEATURES_VARIABLE)
    return Path(given).absolute() if given else checkpoint_folder().parent / "features"


def features_of_references(
    references: Iterable[Reference], images: ImageTable, trunk: EfficientNetLite, description: str
) -> dict[Reference, npt.NDArray[np.float16]]:
    """Features [D] of every distinct (image id, derivation), from the cache where they are there.

    Raises DataContractError for an unknown image or a derivation that does not fit it.
    """
    distinct = sorted(set(references))
    looked_at: dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], str]] = {}

    def opened(image_id: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], str]:
        if image_id not in looked_at:
            pixels, masks = images.pixels([image_id])[0], images.masks(image_id)
            content = hashlib.sha256(images.encoded(image_id) + np.packbits(masks).tobytes()).hexdigest()
            looked_at[image_id] = (pixels, masks, content)
        return looked_at[image_id]

    def compute(wanted: Sequence[Reference]) -> Matrix:
        rows = []
        for start in range(0, len(wanted), _BATCH):
            pictures = []
            for image_id, derivation in wanted[start : start + _BATCH]:
                pixels, masks, _ = opened(image_id)
                pictures.append(degradations.apply(derivation, pixels, masks))
            # Always batches of one size, so that an image's features do not depend on what the cache lacked with it.
            padding = [pictures[0]] * (_BATCH - len(pictures))
            batch = torch.from_numpy(np.stack(pictures + padding)).permute(0, 3, 1, 2).float() / 255
            with torch.inference_mode():
                rows.append(image_features(trunk, batch)[: len(pictures)].half().numpy())
        return np.concatenate(rows)

    names = [f"{opened(image_id)[2]}\n{derivation}" for image_id, derivation in distinct]
    values = _cached(feature_folder() / _image_recipe(trunk), names, distinct, compute, description, "images")
    return dict(zip(distinct, values, strict=True))


def features_of_prompts(
    prompts: Iterable[str], encoder: Callable[[], SentenceEncoder], description: str
) -> dict[str, npt.NDArray[np.float16]]:
    """Text features [384] of every distinct prompt; the encoder is made only when the cache lacks one."""
    distinct = sorted(set(prompts))
    folder = feature_folder() / hashlib.sha256(b"text\n" + digest("minilm-weights").encode()).hexdigest()[:16]

    def compute(wanted: Sequence[str]) -> Matrix:
        return encoder().encode(wanted).astype(np.float16)

    return dict(zip(distinct, _cached(folder, distinct, distinct, compute, description, "prompts"), strict=True))


def _image_recipe(trunk: EfficientNetLite) -> str:
    """Digest of all that turns an image and a derivation into features: weights, code of the way, precision."""
    parts = [trunk.sha256, str(IMAGE_SIZE), repr(GRIDS), f"bfloat16={native_bfloat16('cpu')}"]
    parts += [
        sha256_file(Path(str(module.__file__)))
        for module in (degradation_operations, degradations, pixel_operations, efficientnet)
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _cached(
    folder: Path,
    names: Sequence[str],
    items: Sequence[Item],
    compute: Callable[[Sequence[Item]], Matrix],
    description: str,
    unit: str,
) -> list[npt.NDArray[np.float16]]:
    """Rows of `compute(items)`, one an item; `names` say what an item's row depends on."""
    keys = [hashlib.sha256(name.encode()).digest() for name in names]
    found = _stored(folder, set(keys))
    missing = [index for index, key in enumerate(keys) if key not in found]
    chunks = [missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK)]
    counter = progress(len(items), description, unit, start=len(items) - len(missing))
    for chunk in chunks:
        rows = []
        for start in range(0, len(chunk), _BATCH):
            part = chunk[start : start + _BATCH]
            rows.append(compute([items[index] for index in part]))
            for _ in part:
                next(counter)
        matrix = np.concatenate(rows)
        _store(folder, [keys[index] for index in chunk], matrix)
        found.update({keys[index]: row for index, row in zip(chunk, matrix, strict=True)})
    for _ in counter:  # lets the counter print its last line
        pass
    return [found[key] for key in keys]


def _stored(folder: Path, wanted: set[bytes]) -> dict[bytes, npt.NDArray[np.float16]]:
    found: dict[bytes, npt.NDArray[np.float16]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            content = load_file(path)
            keys, rows = content["keys"], content["features"]
        except (SafetensorError, OSError, KeyError) as error:
            print(f"cached features {path} are unreadable ({error}) and are computed anew", file=sys.stderr)
            path.unlink(missing_ok=True)
            continue
        for key, row in zip(keys, rows, strict=True):
            if key.tobytes() in wanted:
                found[key.tobytes()] = row
    return found


def _store(folder: Path, keys: Sequence[bytes], matrix: Matrix) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(b"".join(keys)).hexdigest()[:24]
    stacked = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), 32)
    with atomic_path(folder / f"{name}.safetensors") as path:
        save_file({"keys": stacked, "features": np.ascontiguousarray(matrix)}, path)
