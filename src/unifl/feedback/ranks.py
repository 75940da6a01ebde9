"""Data parallel training: which process this is among those that torchrun has started, and averages over all of them.

Each process computes its own part of every batch; gradients are averaged before the update, so all processes hold the
same weights. Built on accelerate's PartialState (gloo on CPUs, NCCL on GPUs). A process alone needs none of it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unifl.core.errors import SettingsError

WORLD_SIZE_VARIABLE = "WORLD_SIZE"
"""Set by torchrun; the number of processes."""

BUCKET_ELEMENTS = 2**24
"""Gradients are averaged in pieces of so many numbers (64 MiB), to bound what the copy needs."""


@dataclass(frozen=True)
class Part:
    """Part `index` of `count` equal parts of a batch."""

    index: int = 0
    count: int = 1

    def rows(self, batch_size: int) -> tuple[int, int]:
        """(first row, number of rows) of this part. Raises SettingsError when the parts would not be equal."""
        if batch_size % self.count:
            raise SettingsError(
                f"a batch of {batch_size} can't be divided among {self.count} processes",
                expected=f"a batch_size that is a multiple of {self.count}",
                remedy="change batch_size, or the number of nodes or GPUs",
            )
        size = batch_size // self.count
        return self.index * size, size


WHOLE = Part()


class Ranks:
    """The processes of this training and this one's place among them: `part.index` from 0, `part.count` in all."""

    def __init__(self, part: Part = WHOLE, state: Any = None) -> None:
        self.part = part
        self._state = state

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.part.index == 0

    @property
    def device(self) -> torch.device:
        """This process's own accelerator if there is one, else the CPU."""
        if self._state is not None:
            return torch.device(self._state.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def wait(self) -> None:
        """Return when every process has come here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def leave(self) -> None:
        """Take leave of the other processes at the end of all work."""
        if self._state is not None:
            self._state.destroy_process_group()

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its mean over all processes."""
        if self.part.count > 1:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            for bucket in _buckets(gradients):
                mean = self._mean(torch.cat([gradient.flatten() for gradient in bucket]))
                for gradient, values in zip(bucket, mean.split([g.numel() for g in bucket]), strict=True):
                    gradient.copy_(values.view_as(gradient))

    def average_logs(self, logs: Mapping[str, float]) -> dict[str, float]:
        """Each number's mean over all processes; all have the same keys."""
        if self.part.count == 1:
            return dict(logs)
        mean = self._mean(torch.tensor(list(logs.values()), dtype=torch.float64, device=self.device))
        return dict(zip(logs, mean.tolist(), strict=True))

    def _mean(self, values: Tensor) -> Tensor:
        from accelerate.utils import reduce

        mean: Tensor = reduce(values, "mean")
        return mean


def _buckets(tensors: list[Tensor]) -> Iterable[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(one.numel() for one in bucket) + tensor.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@functools.cache
def current_ranks() -> Ranks:
    """The processes that torchrun has started with this one; this one alone without torchrun.

    The first call of several processes waits until all are there.
    """
    if int(os.environ.get(WORLD_SIZE_VARIABLE, "1")) == 1:
        return Ranks()
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return Ranks(Part(state.process_index, state.num_processes), state)
