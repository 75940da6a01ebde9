"""How a reward reacts to each axis's degradations: it should fall on its own axis and hardly move on the other three.

The check behind "decoupled" in decoupled feedback learning (arXiv 2404.05595 §3.2); the report shows one row of the
four-by-four table an axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unifl.data.contracts import ImageTable
from unifl.data.degradations import UNTOUCHED, sample_derivation
from unifl.data.vocabulary import AXES
from unifl.rewards.losses import bootstrap_interval
from unifl.rewards.model import RewardHead
from unifl.rewards.pairs import Reference
from unifl.rewards.training import Features, TextFeatures

STRENGTH = 0.6


@dataclass(frozen=True)
class ResponseProbe:
    """Images with their captions, and for each of them one degradation an axis at strength 0.6 (family "reward")."""

    captions: dict[str, str]
    degraded: dict[str, list[Reference]]

    @property
    def references(self) -> list[Reference]:
        """Everything whose features `axis_response` needs."""
        untouched = [(image_id, UNTOUCHED) for image_id in self.captions]
        return untouched + [reference for group in self.degraded.values() for reference in group]


def response_probe(images: ImageTable, split: str, count: int, seed: int) -> ResponseProbe:
    """The first `count` images of a split: the same for every axis's reward, so that a cache serves all four."""
    chosen = images.split(split).head(count)
    captions: dict[str, str] = dict(zip(chosen["image_id"], chosen["caption"], strict=True))
    objects = {image_id: int(images.masks(image_id).any(axis=(1, 2)).sum()) for image_id in captions}
    captions = {image_id: caption for image_id, caption in captions.items() if objects[image_id]}
    degraded: dict[str, list[Reference]] = {}
    for number, axis in enumerate(AXES):
        rng = np.random.default_rng([seed, number])
        degraded[axis] = [
            (image_id, sample_derivation(axis, "reward", rng, objects=objects[image_id], strength=STRENGTH))
            for image_id in captions
        ]
    return ResponseProbe(captions, degraded)


def axis_response(
    head: RewardHead, probe: ResponseProbe, features: Features, text: TextFeatures | None
) -> dict[str, torch.Tensor]:
    """Change of each probe image's score [N], in standard deviations, when the image is degraded on each axis."""
    captions = list(probe.captions.values())
    prompts = None if text is None else torch.from_numpy(np.stack([text[caption] for caption in captions])).float()

    def scores(references: list[Reference]) -> torch.Tensor:
        stacked = torch.from_numpy(np.stack([features[reference] for reference in references])).float()
        result: torch.Tensor = head(stacked, prompts)
        return result

    head.eval()
    with torch.inference_mode():
        before = scores([(image_id, UNTOUCHED) for image_id in probe.captions])
        return {axis: scores(group) - before for axis, group in probe.degraded.items()}


def response_details(changes: Mapping[str, torch.Tensor], seed: int) -> dict[str, Any]:
    """What details.json says of `axis_response`: the mean change an axis, with 95 % bootstrap intervals over images."""
    return {
        "response": {axis: float(change.mean()) for axis, change in changes.items()},
        "response_intervals": {axis: bootstrap_interval(change.numpy(), seed) for axis, change in changes.items()},
    }
