"""The feedback engine: weighted objectives summed into updates of the UNet, the same for every kind of feedback.

arXiv 2404.05595 §3 gives the sums (L1 = L_pefl + L_aes, L2 = L_G + L_D + L_aes); the engine adds what any of
them needs: warm-up, accumulation, clipping, averaging, exact resume, a log line an update, and refusal of
numbers that are not finite.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unifl.core.errors import DivergenceError, SettingsError
from unifl.core.progress import progress
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.feedback.batches import BatchSource
from unifl.feedback.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from unifl.feedback.guard import Guard
from unifl.feedback.objectives import Logs, Objective
from unifl.feedback.parameters import LOG_NAME, TrainableParameters
from unifl.feedback.settings import EngineSettings


@dataclass(frozen=True)
class Term:
    """One summand of an update: an objective, where its batches come from, and its weight in the sum."""

    objective: Objective
    batches: BatchSource
    weight: float = 1.0


class FeedbackEngine:
    """Trains an adapter's UNet on a weighted sum of objectives.

    ``checkpoints`` is a folder that belongs to this run alone and survives a kill; the log lies there as
    ``training.jsonl``, an object an update: update (from 1), loss, each objective's loss and terms, grad_norm, lr.
    ``guard`` may end the training early, with the weights of its best inspection.

    Raises SettingsError when no term has weight, or when the folder holds a checkpoint of other settings.
    """

    def __init__(
        self,
        adapter: DiffusionAdapter,
        terms: Sequence[Term],
        settings: EngineSettings,
        checkpoints: Path,
        description: str = "feedback learning",
        guard: Guard | None = None,
    ) -> None:
        self.terms = [term for term in terms if term.weight > 0]
        if not self.terms:
            raise SettingsError("there is nothing to learn: the weights of all objectives are 0")
        names = [term.objective.name for term in self.terms]
        if len(set(names)) != len(names):
            raise SettingsError(f"two objectives have one name: {', '.join(names)}")
        self.adapter = adapter
        self.settings = settings
        self.checkpoints = checkpoints
        self.description = description
        self.guard = guard
        self.log_file = checkpoints / LOG_NAME
        torch.manual_seed(settings.seed)
        self.parameters = TrainableParameters(adapter, settings.lora_rank, settings.ema_decay)
        if settings.gradient_checkpointing:
            adapter.unet.enable_gradient_checkpointing()
        self.optimizer = torch.optim.AdamW(
            self.parameters.tensors(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def run(self) -> list[dict[str, float]]:
        """Train to the last update, from the last checkpoint if there is one; gives the whole log.

        Raises DivergenceError, naming update, term and remedy, when a loss or gradient is not finite.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        done = self._resume()
        log = self._log_up_to(done)
        self.adapter.unet.train()
        last = self.settings.updates
        if self._stopped_by_guard(done):
            return log
        with self.log_file.open("a", encoding="utf-8") as file:
            updates = range(done + 1, last + 1)
            for update in progress(updates, self.description, "updates", start=done):
                line = self._update(update)
                log.append(line)
                file.write(json.dumps(line, allow_nan=False) + "\n")
                file.flush()
                stopped = self._stopped_by_guard(update)
                if stopped or update % self.settings.checkpoint_every == 0 or update == last:
                    self._save(update)
                if stopped:
                    break
        self.adapter.unet.eval()
        return log

    def _stopped_by_guard(self, update: int) -> bool:
        """Have the model inspected if it is due; True when the training ends here, with the best weights put back."""
        guard, last = self.guard, self.settings.updates
        if guard is None or not guard.due(update, last):
            return False
        found = guard.inspect(update, self.adapter, self.parameters)
        if not found.worse:
            return False
        guard.roll_back(self.parameters)
        print(
            f"{self.description}: stopped after update {update} of {last}: {found.worse}; the weights of update "
            f"{guard.best.update} are kept",
            file=sys.stderr,
            flush=True,
        )
        return True

    # ---------------------------------------------------------------- update

    def _update(self, update: int) -> dict[str, float]:
        settings = self.settings
        # Every random number of an update follows from its number, hence nothing of a generator has to be kept.
        torch.manual_seed(_seed(settings.seed, update, 0, 0))
        sums: dict[str, float] = {}
        for micro in range(settings.accumulate):
            for position, term in enumerate(self.terms):
                batch = term.batches.batch((update - 1) * settings.accumulate + micro)
                generator = torch.Generator().manual_seed(_seed(settings.seed, update, micro, position + 1))
                loss, logs = term.objective(self.adapter, batch, generator)
                self._require_finite(loss, update, f"the loss of {term.objective.name}")
                (term.weight * loss / settings.accumulate).backward()
                mine = {term.objective.name: float(loss.detach()), **logs}
                for key, value in mine.items():
                    sums[key] = sums.get(key, 0.0) + value / settings.accumulate
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters.tensors(), settings.clip)
        self._require_finite(grad_norm, update, "the gradient")
        rate = self.learning_rate(update)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.parameters.update_average()
        for term in self.terms:
            own = term.objective.after_update()
            self._require_all_finite(own, update, term.objective.name)
            sums |= own
        total = sum(term.weight * sums[term.objective.name] for term in self.terms)
        return {"update": update, "loss": total, **sums, "grad_norm": float(grad_norm), "lr": rate}

    def learning_rate(self, update: int) -> float:
        """Learning rate of ``update`` (from 1): linear warm-up, then constant."""
        warmup = self.settings.warmup_updates
        return self.settings.learning_rate * min(1.0, update / warmup if warmup else 1.0)

    def _require_finite(self, value: Tensor, update: int, what: str) -> None:
        if not bool(torch.isfinite(value).all()):
            raise self._divergence(update, f"{what} is {float(value.detach().float().mean())}")

    def _require_all_finite(self, logs: Logs, update: int, name: str) -> None:
        for key, value in logs.items():
            if not math.isfinite(value):
                raise self._divergence(update, f"{key} of {name} is {value}")

    def _divergence(self, update: int, what: str) -> DivergenceError:
        settings = self.settings
        return DivergenceError(
            f"training diverged: {what} at update {update} of {settings.updates}",
            remedy=f"lower learning_rate (now {settings.learning_rate:g}) or the weights of the feedback, or raise "
            f"warmup_updates (now {settings.warmup_updates})",
        )

    # ---------------------------------------------------------------- resume

    def _identity(self) -> dict[str, Any]:
        identity = self.settings.model_dump(mode="json")
        identity["objectives"] = [[term.objective.name, term.weight] for term in self.terms]
        return identity

    def _save(self, update: int) -> None:
        tensors = {"parameters": self.parameters.state(), "optimizer": optimizer_tensors(self.optimizer)}
        for term in self.terms:
            state = term.objective.state()
            if state:
                tensors[f"objective-{term.objective.name}"] = state
        save_checkpoint(self.checkpoints, Checkpoint(update, tensors), self._identity())

    def _resume(self) -> int:
        checkpoint = load_checkpoint(self.checkpoints, self._identity())
        if checkpoint is None:
            return 0
        self.parameters.restore(checkpoint.tensors["parameters"])
        restore_optimizer(self.optimizer, checkpoint.tensors["optimizer"])
        for term in self.terms:
            term.objective.restore(checkpoint.tensors.get(f"objective-{term.objective.name}", {}))
        return checkpoint.update

    def _log_up_to(self, update: int) -> list[dict[str, float]]:
        """The log's lines up to ``update``; later ones, of updates that will be done again, are cut off the file."""
        lines = self.log_file.read_text(encoding="utf-8").splitlines()[:update] if self.log_file.exists() else []
        self.log_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return [json.loads(line) for line in lines]


def _seed(seed: int, *position: int) -> int:
    """A 64-bit seed that differs for every position."""
    return int(np.random.SeedSequence([seed, *position]).generate_state(1, np.uint64)[0] >> np.uint64(1))
