"""Batches for feedback learning, each a function of its number alone: the data position of a resumed run is a count.

Images with captions and masks feed perceptual and adversarial feedback (arXiv 2404.05595 §3.1, §3.3), curated
prompts feed decoupled feedback (§3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifl.core.errors import DataContractError
from unifl.data.contracts import ImageTable
from unifl.feedback.ranks import WHOLE, Part


@dataclass(frozen=True)
class Batch:
    """N captions and, where the source has images, what belongs to them.

    ``images`` [N, 3, H, W] float32 in [0, 1]; ``masks`` one bool [K, H, W] an image; ``concepts`` K names an image.
    """

    captions: list[str]
    images: Tensor | None = None
    masks: list[NDArray[np.bool_]] | None = None
    concepts: list[list[str]] | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def real_images(self) -> Tensor:
        """``images``; raises ValueError when this batch has prompts only."""
        if self.images is None:
            raise ValueError("this objective needs images, but its batches hold prompts only")
        return self.images


class BatchSource(Protocol):
    """Anything that gives batch ``number`` (0, 1, 2, ...) or a part of it, the same one each time it is asked."""

    def batch(self, number: int, part: Part = WHOLE) -> Batch: ...


class ShuffledRows:
    """Rows 0..size-1 in a new random order an epoch, addressed by position so that nothing has to be remembered."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def rows(self, first: int, count: int) -> list[int]:
        """The rows at positions first .. first + count - 1 of the endless sequence of epochs."""
        return [self._row(position) for position in range(first, first + count)]

    def _row(self, position: int) -> int:
        epoch, offset = divmod(position, self.size)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.size)
            self._epoch = epoch
        return int(self._order[offset])


class ImageBatches:
    """Batches of the training split of an image folder, with masks and concepts when asked for.

    Raises DataContractError when the split (or the part of it in ``styles``) is empty.
    """

    def __init__(
        self,
        table: ImageTable,
        batch_size: int,
        seed: int,
        *,
        split: str = "train",
        with_masks: bool = False,
        styles: Sequence[str] | None = None,
    ) -> None:
        frame = table.split(split)
        if styles is not None:
            frame = frame[frame["style"].isin(list(styles))].reset_index(drop=True)
        if frame.empty:
            raise DataContractError(
                f"no image to train on in split {split!r}" + (f" with style in {list(styles)}" if styles else ""),
                file=table.folder,
                expected="at least one row",
                remedy="restore the images with `dvc pull` or widen the styles",
            )
        self.table = table
        self.frame = frame
        self.batch_size = batch_size
        self.with_masks = with_masks
        self._order = ShuffledRows(len(frame), seed)

    def batch(self, number: int, part: Part = WHOLE) -> Batch:
        """Batch ``number``; raises DataContractError when a picture cannot be decoded."""
        first, count = part.rows(self.batch_size)
        rows = self.frame.iloc[self._order.rows(number * self.batch_size + first, count)]
        ids = [str(image_id) for image_id in rows["image_id"]]
        pixels = torch.from_numpy(self.table.pixels(ids)).permute(0, 3, 1, 2).float() / 255
        captions = [str(caption) for caption in rows["caption"]]
        if not self.with_masks:
            return Batch(captions, pixels)
        masks = [self.table.masks(image_id) for image_id in ids]
        concepts = [[str(concept) for concept in names] for names in rows["concepts"]]
        return Batch(captions, pixels, masks, concepts)


class PromptBatches:
    """Batches of prompts. Raises DataContractError when there are none."""

    def __init__(self, prompts: Sequence[str], batch_size: int, seed: int) -> None:
        if not prompts:
            raise DataContractError("no prompt to train on", expected="at least one row in the selected prompts")
        self.prompts = list(prompts)
        self.batch_size = batch_size
        self._order = ShuffledRows(len(self.prompts), seed)

    def batch(self, number: int, part: Part = WHOLE) -> Batch:
        """Batch ``number``: captions only."""
        first, count = part.rows(self.batch_size)
        return Batch([self.prompts[row] for row in self._order.rows(number * self.batch_size + first, count)])
