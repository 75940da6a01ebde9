"""Nearest-neighbour compression: drops prompts that say almost what a kept prompt says (arXiv 2404.05595 Algorithm 2).

Walks the prompts in random order, keeps each one that is not suppressed and suppresses its k nearest neighbours with a
cosine similarity above the threshold, until no two kept neighbours exceed it. The paper does not give k: it is doubled
until no larger k can change the survivors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unifl.prompts.similarity import NeighbourLists

FIRST_K = 1
"""Where the sweep over k starts; the survivors do not depend on it."""


@dataclass(frozen=True)
class KTrial:
    """One k of the sweep: survivors, walks that it took, and how many fates differ from the final ones."""

    k: int
    kept: int
    walks: int
    differs: int


@dataclass(frozen=True)
class Compression:
    """Survivors of a compression.

    Attributes:
        kept: indices in ascending order.
        k: the smallest k of the sweep whose survivors are those of every larger k that was tried.
        sweep: one entry a k, in ascending order; the last k is no smaller than the largest neighbourhood above the
            threshold, so that no larger k can change anything.
    """

    kept: NDArray[np.int64]
    k: int
    sweep: tuple[KTrial, ...]


def compress(neighbours: NeighbourLists, seed: int) -> Compression:
    """Compress to prompts of which no two are neighbours; every dropped prompt has a neighbour among the kept ones.

    Args:
        neighbours: all pairs above the threshold.
        seed: of the random order in which prompts are walked.
    """
    order = np.random.default_rng(seed).permutation(neighbours.size)
    ks = [FIRST_K]
    while ks[-1] < neighbours.largest:
        ks.append(2 * ks[-1])
    ks.append(2 * ks[-1])  # so that the doubling is shown even where the first k is enough
    results = [survivors(neighbours, order, k) for k in ks]
    final = results[-1][0]
    sweep = tuple(
        KTrial(k, len(kept), walks, len(np.setxor1d(kept, final))) for k, (kept, walks) in zip(ks, results, strict=True)
    )
    last_change = max((position for position, trial in enumerate(sweep) if trial.differs), default=-1)
    return Compression(final, ks[last_change + 1], sweep)


def survivors(neighbours: NeighbourLists, order: NDArray[np.int64], k: int) -> tuple[NDArray[np.int64], int]:
    """Walk ``order`` with ``k`` neighbours each, again among the survivors until no two of them are neighbours.

    Returns:
        the kept indices in ascending order, and the number of walks. With k at least ``neighbours.largest`` one walk is
        enough.
    """
    walks = 0
    walked, lists = order, neighbours.among(order)
    while True:
        kept = _walk(lists, k)
        walks += 1
        walked, lists = walked[kept], lists.among(kept)
        if lists.largest == 0:
            return np.sort(walked), walks


def _walk(lists: NeighbourLists, k: int) -> NDArray[np.int64]:
    """Positions kept by one walk in ascending order of position."""
    suppressed = np.zeros(lists.size, bool)
    kept = []
    for position in range(lists.size):
        if not suppressed[position]:
            kept.append(position)
            suppressed[lists.of(position, k)] = True
    return np.array(kept, np.int64)
