"""Batches of preference pairs for objectives that learn from the pairs themselves, each side drawn from its derivation.

A file of preferences names images and how each side was derived from one (arXiv 2404.05595 §3.2 has votes on pairs, an
axis at a time); all four axes are one set here, as a method without reward models sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unifl.core.errors import DataContractError
from unifl.data import degradations
from unifl.data.contracts import ImageTable
from unifl.data.vocabulary import AXES
from unifl.feedback.batches import Batch, ShuffledRows
from unifl.feedback.ranks import WHOLE, Part
from unifl.rewards.pairs import Reference, pairs_of_split, read_votes


@dataclass(frozen=True)
class PreferenceBatch(Batch):
    """N prompts, with ``images`` the preferred side and ``rejected`` the other, each [N, 3, H, W] in [0, 1]."""

    rejected: Tensor | None = None

    def rejected_images(self) -> Tensor:
        """``rejected``; raises ValueError when there is none."""
        if self.rejected is None:
            raise ValueError("this batch of preference pairs lacks the rejected side")
        return self.rejected


class PreferenceBatches:
    """Batches of the decided pairs of a split, all axes mixed.

    Raises DataContractError for a file that `unifl.rewards.pairs` refuses, and for an axis without a pair.
    """

    def __init__(
        self, preferences: Path, images: ImageTable, batch_size: int, seed: int, *, split: str = "train"
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.pairs = [
            pair
            for axis in AXES
            for pair in pairs_of_split(read_votes(preferences, axis, images), split, None, preferences)
        ]
        self._order = ShuffledRows(len(self.pairs), seed)

    def batch(self, number: int, part: Part = WHOLE) -> PreferenceBatch:
        """Batch ``number``; raises DataContractError when a side can't be drawn, naming the pair."""
        first, count = part.rows(self.batch_size)
        pairs = [self.pairs[row] for row in self._order.rows(number * self.batch_size + first, count)]
        sides: list[Tensor] = []
        for name in ("preferred", "rejected"):
            drawn = []
            for pair in pairs:
                try:
                    drawn.append(self._drawn(getattr(pair, name)))
                except DataContractError as error:
                    raise DataContractError(
                        f"the {name} side of pair {pair.pair_id!r}: {error.message}",
                        expected=error.expected,
                        remedy="run `unifl validate_data`, or drop the pair",
                    ) from error
            sides.append(torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255)
        return PreferenceBatch([pair.prompt for pair in pairs], sides[0], rejected=sides[1])

    def _drawn(self, side: Reference) -> np.ndarray:
        image_id, derivation = side
        return degradations.apply(derivation, self.images.pixels([image_id])[0], self.images.masks(image_id))
