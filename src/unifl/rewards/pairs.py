"""From votes to pairs: the majority decides which side is preferred, its margin how much the pair counts.

First half of reward training (arXiv 2404.05595 §3.2: four to five annotators vote on a pair, one axis at a time). The
axis `global` takes the pairs of all four together, for one reward of everything, as ImageReward is (arXiv 2304.05977).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unifl.core.errors import DataContractError
from unifl.data.contracts import ImageTable, read_preferences
from unifl.data.degradations import parse
from unifl.data.vocabulary import AXES

if TYPE_CHECKING:
    import pandas as pd

Reference = tuple[str, str]  # image id, derivation
GLOBAL = "global"


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
    """The votes of one axis, or of all for `global`, indexed by their row, with every reference checked.

    Raises DataContractError, naming the row: whatever `read_preferences` refuses, no pair of the axis, an image that is
    not in the shards, a derivation that names nothing, votes of one pair that disagree on what the pair is, an
    annotator's vote against an earlier one of the same annotator.
    """
    axes = AXES if axis == GLOBAL else (axis,)
    frame = read_preferences(path)
    frame = frame[frame["axis"].isin(axes)]
    for one in axes:
        if not (frame["axis"] == one).any():
            raise DataContractError(
                f"there is not one pair of the axis {one}", file=path, expected="at least one row", remedy="add votes"
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
    differing = frame.groupby(["axis", "pair_id"], sort=False)[columns].nunique().max(axis=1)
    if (differing > 1).any():
        on, pair_id = differing[differing > 1].index[0]
        raise DataContractError(
            f"the votes of pair {pair_id!r} are about different images",
            file=path,
            row=int(frame.index[(frame["axis"] == on) & (frame["pair_id"] == pair_id)][0]),
            expected="one prompt, one split and two images a pair_id",
        )
    _refuse_contradictions(frame, path)
    return frame


def _refuse_contradictions(frame: pd.DataFrame, path: Path) -> None:
    """Refuse one annotator who prefers each of two images to the other, for one prompt on one axis.

    The images count, not how the pair and its sides are called. No contradictions are: annotators who disagree (that is
    what the vote is for), another axis, and circles through three images, which Bradley-Terry takes for chance.
    """
    a, b = (frame[f"image_{side}"] + "\n" + frame[f"derivation_{side}"] for side in ("a", "b"))
    first = a < b
    votes = frame[["axis", "prompt", "annotator", "pair_id"]].assign(
        low=a.where(first, b), high=b.where(first, a), for_low=(frame["preferred"] == "a") == first
    )
    opinion = ["axis", "prompt", "low", "high", "annotator"]
    earlier_vote = votes.groupby(opinion, sort=False)["for_low"].transform("first")
    against = votes.index[votes["for_low"] != earlier_vote]
    if len(against):
        vote = votes.loc[against[0]]
        earlier = int(votes.index[(votes[opinion] == vote[opinion]).all(axis=1)][0])
        raise DataContractError(
            f"annotator {vote['annotator']} votes both ways on pair {vote['pair_id']!r}, here and in row {earlier}",
            file=path,
            row=int(against[0]),
            expected="one opinion of an annotator on two images",
            remedy="keep the vote that the annotator stands by and drop the other, or drop both",
        )


def majority(votes: pd.DataFrame) -> list[VotedPair]:
    """Pairs in the order of their first vote; pairs whose two sides weigh the same are left out, they say nothing."""
    for_a = votes["weight"].where(votes["preferred"] == "a", 0.0)
    grouped = votes.assign(for_a=for_a).groupby(["axis", "pair_id"], sort=False)
    first = grouped[["prompt", "image_a", "derivation_a", "image_b", "derivation_b"]].first()
    shares = grouped["for_a"].sum() / grouped["weight"].sum()
    pairs = []
    for row, share in zip(first.itertuples(), shares, strict=True):
        margin = abs(2 * float(share) - 1)
        if np.isclose(margin, 0.0, atol=1e-6):
            continue
        a, b = (row.image_a, row.derivation_a), (row.image_b, row.derivation_b)
        preferred, rejected = (a, b) if share > 0.5 else (b, a)
        axis, pair_id = row.Index
        pairs.append(VotedPair(pair_id, axis, row.prompt, preferred, rejected, margin))
    return pairs


def pairs_of_split(votes: pd.DataFrame, split: str, limit: int | None, file: Path) -> list[VotedPair]:
    """The voted pairs of a split, at most `limit`, first in the file first; of several axes in turn, as many of each.

    Raises DataContractError when an axis has none, or only such as Bradley-Terry learns nothing from.
    """
    found = majority(votes[votes["split"] == split])
    by_axis = []
    for axis in votes["axis"].unique():
        pairs = [pair for pair in found if pair.axis == axis]
        if not pairs:
            raise DataContractError(
                f"there is not one decided pair of the axis {axis} in the split {split}",
                file=file,
                expected=f"rows with split {split!r} whose votes are not tied",
            )
        reason = unlearnable(pairs)
        if reason:
            raise DataContractError(
                f"the axis {axis} has one class only in the split {split}: {reason}",
                file=file,
                row=int(votes.index[(votes["axis"] == axis) & (votes["split"] == split)][0]),
                expected="pairs that prefer several images to several others",
                remedy="add votes on pairs of other images, or drop the axis",
            )
        by_axis.append(pairs)
    in_turn = [pair for pair in chain.from_iterable(zip_longest(*by_axis)) if pair is not None]
    return in_turn[:limit]


def unlearnable(pairs: Sequence[VotedPair]) -> str | None:
    """Why a Bradley-Terry model learns no axis from these pairs, or None when nothing speaks against it.

    Its classes are the preferred and the rejected images; which of them a file calls side a does not matter. There is
    one class when all pairs share their preferred or their rejected image (then that image is learned, by heart), and
    when the pairs take each other back, so that equal scores are the best answer.
    """
    for side in ("preferred", "rejected"):
        images = {getattr(pair, side) for pair in pairs}
        if len(images) == 1:
            return f"every pair has the one {side} image {images.pop()[0]!r}"
    balance: defaultdict[tuple[str, str, Reference, Reference], float] = defaultdict(float)
    for pair in pairs:
        low, high = sorted((pair.preferred, pair.rejected))
        balance[pair.axis, pair.prompt, low, high] += pair.margin if pair.preferred == low else -pair.margin
    if all(abs(weight) < 1e-6 for weight in balance.values()):
        return "for every pair another one takes it back"
    return None
