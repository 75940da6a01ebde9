"""Multi-view feedback: one decoded image judged whole and as several crops, scales and flips of itself.

A judge that sees each picture at one scale and place can be fooled by what only works there; the mean over random views
is harder to fool (the differentiable augmentation of arXiv 2006.10738, the cut-outs of CLIP guidance). Views share one
decode, cost a pass of the judge each, and are drawn after everything else, so that runs with and without them
start from the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifl.core.errors import SettingsError
from unifl.diffusion.randomness import Randomness, uniform
from unifl.feedback.batches import Batch

JUDGED_IN_VIEWS = frozenset({"color", "lighting"})
"""Axes whose frozen reward may be averaged over views. Layout may not: a crop changes the composition, a flip turns "to
the left of" round. Detail may not: resampling alone lowers it by 0.31 at a crop of 0.9 (160 validation images, in
standard deviations of its scores; color and lighting by at most 0.03 down to 0.8), which its hinge would answer with
noise. The discriminator may, although it starts from detail: real and predicted images are resampled alike."""


@dataclass(frozen=True)
class MultiView:
    """How views are drawn: ``count`` beside the whole image, each a square share of its sides, uniform from
    ``crop_min`` to ``crop_max``, at a uniform place, mirrored with probability one half where ``flips``.

    Raises SettingsError for shares that are not 0 < crop_min <= crop_max <= 1.
    """

    count: int = 0
    crop_min: float = 0.8
    crop_max: float = 1.0
    flips: bool = True

    def __post_init__(self) -> None:
        if self.count < 0 or not 0 < self.crop_min <= self.crop_max <= 1:
            raise SettingsError(
                f"{self.count} views with crops of {self.crop_min} to {self.crop_max} of the sides",
                expected="views >= 0 and 0 < view_crop_min <= view_crop_max <= 1",
            )

    def draw(self, images: int, source: Randomness) -> DrawnViews:
        """Views for a batch of ``images``, every image with places of its own. Draws nothing where ``count`` is 0."""
        if not self.count:
            return DrawnViews([])
        drawn = []
        for _ in range(self.count):
            side, left, top, mirror = uniform((images, 4), source).unbind(1)
            share = self.crop_min + (self.crop_max - self.crop_min) * side
            mirrored = mirror < 0.5 if self.flips else torch.zeros_like(mirror, dtype=torch.bool)
            drawn.append(Places(share, (1 - share) * left, (1 - share) * top, mirrored))
        return DrawnViews(drawn)


@dataclass(frozen=True)
class Places:
    """One view of N images: ``share`` of both sides, from ``left`` and ``top`` (shares too), ``mirrored`` or not."""

    share: Tensor
    left: Tensor
    top: Tensor
    mirrored: Tensor

    def of(self, images: Tensor) -> Tensor:
        """The view of ``images`` [N, C, H, W], enlarged bilinearly to [N, C, H, W]; differentiable.

        Two products with interpolation matrices: unlike ``grid_sample`` their gradient is deterministic on GPUs.
        """
        height, width = images.shape[2:]
        rows = _interpolation(height, self.share, self.top)
        columns = _interpolation(width, self.share, self.left)
        columns = torch.where(self.mirrored[:, None, None], columns.flip(1), columns)
        return torch.einsum("nyh,nchw,nxw->ncyx", rows.to(images), images, columns.to(images))


class DrawnViews:
    """The views drawn for one batch; without any, every method gives back what it is given."""

    def __init__(self, places: Sequence[Places]) -> None:
        self.places = list(places)

    def of(self, images: Tensor) -> Tensor:
        """[(1 + views) N, C, H, W] of ``images`` [N, C, H, W]: the whole images, then each view of all of them."""
        if not self.places:
            return images
        return torch.cat([images, *(place.of(images) for place in self.places)])

    def repeated(self, rows: Tensor) -> Tensor:
        """What belongs to each image ([N, ...], such as its prompt's features), in the order of `of`."""
        return torch.cat([rows] * (1 + len(self.places))) if self.places else rows

    def mean(self, scores: Tensor) -> Tensor:
        """[N]: each image's mean over its views, of ``scores`` [(1 + views) N] in the order of `of`."""
        return scores.unflatten(0, (1 + len(self.places), -1)).mean(0) if self.places else scores

    def of_batch(self, batch: Batch) -> Batch:
        """The reference, cut and mirrored like the generated images: real images and masks, with their concepts.

        An object that a crop leaves out keeps its place with an empty mask.
        """
        if not self.places:
            return batch
        copies = 1 + len(self.places)
        return Batch(
            batch.captions * copies,
            None if batch.images is None else self.of(batch.images),
            None if batch.masks is None else [*batch.masks, *(m for place in self.places for m in _cut(place, batch))],
            None if batch.concepts is None else batch.concepts * copies,
        )


def _cut(place: Places, batch: Batch) -> list[NDArray[np.bool_]]:
    cut = []
    for number, masks in enumerate(batch.masks or []):
        one = slice(number, number + 1)
        here = Places(place.share[one], place.left[one], place.top[one], place.mirrored[one])
        cut.append((here.of(torch.from_numpy(masks)[None].float())[0] > 0.5).numpy())
    return cut


def _interpolation(size: int, share: Tensor, start: Tensor) -> Tensor:
    """Matrices [N, size, size] that enlarge the ``share`` [N] of ``size`` pixels from ``start`` [N] to all of them.

    Pixel centres are at half numbers, and a position outside the outermost centres reads the outermost pixel.
    """
    pixels = torch.arange(size, dtype=torch.float32)
    at = start[:, None] * size + (pixels + 0.5) * share[:, None] - 0.5
    at = at.clamp(0, size - 1)
    return (1 - (at[:, :, None] - pixels).abs()).clamp(min=0)
