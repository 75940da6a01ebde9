"""Feedback objectives, one file each: ``Objective(adapter, batch, generator) -> loss, logs``.

An update of the engine sums weighted objectives, each with its own start and batches (arXiv 2404.05595 §3: L1
and L2 are such sums). A new feedback is one more file here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.randomness import Randomness
from unifl.feedback.batches import Batch

Logs = dict[str, float]


class Objective(ABC):
    """One branch of feedback: a scalar loss for the diffusion model, and perhaps trainable parts of its own.

    ``name`` is the key of its loss in the training log.
    """

    name: str

    @abstractmethod
    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: Randomness) -> tuple[Tensor, Logs]:
        """Scalar loss with a graph to the UNet's parameters, and further numbers worth logging under keys of their own.

        ``generator`` is the only source of randomness, so that a resumed run draws the same numbers.
        """

    def after_update(self) -> Logs:
        """Called once the UNet was updated: an objective with parts of its own (a discriminator) trains them here."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint needs to continue exactly; empty for an objective that learns nothing itself."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave."""
        if state:
            raise ValueError(f"{self.name} keeps no state, but the checkpoint has some")


def parameter_count(model: nn.Module) -> int:
    """All parameters of a model, whether they learn or not."""
    return sum(parameter.numel() for parameter in model.parameters())
