"""Exact cosine similarities between prompts by blocked matrix products: the neighbours and the ANS of a prompt set.

ANS (average nearest similarity) is the measure of active prompt selection (arXiv 2404.05595 §3.2 and its ablation); the
pairs above a threshold are what nearest-neighbour compression works on. n prompts cost n² x 192 multiplications (each
pair once), in blocks that keep memory flat; only the pairs above the threshold are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Embeddings = NDArray[np.float32]
"""float32 [N, D] with rows of length 1."""

BLOCK = 2048
"""Rows of a block: 2048 x 2048 float32 is 16 MB, and larger ones are no faster."""


@dataclass(frozen=True)
class NeighbourLists:
    """For every prompt its neighbours above a threshold, the most similar first (ties: the lower index first).

    Row i's neighbours are ``indices[starts[i]:starts[i + 1]]``. The first k of them are what a k-nearest-neighbour
    search finds above the threshold, so one graph answers for every k. The relation is symmetric; nobody is its own
    neighbour.
    """

    starts: NDArray[np.int64]
    indices: NDArray[np.int32]

    @property
    def size(self) -> int:
        """Number of prompts."""
        return len(self.starts) - 1

    @property
    def largest(self) -> int:
        """The largest number of neighbours above the threshold that one prompt has."""
        return int(np.diff(self.starts).max(initial=0))

    def of(self, prompt: int, k: int | None = None) -> NDArray[np.int32]:
        """Neighbours of one prompt, at most ``k`` of them."""
        start, end = self.starts[prompt], self.starts[prompt + 1]
        return self.indices[start : end if k is None else min(int(end), int(start) + k)]

    def among(self, prompts: NDArray[np.int64]) -> NeighbourLists:
        """The lists of a subset, renumbered by position in ``prompts``."""
        position = np.full(self.size, -1, np.int32)
        position[prompts] = np.arange(len(prompts), dtype=np.int32)
        lists = [position[self.of(int(prompt))] for prompt in prompts]
        lists = [one[one >= 0] for one in lists]
        starts = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
        return NeighbourLists(starts, np.concatenate([np.zeros(0, np.int32), *lists]))


def neighbours_above(embeddings: Embeddings, threshold: float) -> NeighbourLists:
    """Find all pairs with cosine similarity above ``threshold`` (strictly), exactly.

    Args:
        embeddings: float32 [N, D], rows of length 1.
        threshold: in -1..1.
    """
    size = len(embeddings)
    left: list[NDArray[np.int32]] = []
    right: list[NDArray[np.int32]] = []
    cosines: list[NDArray[np.float32]] = []
    for row, column, block in _upper_blocks(embeddings):
        rows, columns = np.nonzero(block > threshold)
        left.append((rows + row).astype(np.int32))
        right.append((columns + column).astype(np.int32))
        cosines.append(block[rows, columns])
    sources = np.concatenate([np.zeros(0, np.int32), *left, *right])
    targets = np.concatenate([np.zeros(0, np.int32), *right, *left])
    order = np.lexsort((targets, -np.concatenate([np.zeros(0, np.float32), *cosines, *cosines]), sources))
    starts = np.concatenate([[0], np.cumsum(np.bincount(sources, minlength=size))]).astype(np.int64)
    return NeighbourLists(starts, targets[order])


def nearest_similarity(embeddings: Embeddings) -> NDArray[np.float32]:
    """Cosine similarity of every prompt with its nearest other prompt, float32 [N] in -1..1. Needs two prompts."""
    if len(embeddings) < 2:
        raise ValueError("the nearest other prompt needs at least two prompts")
    nearest = np.full(len(embeddings), -np.inf, np.float32)
    for row, column, block in _upper_blocks(embeddings):
        rows, columns = slice(row, row + block.shape[0]), slice(column, column + block.shape[1])
        nearest[rows] = np.maximum(nearest[rows], block.max(axis=1))
        nearest[columns] = np.maximum(nearest[columns], block.max(axis=0))
    return nearest


def average_nearest_similarity(embeddings: Embeddings) -> float:
    """ANS: the mean of :func:`nearest_similarity`. Lower is more diverse; it grows with the number of prompts."""
    return float(nearest_similarity(embeddings).mean(dtype=np.float64))


def _upper_blocks(embeddings: Embeddings) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Yield (first row, first column, cosines) for the pairs row < column; other entries of a block are -inf.

    Each pair is computed once, so that the relation is symmetric to the last bit.
    """
    for row in range(0, len(embeddings), BLOCK):
        rows = embeddings[row : row + BLOCK]
        for column in range(row, len(embeddings), BLOCK):
            block = rows @ embeddings[column : column + BLOCK].T
            if row == column:
                block[np.tril_indices(len(rows))] = -np.inf
            yield row, column, block
