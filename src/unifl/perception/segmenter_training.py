"""Trains the dense segmenter of structure feedback on drawn scenes with exact masks, and measures it on held-out ones.

The paper takes a SOLO trained on COCO (arXiv 2404.05595 §3.1 and §4.1); the embedded data has exact masks for free, so
the segmenter is trained here, in minutes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifl.core.progress import progress
from unifl.data.scenes import Scene
from unifl.evaluation.instances import average_precision, best_overlap, coco_average_precision, overlaps
from unifl.perception.augmentation import flipped, shifted, softened, toned
from unifl.perception.one_cycle import Checkpoints, OneCycle
from unifl.perception.precision import frozen_precision
from unifl.perception.segmenter import MASK_WEIGHT, SIDE, Segmenter, grid_targets, instance_losses, segment

MAX_SHIFT = 6  # pixels; objects near an edge appear in tuned pictures too


@dataclass(frozen=True)
class LabelledScenes:
    """Pictures with exact masks: images uint8 [N, 64, 64, 3], masks N x bool [K, 64, 64], concepts N x K words."""

    images: NDArray[np.uint8]
    masks: list[NDArray[np.bool_]]
    concepts: list[list[str]]

    @classmethod
    def collect(cls, scenes: Iterable[Scene]) -> LabelledScenes:
        listed = list(scenes)
        return cls(
            np.stack([one.image for one in listed]), [one.masks for one in listed], [one.concepts for one in listed]
        )

    def __len__(self) -> int:
        return len(self.images)

    def digest(self) -> str:
        """SHA-256 over pictures, masks and words."""
        found = hashlib.sha256(self.images.tobytes())
        for masks, words in zip(self.masks, self.concepts, strict=True):
            found.update(np.packbits(masks).tobytes())
            found.update("\n".join([*words, ""]).encode())
        return found.hexdigest()

    def tensor(self, rows: Sequence[int] | slice) -> Tensor:
        """Images [n, 3, 64, 64] in [0, 1]."""
        return torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2).float() / 255


def train(
    scenes: LabelledScenes,
    vocabulary: Sequence[str],
    *,
    width: int,
    updates: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    checkpoints: Checkpoints | None = None,
) -> tuple[Segmenter, list[float]]:
    """A segmenter in evaluation mode and the loss of every update.

    With ``checkpoints`` it goes on from the last one. Raises DivergenceError when a loss is not finite, SettingsError
    when the checkpoint is of other settings or scenes.
    """
    torch.manual_seed(seed)
    segmenter = Segmenter(vocabulary, width).train()
    if checkpoints is not None:
        about = {"batch_size": batch_size, "width": width, "scenes": scenes.digest()}
        checkpoints = replace(checkpoints, identity={**checkpoints.identity, **about})
    training = OneCycle(
        segmenter,
        updates=updates,
        learning_rate=learning_rate,
        weight_decay=0.02,
        seed=seed,
        description="segmenter",
        warmup=0.1,
        clip=5.0,
        checkpoints=checkpoints,
    )

    def loss(_done: int) -> Tensor:
        while len(training.order) < batch_size:
            training.order = torch.cat([training.order, torch.randperm(len(scenes), generator=training.generator)])
        rows, training.order = training.order[:batch_size].tolist(), training.order[batch_size:]
        images, masks = _augmented(scenes, rows, training.generator)
        targets = grid_targets(masks, [scenes.concepts[row] for row in rows], segmenter.concepts)
        with frozen_precision(images.device):
            outputs = segmenter(images)
        category, mask = instance_losses(outputs, targets)
        return (category + MASK_WEIGHT * mask).mean()

    losses = training.run(loss)
    return segmenter, losses


def held_out_figures(segmenter: Segmenter, scenes: LabelledScenes, batch_size: int = 64) -> dict[str, float]:
    """Mask AP, AP at overlap 0.5, mean best overlap, and how often the best-fitting mask also names the concept.

    AP ignores the concept: structure feedback is about shape first.
    """
    iou, scores, named = [], [], []
    for start in progress(range(0, len(scenes), batch_size), "held-out scenes", "batches"):
        for number, found in enumerate(segment(segmenter, scenes.tensor(slice(start, start + batch_size))), start):
            visible = np.any(scenes.masks[number], axis=(1, 2))
            masks = scenes.masks[number][visible]
            table = overlaps(found.masks, masks)
            words = [word for word, seen in zip(scenes.concepts[number], list(visible), strict=True) if seen]
            best = [table[:, k].argmax() if len(table) else None for k in range(len(masks))]
            named += [row is not None and found.concepts[row] == word for row, word in zip(best, words, strict=True)]
            iou.append(table)
            scores.append(found.scores)
    return {
        "mask_ap": coco_average_precision(iou, scores),
        "mask_ap50": average_precision(iou, scores, 0.5),
        "best_overlap": best_overlap(iou),
        "concept_accuracy": float(np.mean(named)),
        "scenes": float(len(scenes)),
    }


def _augmented(
    scenes: LabelledScenes, rows: list[int], generator: torch.Generator
) -> tuple[Tensor, list[NDArray[np.bool_]]]:
    images, mirrored = flipped(scenes.tensor(rows), generator)
    images, offsets = shifted(images, MAX_SHIFT, generator)
    images = softened(toned(images, generator), generator)
    masks = []
    for row, mirror, offset in zip(rows, mirrored.tolist(), offsets.tolist(), strict=True):
        mask = scenes.masks[row][:, :, ::-1] if mirror else scenes.masks[row]
        masks.append(_shifted_mask(mask, *offset))
    return images, masks


def _shifted_mask(mask: NDArray[np.bool_], down: int, right: int) -> NDArray[np.bool_]:
    """The masks moved as the picture was; what comes in over the edge repeats the edge, as the pixels do."""
    rows = np.clip(np.arange(SIDE) - down, 0, SIDE - 1)
    columns = np.clip(np.arange(SIDE) - right, 0, SIDE - 1)
    return mask[:, rows][:, :, columns]
