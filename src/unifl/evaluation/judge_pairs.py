"""Pairs on which the judges learn and are measured: drawn scenes, degradations of the family "judge", five annotators.

Reward models learn from the family "reward" (arXiv 2404.05595 §3.2); judges must not have seen those distortions, or a
model that exploits a reward would also fool the judge. Three kinds of pairs teach three things: against the untouched
image (what is wrong), between two strengths of one operation (how wrong), and between different pictures (a scale that
holds across pictures, which the mean score of a model needs).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unifl.core.progress import progress
from unifl.data import degradations

ANNOTATORS = 5  # votes a pair; the paper has 4 to 5 (arXiv 2404.05595 §4.1)
CERTAINTY = 7.0  # an annotator sees a difference d of strength with probability sigmoid(CERTAINTY * d)
KINDS = ("against untouched", "two strengths", "two pictures")
KIND_SHARES = (0.4, 0.3, 0.3)
LEAST_DIFFERENCE = 0.2  # of strength, between two degrees of one operation


@dataclass(frozen=True)
class JudgePairs:
    """P pairs over M images: images uint8 [M, H, W, 3]; a, b int64 [P] rows of it; votes float [P], share for a;
    truth bool [P], whether a is the less degraded one; kind int64 [P] into KINDS.
    """

    images: NDArray[np.uint8]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    votes: NDArray[np.float64]
    truth: NDArray[np.bool_]
    kind: NDArray[np.int64]


def draw_pairs(
    axis: str,
    images: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]],
    count: int,
    rng: np.random.Generator,
) -> JudgePairs:
    """`count` pairs of an axis from pictures [N, H, W, 3] with instance masks (N at least 2)."""
    pictures: list[NDArray[np.uint8]] = []
    strengths: list[float] = []

    def add(row: int, derivation: str) -> int:
        pictures.append(degradations.apply(derivation, images[row], masks[row]))
        parsed = degradations.parse(derivation)
        strengths.append(parsed.strength if parsed else 0.0)
        return len(pictures) - 1

    first, second = np.zeros(count, np.int64), np.zeros(count, np.int64)
    kinds = rng.choice(len(KINDS), size=count, p=KIND_SHARES)
    for pair in progress(count, f"drawing pairs for {axis}", "pairs"):
        row, other = (int(i) for i in rng.choice(len(images), 2, replace=False))
        worse = _derivation(axis, masks[row], rng)
        if KINDS[kinds[pair]] == "against untouched":
            better_row, better = row, degradations.UNTOUCHED
        elif KINDS[kinds[pair]] == "two strengths":
            worse, better = _two_strengths(worse, rng)
            better_row = row
        else:
            better_row, better = other, degradations.UNTOUCHED
        sides = [add(better_row, better), add(row, worse)]
        if rng.random() < 0.5:
            sides.reverse()
        first[pair], second[pair] = sides
    gap = np.array(strengths)[second] - np.array(strengths)[first]
    seen = 1 / (1 + np.exp(-CERTAINTY * gap))
    votes = rng.binomial(ANNOTATORS, seen) / ANNOTATORS
    return JudgePairs(np.stack(pictures), first, second, votes, gap > 0, kinds)


def _derivation(axis: str, masks: NDArray[np.bool_], rng: np.random.Generator) -> str:
    visible = int(masks.any(axis=(1, 2)).sum())
    return degradations.sample_derivation(axis, "judge", rng, objects=visible)


def _two_strengths(derivation: str, rng: np.random.Generator) -> tuple[str, str]:
    """(stronger, weaker) of one operation with one seed, at least LEAST_DIFFERENCE apart."""
    parsed = degradations.parse(derivation)
    assert parsed is not None
    strong = float(rng.uniform(degradations.WEAKEST + LEAST_DIFFERENCE, 1))
    weak = float(rng.uniform(degradations.WEAKEST, strong - LEAST_DIFFERENCE))
    return str(dataclasses.replace(parsed, strength=round(strong, 2))), str(
        dataclasses.replace(parsed, strength=round(weak, 2))
    )
