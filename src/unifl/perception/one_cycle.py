"""The training loop of segmenter and examiners: AdamW, one cycle of the learning rate (arXiv 1708.07120), exact resume.

A checkpoint holds everything the next update depends on: weights, running statistics, moments, both random generators
and the rest of the current pass over the data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unifl.core.checkpoint import Checkpoint, load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from unifl.core.errors import DivergenceError
from unifl.core.interruption import held_back
from unifl.core.progress import progress

CHECKPOINT_SECONDS = 30.0
"""The default interval of the steps, as that of the tuning steps (`unifl.feedback.settings`)."""


@dataclass(frozen=True)
class Checkpoints:
    """Where a training keeps its state, how often (seconds), and what makes it this training and no other.

    ``folder`` belongs to this training alone; it stays when the training is done, so that it is not done again.
    """

    folder: Path
    seconds: float = CHECKPOINT_SECONDS
    identity: Mapping[str, Any] = field(default_factory=dict)


class OneCycle:
    """Trains ``model`` for a number of updates; ``order`` and ``generator`` are the caller's, to draw its batches with.

    Attributes:
        order: rows int64 of the current pass over the data, as the caller wants to find them at the next update.
        generator: random numbers of order and augmentation. Dropout takes the process's own generator.
        losses: one an update.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        updates: int,
        learning_rate: float,
        weight_decay: float,
        seed: int,
        description: str,
        warmup: float = 0.3,
        clip: float | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.model, self.updates, self.description, self.clip = model, updates, description, clip
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.empty(0, dtype=torch.long)
        self.losses: list[float] = []
        self.checkpoints = checkpoints
        self._identity = {
            "updates": updates, "learning_rate": learning_rate, "weight_decay": weight_decay, "seed": seed,
            "warmup": warmup, "clip": clip, **(checkpoints.identity if checkpoints else {}),
        }  # fmt: skip
        self._optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, learning_rate, total_steps=updates, pct_start=warmup
        )
        self._saved = 0
        self._whole = True

    def run(self, loss: Callable[[int], Tensor]) -> list[float]:
        """Train from the last checkpoint, if there is one, to the last update; gives the loss of every update.

        ``loss`` takes the number of updates that are done. An interruption waits for the end of an update, then leaves
        a checkpoint. Raises DivergenceError when a loss is not finite, SettingsError when the checkpoint is another
        training's. The model is in evaluation mode afterwards.
        """
        self.model.train()
        self._resume()
        saved_at = time.monotonic()
        try:
            for done in progress(self.updates, self.description, "updates", start=len(self.losses)):
                with held_back():
                    self._whole = False
                    self._update(loss(done))
                    self._whole = True
                if done + 1 == self.updates or self._is_due(time.monotonic() - saved_at):
                    self._save()
                    saved_at = time.monotonic()
        except KeyboardInterrupt:
            if self._whole and self._saved < len(self.losses):
                self._save()
            raise
        self.model.eval()
        return self.losses

    def _update(self, value: Tensor) -> None:
        if not torch.isfinite(value):
            raise DivergenceError(
                f"{self.description}: the loss is {value.item()} after {len(self.losses)} updates",
                remedy="lower the learning rate",
            )
        self._optimizer.zero_grad(set_to_none=True)
        value.backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self._optimizer.step()
        self._schedule.step()
        self.losses.append(value.item())

    def _is_due(self, seconds: float) -> bool:
        return self.checkpoints is not None and seconds >= self.checkpoints.seconds

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        with held_back():
            state = {
                "generator": self.generator.get_state(),
                "process_generator": torch.get_rng_state(),
                "order": self.order,
                "losses": torch.tensor(self.losses, dtype=torch.float64),
            }
            groups = {"model": self.model.state_dict(), "optimizer": optimizer_tensors(self._optimizer), "loop": state}
            save_checkpoint(self.checkpoints.folder, Checkpoint(len(self.losses), groups), self._identity)
            self._saved = len(self.losses)

    def _resume(self) -> None:
        found = load_checkpoint(self.checkpoints.folder, self._identity) if self.checkpoints else None
        if found is None:
            return
        self.model.load_state_dict(found.tensors["model"])
        restore_optimizer(self._optimizer, found.tensors["optimizer"])
        # Rate and momentum follow from the number of updates alone: one step back, and the schedule sets both.
        position = {"last_epoch": found.update - 1, "_step_count": found.update}
        self._schedule.load_state_dict({**self._schedule.state_dict(), **position})
        self._schedule.step()
        state = found.tensors["loop"]
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["process_generator"])
        self.order = state["order"]
        self.losses = state["losses"].tolist()
        self._saved = found.update
