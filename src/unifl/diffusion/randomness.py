"""Random numbers of a batch, the same whether one process computes the batch or several compute a part each.

Every process draws the whole batch's numbers and keeps its own rows: cheap beside a forward, and the result of data
parallel training does not depend on the number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PartOfBatch:
    """A generator of which this process uses the rows from `first` on; `total` rows are drawn for the whole batch."""

    generator: torch.Generator
    first: int
    total: int


Randomness = torch.Generator | PartOfBatch


def normal(shape: tuple[int, ...], source: Randomness | None, dtype: torch.dtype | None = None) -> Tensor:
    """Standard normal numbers of `shape` [N, ...] on the CPU, of this process's N samples."""
    if isinstance(source, PartOfBatch):
        whole = torch.randn((source.total, *shape[1:]), generator=source.generator, dtype=dtype)
        return whole[source.first : source.first + shape[0]]
    return torch.randn(shape, generator=source, dtype=dtype)


def integers(low: int, high: int, count: int, source: Randomness) -> Tensor:
    """`count` integers from `low` up to and without `high`, int64 on the CPU, of this process's samples."""
    if isinstance(source, PartOfBatch):
        whole = torch.randint(low, high, (source.total,), generator=source.generator)
        return whole[source.first : source.first + count]
    return torch.randint(low, high, (count,), generator=source)


def uniform(shape: tuple[int, ...], source: Randomness) -> Tensor:
    """Numbers of `shape` [N, ...], uniform in [0, 1), on the CPU, of this process's N samples."""
    if isinstance(source, PartOfBatch):
        whole = torch.rand((source.total, *shape[1:]), generator=source.generator)
        return whole[source.first : source.first + shape[0]]
    return torch.rand(shape, generator=source)
