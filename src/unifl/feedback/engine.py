"""The feedback engine: weighted objectives summed into updates of the UNet, the same for every kind of feedback.

arXiv 2404.05595 §3 gives the sums (L1 = L_pefl + L_aes, L2 = L_G + L_D + L_aes); the engine adds what any of
them needs: warm-up, accumulation, clipping, averaging, exact resume, a log line an update, refusal of
numbers that are not finite and of pictures that collapse, and several processes that share each batch.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unifl.core.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from unifl.core.errors import DivergenceError, SettingsError, UniflError
from unifl.core.interruption import held_back
from unifl.core.progress import progress
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.randomness import PartOfBatch, Randomness
from unifl.feedback.batches import BatchSource
from unifl.feedback.collapse import collapse
from unifl.feedback.guard import Guard
from unifl.feedback.objectives import Logs, Objective
from unifl.feedback.parameters import LOG_NAME, TrainableParameters
from unifl.feedback.ranks import current_ranks
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
    ``guard`` may end the training early, with the weights of its best inspection. ``parameters`` of the adapter, where
    given, are trained as they are, else made by the settings. Without a ``description`` no progress is shown.

    Under torchrun every process makes an engine: each computes its part of the batches, and the first one writes.

    Raises SettingsError when no term has weight or one a negative weight, when the folder holds a checkpoint of other
    settings, or when the batch can't be divided among the processes.
    """

    def __init__(
        self,
        adapter: DiffusionAdapter,
        terms: Sequence[Term],
        settings: EngineSettings,
        checkpoints: Path,
        description: str = "feedback learning",
        guard: Guard | None = None,
        parameters: TrainableParameters | None = None,
    ) -> None:
        _require_weights(terms)
        self.terms = [term for term in terms if term.weight > 0]
        names = [term.objective.name for term in self.terms]
        if len(set(names)) != len(names):
            raise SettingsError(f"two objectives have one name: {', '.join(names)}")
        self.adapter = adapter
        self.settings = settings
        self.checkpoints = checkpoints
        self.description = description
        self.guard = guard
        self.ranks = current_ranks()
        self._first_row, _ = self.ranks.part.rows(settings.batch_size)
        self._done = self._saved = 0
        self._whole = True
        self.log_file = checkpoints / LOG_NAME
        torch.manual_seed(settings.seed)
        self.parameters = parameters or TrainableParameters(adapter, settings.lora_rank, settings.ema_decay)
        if settings.gradient_checkpointing:
            adapter.unet.enable_gradient_checkpointing()
        self.optimizer = torch.optim.AdamW(
            self.parameters.tensors(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def run(self) -> list[dict[str, float]]:
        """Train to the last update, from the last checkpoint if there is one; gives the whole log.

        An interruption (or an error that is not this project's own) leaves a checkpoint of the last finished update.
        Raises DivergenceError, naming update, term and remedy, when a loss or gradient is not finite or the training
        collapses (unless a guard, asked at once, finds the pictures worse and goes back to its best ones).
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self._done = self._saved = self._resume()
        log = self._log_up_to(self._done)
        self.adapter.unet.train()
        last = self.settings.updates
        saved_at = time.monotonic()
        stopped = self._stopped_by_guard(self._done)
        updates = range(self._done + 1, self._done + 1 if stopped else last + 1)
        try:
            is_shown = self.ranks.is_first and self.description
            shown = progress(updates, self.description, "updates", start=self._done) if is_shown else updates
            for update in shown:
                log.append(self._update(update))
                collapsed = collapse(log, self.settings.collapse_share, self.settings.collapse_gradient)
                # Before the guard's look, which may take long and may change the weights.
                if not collapsed and self._is_due(update, time.monotonic() - saved_at):
                    self._save()
                    saved_at = time.monotonic()
                if self._stopped_by_guard(update, at_once=bool(collapsed)):
                    self._save()
                    break
                if collapsed:
                    raise self._divergence(update, collapsed)
        except UniflError:
            raise
        except BaseException:
            if self._whole and self._saved < self._done:
                self._save()
            raise
        self.adapter.unet.eval()
        return log

    def _stopped_by_guard(self, update: int, *, at_once: bool = False) -> bool:
        """Have the model inspected if it is due; True when the training ends here, with the best weights put back."""
        guard, last = self.guard, self.settings.updates
        if guard is None:
            return False
        ended_here = guard.stopped is not None and guard.stopped.update == update
        if not (at_once or ended_here or guard.due(update, last)):
            return False
        if self.ranks.is_first:
            guard.inspect(update, self.adapter, self.parameters)
        self.ranks.wait()
        found = guard.recall(update)
        if not found.worse:
            return False
        guard.roll_back(self.parameters)
        if self.ranks.is_first:
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
        # Every random number of an update follows from its number, hence a checkpoint holds nothing of a generator.
        torch.manual_seed(_seed(settings.seed, update, 0, 0))
        sums: dict[str, float] = {}
        for micro in range(settings.accumulate):
            for position, term in enumerate(self.terms):
                batch = term.batches.batch((update - 1) * settings.accumulate + micro, self.ranks.part)
                loss, logs = term.objective(self.adapter, batch, self._randomness(update, micro, position + 1))
                self._require_finite(loss, update, f"the loss of {term.objective.name}")
                (term.weight * loss / settings.accumulate).backward()
                mine = {term.objective.name: float(loss.detach()), **logs}
                for key, value in mine.items():
                    sums[key] = sums.get(key, 0.0) + value / settings.accumulate
        self.ranks.average_gradients(self.parameters.tensors())
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters.tensors(), settings.clip)
        self._require_finite(grad_norm, update, "the gradient")
        # Until here the state is that of the update before; from here on it changes, and no interruption may split it.
        with held_back():
            self._whole = False
            line = self._apply(update, sums, float(grad_norm))
            self._whole = True
        return line

    def _randomness(self, *position: int) -> Randomness:
        generator = torch.Generator().manual_seed(_seed(self.settings.seed, *position))
        if self.ranks.part.count == 1:
            return generator
        return PartOfBatch(generator, self._first_row, self.settings.batch_size)

    def _apply(self, update: int, sums: dict[str, float], grad_norm: float) -> dict[str, float]:
        """Change weights, averages and what objectives learn themselves; write and give the log line."""
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
        sums = self.ranks.average_logs(sums)
        total = sum(term.weight * sums[term.objective.name] for term in self.terms)
        line = {"update": update, "loss": total, **sums, "grad_norm": grad_norm, "lr": rate}
        if self.ranks.is_first:
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        self._done = update
        return line

    def _is_due(self, update: int, seconds: float) -> bool:
        """Whether a checkpoint shall follow ``update``, ``seconds`` after the last one."""
        settings = self.settings
        return (
            update % settings.checkpoint_every == 0
            or seconds >= settings.checkpoint_seconds
            or update == settings.updates
        )

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

    def _save(self) -> None:
        """A checkpoint of the last finished update, by the first process: the others hold the same weights."""
        if not self.ranks.is_first:
            return
        # A second signal (torchrun sends one when another process has ended) may not break this off.
        with held_back():
            tensors = {"parameters": self.parameters.state(), "optimizer": optimizer_tensors(self.optimizer)}
            for term in self.terms:
                state = term.objective.state()
                if state:
                    tensors[f"objective-{term.objective.name}"] = state
            save_checkpoint(self.checkpoints, Checkpoint(self._done, tensors), self._identity())
            self._saved = self._done

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
        self.ranks.wait()
        if self.ranks.is_first:
            self.log_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return [json.loads(line) for line in lines]


def _require_weights(terms: Sequence[Term]) -> None:
    """Raises SettingsError unless every weight is a number from 0 on and their sum is above 0."""
    for term in terms:
        if not (math.isfinite(term.weight) and term.weight >= 0):
            raise SettingsError(
                f"the weight of {term.objective.name} is {term.weight}",
                expected="a number from 0 on",
                remedy="set it to 0 to leave the objective out",
            )
    if not any(term.weight for term in terms):
        names = ", ".join(term.objective.name for term in terms) or "none given"
        raise SettingsError(
            f"there is nothing to learn: the weights of all objectives are 0 ({names})",
            remedy="set the weight of at least one objective above 0",
        )


def _seed(seed: int, *position: int) -> int:
    """A 64-bit seed that differs for every position."""
    return int(np.random.SeedSequence([seed, *position]).generate_state(1, np.uint64)[0] >> np.uint64(1))
