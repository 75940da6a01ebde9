"""The trainable parts of the examiners, and their folders: small heads on the shared trunk, one folder a head.

A folder holds model.safetensors (float16), config.json (kind, shape, labels, the trunk by SHA-256, held-out figures).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unifl.core.errors import ModelLoadError
from unifl.evaluation.trunk import CELLS, Views, check_trunk, trunk_reference
from unifl.perception.half_precision import load_float, save_half

_DEVIATION_FLOOR = 1e-3


class Standardised(nn.Module):
    """Pooled features [N, D] with the training images' mean taken off and deviation divided out, clipped to ± 6."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def fit(self, pooled: Tensor) -> None:
        """Take mean and deviation from the training images."""
        self.mean.copy_(pooled.mean(0))
        self.deviation.copy_(pooled.std(0).clamp(min=_DEVIATION_FLOOR))

    def forward(self, pooled: Tensor) -> Tensor:
        return ((pooled - self.mean) / self.deviation).clamp(-6, 6)


class PooledHead(nn.Module):
    """From statistics over the whole image to `outputs` numbers: the axis judges."""

    def __init__(self, width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.shape = {"width": width, "hidden": hidden, "outputs": outputs}
        self.standardised = Standardised(width)
        self.layers = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, outputs)
        )

    def forward(self, pooled: Tensor) -> Tensor:
        result: Tensor = self.layers(self.standardised(pooled))
        return result


class CellHead(nn.Module):
    """From maps that know where things are to a map [N, hidden, 6, 6]: the common start of concept and scorer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, hidden, 1, bias=False))
        self.look = nn.Sequential(
            nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        )
        self.norm = nn.BatchNorm2d(hidden)

    def forward(self, views: Views) -> Tensor:
        mixed = self.mix(views.cells)
        result: Tensor = F.relu(self.norm(mixed + self.look(mixed)))
        return result


class StyleHead(nn.Module):
    """Logits [N, styles] from what the whole image looks like and from how its objects are drawn.

    Painted styles show in statistics alone; drawn styles differ in how each concept is drawn, which only cells tell.
    """

    def __init__(self, width: int, hidden: int, pooled: int, outputs: int) -> None:
        super().__init__()
        self.shape = {"width": width, "hidden": hidden, "pooled": pooled, "outputs": outputs}
        self.cells = CellHead(width, hidden)
        self.standardised = Standardised(pooled)
        self.tone = nn.Sequential(nn.Dropout(0.2), nn.Linear(pooled, 48), nn.ReLU())
        self.layers = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * hidden + 48, outputs))

    def forward(self, views: Views) -> Tensor:
        cells = self.cells(views)
        tone = self.tone(self.standardised(views.pooled))
        result: Tensor = self.layers(torch.cat([cells.amax((2, 3)), cells.mean((2, 3)), tone], 1))
        return result


class ConceptHead(nn.Module):
    """Logits [N, concepts]: every cell votes, and the strongest vote for a concept counts (soft maximum)."""

    def __init__(self, width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.shape = {"width": width, "hidden": hidden, "outputs": outputs}
        self.cells = CellHead(width, hidden)
        self.votes = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(hidden, outputs, 1))

    def forward(self, views: Views) -> Tensor:
        votes = self.votes(self.cells(views)).flatten(2)
        result: Tensor = votes.logsumexp(2) - torch.log(torch.tensor(float(CELLS * CELLS)))
        return result


class ImageTextHead(nn.Module):
    """Unit vectors [N, joint] of images and of texts in one space (as CLIP, arXiv 2103.00020 §2.3)."""

    def __init__(self, width: int, hidden: int, pooled: int, text: int, joint: int) -> None:
        super().__init__()
        self.shape = {"width": width, "hidden": hidden, "pooled": pooled, "text": text, "joint": joint}
        self.cells = CellHead(width, hidden)
        self.standardised = Standardised(pooled)
        self.tone = nn.Sequential(nn.Dropout(0.2), nn.Linear(pooled, 64), nn.ReLU())
        self.image = nn.Linear(6 * hidden + 64, joint)
        self.text = nn.Sequential(nn.Linear(text, 2 * joint), nn.ReLU(), nn.Dropout(0.1), nn.Linear(2 * joint, joint))
        self.temperature = nn.Parameter(torch.tensor(2.7))  # log of the inverse, CLIP's start

    def images(self, views: Views) -> Tensor:
        cells = self.cells(views)
        # Quarters keep left and right, above and below apart.
        parts = [F.adaptive_avg_pool2d(cells, 2).flatten(1), cells.amax((2, 3)), cells.mean((2, 3))]
        parts.append(self.tone(self.standardised(views.pooled)))
        return F.normalize(self.image(torch.cat(parts, 1)), dim=1)

    def texts(self, features: Tensor) -> Tensor:
        return F.normalize(self.text(features), dim=1)


def save_head(head: nn.Module, folder: Path, kind: str, facts: Mapping[str, Any]) -> None:
    """Write a head's folder; `facts` (labels, held-out figures) go into config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_half(head.state_dict(), folder / "model.safetensors")
    config = {"kind": kind, "shape": head.shape, "trunk": trunk_reference(), **facts}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_head(kind: str, build: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The frozen head of `folder`, built by `build(**shape)`, and its config.

    Raises ModelLoadError when the folder is missing or unreadable, of another kind, or made for another trunk.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = config["kind"]
        reference = config["trunk"]
        head = build(**config["shape"]) if found == kind else None
        if head is not None:
            head.load_state_dict(load_float(folder / "model.safetensors"))
    except Exception as error:
        raise ModelLoadError(
            f"the {kind} cannot be loaded: {(str(error) or type(error).__name__).splitlines()[0]}",
            file=folder,
            expected="model.safetensors and config.json",
            remedy="restore the folder with `dvc pull`, or run `unifl judge_models`",
        ) from error
    if head is None:
        raise ModelLoadError(f"the folder holds a {found}", file=folder, expected=f"a {kind}")
    check_trunk(reference, folder)
    return head.requires_grad_(False).eval(), config
