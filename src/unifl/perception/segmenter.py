"""A small dense instance segmenter: what PeFL's structure feedback asks whether an object has kept its shape.

The paper uses SOLO because its supervision is dense, one prediction a grid cell and a pixel (arXiv 2404.05595 §3.1 and
its ablation against query-based Mask2Former). This is the same scheme at 64 pixels, after SOLOv2 (arXiv 2003.10152):
each cell of an 8 x 8 grid names the concept whose centre falls into it and emits a 1 x 1 kernel; that kernel, applied
to shared mask features, draws the mask of the object. Loss: focal on the grid, Dice on the masks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from unifl.core.errors import ModelLoadError
from unifl.perception.half_precision import load_float, save_half
from unifl.perception.precision import frozen_precision

SIDE = 64  # pixels of an input image
GRID = 8  # cells a side; the smallest objects are about 14 pixels
MASK_SIDE = 32  # pixels of the mask features, enlarged to SIDE before the loss
KERNEL = 32  # mask feature channels = length of a cell's kernel
CENTRE_REGION = 0.2  # share of an object's box whose cells are positive (SOLO §3.3.1)
MASK_WEIGHT = 3.0  # weight of Dice beside focal (SOLO eq. 2)
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # arXiv 1708.02002
NMS_SIGMA = 2.0  # Gaussian matrix NMS (SOLOv2 §3.4)


@dataclass(frozen=True)
class Instances:
    """What the segmenter found in one image, best first: masks bool [K, 64, 64], scores [K] in [0, 1], concepts [K]."""

    masks: NDArray[np.bool_]
    scores: NDArray[np.float64]
    concepts: list[str]


@dataclass(frozen=True)
class GridTargets:
    """Ground truth on the grid for N images with P positive cells in all.

    cells int64 [N, GRID²] holds a concept index or -1; image and cell int64 [P] point to the positive cells; masks
    float [P, 64, 64].
    """

    cells: Tensor
    image: Tensor
    cell: Tensor
    masks: Tensor


class Segmenter(nn.Module):
    """Convolutional network from images [N, 3, 64, 64] in [0, 1] to grid logits, kernels and mask features.

    `forward` returns logits [N, C, 8, 8], kernels [N, 32, 8, 8] and features [N, 32, 32, 32], all float32.
    """

    def __init__(self, concepts: Sequence[str], width: int = 32) -> None:
        super().__init__()
        self.concepts = tuple(concepts)
        self.width = width
        w = width
        self.fine = nn.Sequential(_convolution(3, w, stride=2), _Residual(w))
        self.middle = nn.Sequential(_convolution(w, 2 * w, stride=2), _Residual(2 * w), _Residual(2 * w))
        self.coarse = nn.Sequential(
            _convolution(2 * w, 4 * w, stride=2), _Residual(4 * w), _Residual(4 * w, dilation=2), _Residual(4 * w)
        )
        self.down_coarse = _convolution(4 * w, 2 * w, kernel=1)
        self.down_middle = _convolution(2 * w, w, kernel=1)
        self.merge_middle = _convolution(2 * w, 2 * w)
        self.mask_features = nn.Sequential(_convolution(w + 2, w), _convolution(w, w), nn.Conv2d(w, KERNEL, 1))
        self.grid = nn.Sequential(_convolution(4 * w + 2, 4 * w), _convolution(4 * w, 4 * w))
        self.category = nn.Conv2d(4 * w, len(self.concepts), 1)
        self.kernels = nn.Conv2d(4 * w, KERNEL, 1)
        # Focal loss starts from "nearly every cell is empty" (arXiv 1708.02002 §4.1).
        nn.init.constant_(self.category.bias, -4.6)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = ((images - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)
        fine = self.fine(x)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        merged = self.merge_middle(middle + _double(self.down_coarse(coarse)))
        features = self.mask_features(_with_coordinates(fine + _double(self.down_middle(merged))))
        grid = self.grid(_with_coordinates(coarse))
        return self.category(grid).float(), self.kernels(grid).float(), features.float()


# ------------------------------------------------------------------------------------------------ the instance loss


def structure_loss(
    segmenter: Segmenter,
    images: Tensor,
    masks: Sequence[NDArray[np.bool_]],
    concepts: Sequence[Sequence[str]],
) -> Tensor:
    """The segmenter's own instance loss of each image against ground truth, differentiable in the image: Φ of §3.1.

    images [N, 3, 64, 64] in [0, 1]; masks: N arrays bool [K, 64, 64]; concepts: N lists of K words. Returns [N].
    Raises ValueError when the counts differ or a concept is unknown to the segmenter.
    """
    with frozen_precision(images.device):
        outputs = segmenter(images)
    targets = grid_targets(masks, concepts, segmenter.concepts)
    category, mask = instance_losses(outputs, _moved(targets, images.device))
    return category + MASK_WEIGHT * mask


def instance_losses(outputs: tuple[Tensor, Tensor, Tensor], targets: GridTargets) -> tuple[Tensor, Tensor]:
    """Focal loss over the grid and mean Dice loss over the positive cells of each image, [N] each.

    The focal sum of an image is divided by its number of positive cells (at least 1).
    """
    logits, kernels, features = outputs
    count = len(logits)
    wanted = torch.zeros_like(logits).flatten(2)
    wanted[targets.image, targets.cells[targets.image, targets.cell], targets.cell] = 1.0
    positives = torch.bincount(targets.image, minlength=count).clamp(min=1).to(logits.dtype)
    category = focal(logits.flatten(2), wanted).sum((1, 2)) / positives
    drawn = masks_of(kernels, features, targets.image, targets.cell)
    mask = torch.zeros_like(category).index_add_(0, targets.image, dice(drawn.sigmoid(), targets.masks)) / positives
    return category, mask


def focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sigmoid focal loss an element, -α_t (1 - p_t)^γ log p_t (arXiv 1708.02002 eq. 5)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    p = logits.sigmoid()
    p_true = p * wanted + (1 - p) * (1 - wanted)
    weight = FOCAL_ALPHA * wanted + (1 - FOCAL_ALPHA) * (1 - wanted)
    return weight * (1 - p_true) ** FOCAL_GAMMA * cross_entropy


def dice(drawn: Tensor, wanted: Tensor) -> Tensor:
    """1 - 2 Σpq / (Σp² + Σq²) for masks [P, H, W] in [0, 1] -> [P] (SOLO eq. 4)."""
    overlap = (drawn * wanted).sum((1, 2))
    size = (drawn**2).sum((1, 2)) + (wanted**2).sum((1, 2))
    return 1 - (2 * overlap + 1e-3) / (size + 1e-3)


def masks_of(kernels: Tensor, features: Tensor, image: Tensor, cell: Tensor) -> Tensor:
    """Mask logits [P, 64, 64] drawn by the kernels of the chosen cells over their images' mask features."""
    chosen = kernels.flatten(2)[image, :, cell]
    low = torch.einsum("pe,pehw->phw", chosen, features[image])
    return F.interpolate(low[:, None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]


def grid_targets(
    masks: Sequence[NDArray[np.bool_]], concepts: Sequence[Sequence[str]], vocabulary: Sequence[str]
) -> GridTargets:
    """Which grid cells stand for which object: those in the central region of its box, smaller objects first.

    Objects without a visible pixel are left out. Raises ValueError for an unknown concept or unequal counts.
    """
    if len(masks) != len(concepts):
        raise ValueError(f"{len(masks)} images with masks but {len(concepts)} with concepts")
    index = {word: number for number, word in enumerate(vocabulary)}
    cells = np.full((len(masks), GRID * GRID), -1, np.int64)
    where: list[tuple[int, int]] = []
    drawn: list[NDArray[np.bool_]] = []
    for number, (objects, words) in enumerate(zip(masks, concepts, strict=True)):
        if len(objects) != len(words):
            raise ValueError(f"image {number} has {len(objects)} masks for {len(words)} concepts")
        for k in sorted(range(len(objects)), key=lambda k: int(objects[k].sum())):
            if words[k] not in index:
                raise ValueError(f"the segmenter knows no concept {words[k]!r}")
            for cell in _central_cells(objects[k]):
                if cells[number, cell] < 0:
                    cells[number, cell] = index[words[k]]
                    where.append((number, cell))
                    drawn.append(objects[k])
    places = np.array(where, np.int64).reshape(-1, 2)
    stacked = np.stack(drawn) if drawn else np.zeros((0, SIDE, SIDE), bool)
    return GridTargets(
        torch.from_numpy(cells),
        torch.from_numpy(places[:, 0].copy()),
        torch.from_numpy(places[:, 1].copy()),
        torch.from_numpy(stacked).float(),
    )


def _central_cells(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return []
    step = SIDE / GRID
    spans = []
    for places in (rows, columns):
        half = CENTRE_REGION * (places.max() - places.min() + 1) / 2
        low, high = places.mean() + 0.5 - half, places.mean() + 0.5 + half
        spans.append(range(int(max(low, 0) // step), int(min(high, SIDE - 1e-6) // step) + 1))
    return [row * GRID + column for row in spans[0] for column in spans[1]]


def _moved(targets: GridTargets, device: torch.device) -> GridTargets:
    return GridTargets(
        targets.cells.to(device), targets.image.to(device), targets.cell.to(device), targets.masks.to(device)
    )


# ------------------------------------------------------------------------------------------------ finding instances


@torch.no_grad()
def segment(segmenter: Segmenter, images: Tensor, threshold: float = 0.1, candidates: int = 30) -> list[Instances]:
    """The objects of each image [N, 3, 64, 64] in [0, 1], duplicates fading out by matrix NMS (SOLOv2 §3.4).

    A score is the cell's probability times the mean mask probability inside its mask, decayed by overlap with better
    cells; objects below `threshold` are dropped. At most `candidates` cells an image are considered.
    """
    with frozen_precision(images.device):
        logits, kernels, features = segmenter(images)
    found = []
    for number in range(len(images)):
        probabilities, words = logits[number].flatten(1).sigmoid().max(0)
        cells = probabilities.topk(min(candidates, GRID * GRID)).indices
        cells = cells[probabilities[cells] > threshold]
        soft = masks_of(kernels, features, torch.full_like(cells, number), cells).sigmoid()
        hard = (soft > 0.5).float()
        area = hard.sum((1, 2))
        scores = probabilities[cells] * (soft * hard).sum((1, 2)) / area.clamp(min=1)
        order = scores.argsort(descending=True)
        order = order[area[order] > 0]
        scores = scores[order] * _matrix_nms(hard[order].flatten(1))
        keep = (scores > threshold).nonzero()[:, 0]
        keep = keep[scores[keep].argsort(descending=True)]
        found.append(
            Instances(
                hard[order][keep].bool().cpu().numpy(),
                scores[keep].double().cpu().numpy(),
                [segmenter.concepts[int(words[cells[order[k]]])] for k in keep],
            )
        )
    return found


def _matrix_nms(masks: Tensor) -> Tensor:
    """Decay factors [K] of masks [K, pixels] sorted best first: Gaussian in the overlap with every better mask."""
    area = masks.sum(1)
    if not len(masks):
        return area
    overlap = masks @ masks.T
    iou = (overlap / (area[:, None] + area[None] - overlap).clamp(min=1)).triu(1)
    compensation = iou.max(0).values[:, None]
    return torch.exp(-NMS_SIGMA * (iou**2 - compensation**2)).amin(0)


# ------------------------------------------------------------------------------------------------ files


def save(segmenter: Segmenter, folder: Path, facts: dict[str, Any]) -> None:
    """Write model.safetensors and config.json (architecture plus `facts`, such as held-out figures) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_half(segmenter.state_dict(), folder / "model.safetensors")
    config = {"format": "unifl-segmenter-1", "width": segmenter.width, "concepts": list(segmenter.concepts), **facts}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path, device: torch.device | str = "cpu") -> Segmenter:
    """The frozen segmenter of `folder`, in evaluation mode. Raises ModelLoadError when it is missing or unreadable."""
    remedy = "restore the folder with `dvc pull`, or run `unifl segmentation_model`"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        segmenter = Segmenter(config["concepts"], config["width"])
        segmenter.load_state_dict(load_float(folder / "model.safetensors"))
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelLoadError(
            f"the segmenter cannot be loaded: {reason}",
            file=folder,
            expected="model.safetensors and config.json",
            remedy=remedy,
        ) from error
    segmenter.requires_grad_(False).eval().to(device)
    return segmenter


# ------------------------------------------------------------------------------------------------ building blocks


def _convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(width, width, dilation=dilation), _convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _with_coordinates(x: Tensor) -> Tensor:
    """Two channels with the position in [-1, 1]: convolutions alone do not know where they are (SOLO §3.2)."""
    rows = torch.linspace(-1, 1, x.shape[2], device=x.device, dtype=x.dtype)
    columns = torch.linspace(-1, 1, x.shape[3], device=x.device, dtype=x.dtype)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(len(x), -1, -1, -1)
    return torch.cat([x, grid], 1)
