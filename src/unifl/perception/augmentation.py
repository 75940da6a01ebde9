"""Random changes of training images that evaluation and perception models must not mind: flips, shifts, tone, softness.

The images that these models look at later come out of a small autoencoder, a little soft and off in tone; whoever
trains on clean drawings alone is surprised by them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


def flipped(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirror each image [N, C, H, W] left to right with probability one half; also returns the choice, bool [N]."""
    choice = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(choice[:, None, None, None], images.flip(3), images), choice


def shifted(images: Tensor, pixels: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Move each image [N, C, H, W] by up to `pixels` in both directions, edge pixels repeated.

    Also returns the offsets int64 [N, 2] (down, right).
    """
    offsets = torch.randint(-pixels, pixels + 1, (len(images), 2), generator=generator)
    return _moved(images, offsets), offsets


def _moved(images: Tensor, offsets: Tensor) -> Tensor:
    height, width = images.shape[2:]
    rows = (torch.arange(height)[None] - offsets[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width)[None] - offsets[:, 1:]).clamp(0, width - 1)
    number = torch.arange(len(images))[:, None, None]
    pixels: Tensor = torch.movedim(images, 1, 3)[number, rows[:, :, None], columns[:, None, :]]
    moved: Tensor = pixels.permute(0, 3, 1, 2)
    return moved


def toned(images: Tensor, generator: torch.Generator, strength: float = 0.15) -> Tensor:
    """Change brightness, contrast and saturation of each image [N, 3, H, W] in [0, 1] by up to ± `strength`."""
    brightness, contrast, saturation = 1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1, generator=generator) - 1)
    gray = images.mean(1, keepdim=True)
    images = gray + (images - gray) * saturation
    middle = images.mean((1, 2, 3), keepdim=True)
    result: Tensor = ((middle + (images - middle) * contrast) * brightness).clamp(0, 1)
    return result


def softened(images: Tensor, generator: torch.Generator, noise: float = 0.02) -> Tensor:
    """Blend each image [N, 3, H, W] by a random share with its 3 x 3 blur and add a little pixel noise."""
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(len(images), 1, 1, 1, generator=generator)
    amount = noise * torch.rand(len(images), 1, 1, 1, generator=generator)
    return (images + share * (blurred - images) + amount * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def half_softened(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Every second picture of uint8 [N, H, W, 3] a little soft, noisy and off in tone, the others as they were."""
    generator = torch.Generator().manual_seed(seed)
    result = images.copy()
    for start in range(1, len(images), 512):
        rows = slice(start, min(start + 511, len(images)), 2)
        chosen = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float() / 255
        changed = softened(toned(chosen, generator, strength=0.08), generator)
        result[rows] = (changed * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return result
