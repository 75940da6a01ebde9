"""From votes to pairs: the majority decides which side is preferred, its margin how much the pair counts.

First half of reward training (arXiv 2404.05595 §3.2: four to five annotators vote on a pair, one axis at a time).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unifl.core.errors import DataContractError
from unifl.data.contracts import ImageTable, read_preferences
from unifl.data.degradations import parse

if TYPE_CHECKING:
    import pandas as pd

Reference = tuple[str, str]  # image id, derivation


@dataclass(frozen=True)
class VotedPair:
    """A pair after the vote.

    `margin` in (0, 1] is the weight of the votes for the preferred side minus that of the others, over all.
    """

    pair_id: str
    axis: str
    prompt: str
    preferred: Reference
    rejected: Reference
    margin: float

    @property
    def operation(self) -> str:
        """The degradation of the pair's axis from which the rejected side suffers, or `untouched`."""
        parsed = parse(self.rejected[1])
        part = parsed.on(self.axis) if parsed is not None else None
        return part.operation if part is not None else "untouched"


def read_votes(path: Path, axis: str, images: ImageTable) -> pd.DataFrame:
    """The votes of one axis, indexed by their row in the file, with every reference checked against the images.

    Raises DataContractError, naming the row: whatever `read_preferences` refuses, no pair of the axis, an image that is
    not in the shards, a derivation that names nothing, votes of one pair that disagree on what the pair is.
    """
    frame = read_preferences(path)
    frame = frame[frame["axis"] == axis]
    if frame.empty:
        raise DataContractError(
            f"there is not one pair of the axis {axis}", file=path, expected="at least one row", remedy="add votes"
        )
    known = set(images.frame["image_id"])
    for side in ("a", "b"):
        missing = frame[~frame[f"image_{side}"].isin(known)]
        if len(missing):
            raise DataContractError(
                f"image_{side} {missing.iloc[0][f'image_{side}']!r} is not in the image shards",
                file=path,
                row=int(missing.index[0]),
                expected=f"an image_id of {images.folder}",
                remedy="use the images that the pairs were made from, or drop the pair",
            )
        for row, derivation in frame[f"derivation_{side}"].drop_duplicates().items():
            try:
                parse(derivation)
            except DataContractError as error:
                error.file, error.row = path, int(row)
                raise
    columns = ["prompt", "image_a", "derivation_a", "image_b", "derivation_b", "split"]
    differing = frame.groupby("pair_id", sort=False)[columns].nunique().max(axis=1)
    if (differing > 1).any():
        pair_id = differing[differing > 1].index[0]
        raise DataContractError(
            f"the votes of pair {pair_id!r} are about different images",
            file=path,
            row=int(frame.index[frame["pair_id"] == pair_id][0]),
            expected="one prompt, one split and two images a pair_id",
        )
    return frame


def majority(votes: pd.DataFrame) -> list[VotedPair]:
    """Pairs in the order of their first vote; pairs whose two sides weigh the same are left out, they say nothing."""
    for_a = votes["weight"].where(votes["preferred"] == "a", 0.0)
    grouped = votes.assign(for_a=for_a).groupby("pair_id", sort=False)
    first = grouped[["axis", "prompt", "image_a", "derivation_a", "image_b", "derivation_b"]].first()
    shares = grouped["for_a"].sum() / grouped["weight"].sum()
    pairs = []
    for row, share in zip(first.itertuples(), shares, strict=True):
        margin = abs(2 * float(share) - 1)
        if np.isclose(margin, 0.0, atol=1e-6):
            continue
        a, b = (row.image_a, row.derivation_a), (row.image_b, row.derivation_b)
        preferred, rejected = (a, b) if share > 0.5 else (b, a)
        pairs.append(VotedPair(row.Index, row.axis, row.prompt, preferred, rejected, margin))
    return pairs


def pairs_of_split(votes: pd.DataFrame, split: str, limit: int | None, file: Path) -> list[VotedPair]:
    """The voted pairs of a split, at most `limit`, first in the file first.

    Raises DataContractError when there is none.
    """
    pairs = majority(votes[votes["split"] == split])[:limit]
    if not pairs:
        raise DataContractError(
            f"there is not one decided pair of the axis {votes['axis'].iloc[0]} in the split {split}",
            file=file,
            expected=f"rows with split {split!r} whose votes are not tied",
        )
    return pairs
