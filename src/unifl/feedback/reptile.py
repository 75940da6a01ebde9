"""Reptile (arXiv 1803.02999): weights from which a few updates learn a new task, found over many known tasks.

A round adapts the same start to several tasks and moves it towards the mean of what came out. First order: no gradient
goes through the inner updates, so any training serves as inner loop; the feedback engine does for LoRA.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unifl.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unifl.core.errors import DivergenceError
from unifl.core.interruption import held_back
from unifl.core.progress import progress
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.feedback.engine import FeedbackEngine, Term
from unifl.feedback.parameters import LOG_NAME, TrainableParameters
from unifl.feedback.settings import EngineSettings

Weights = Mapping[str, Tensor]
LogLine = dict[str, float | str]


def outer_step(start: Weights, mean: Weights, rate: float) -> dict[str, Tensor]:
    """theta + rate * (mean(phi_i) - theta), tensor by tensor (Reptile's batch version, algorithm 2).

    ``mean`` is the mean of the adapted weights; ``rate`` is in (0, 1], 1 takes the mean itself.
    """
    return {name: value + rate * (mean[name] - value) for name, value in start.items()}


@dataclass(frozen=True)
class OuterLoop:
    """Length and rate of the outer loop; the rate falls linearly to 0 over the rounds, as in the paper."""

    rounds: int
    tasks_a_round: int
    rate: float

    def rate_of(self, done: int) -> float:
        """The rate of the round after ``done`` rounds."""
        return self.rate * (1 - done / self.rounds)


Adapt = Callable[[dict[str, Tensor], int, int], tuple[Weights, LogLine]]
"""(start, round from 0, task from 0) -> adapted weights and what is worth logging; the same answer each time."""


class Reptile:
    """The outer loop. ``start`` is where it begins; ``adapt`` is the inner loop, a function of its arguments alone.

    ``checkpoints`` is a folder that belongs to this run and survives a kill; the log lies there as ``training.jsonl``,
    an object a task. ``identity`` is what a checkpoint must agree with (settings).
    """

    def __init__(
        self,
        start: Weights,
        adapt: Adapt,
        outer: OuterLoop,
        checkpoints: Path,
        identity: Mapping[str, Any],
        *,
        description: str = "few-shot start",
        checkpoint_seconds: float = 30.0,
    ) -> None:
        self.start = {name: value.detach().clone() for name, value in start.items()}
        self.adapt = adapt
        self.outer = outer
        self.checkpoints = checkpoints
        self.identity = dict(identity)
        self.description = description
        self.checkpoint_seconds = checkpoint_seconds
        self.log_file = checkpoints / LOG_NAME
        self._sum: dict[str, Tensor] = {}
        self._done = self._saved = 0

    def run(self) -> list[LogLine]:
        """Go on from the last checkpoint to the end; gives the whole log. `start` holds the result.

        Raises SettingsError for a checkpoint of other settings, DivergenceError when weights are not finite.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self._resume()
        log = self._log_up_to(self._done)
        total = self.outer.rounds * self.outer.tasks_a_round
        saved_at = time.monotonic()
        try:
            for task in progress(range(self._done, total), self.description, "tasks", total=total, start=self._done):
                log.append(self._task(task))
                if time.monotonic() - saved_at >= self.checkpoint_seconds or self._done == total:
                    self._save()
                    saved_at = time.monotonic()
        except BaseException:
            if self._saved < self._done:
                self._save()
            raise
        return log

    def _task(self, number: int) -> LogLine:
        done, position = divmod(number, self.outer.tasks_a_round)
        adapted, logs = self.adapt({name: value.clone() for name, value in self.start.items()}, done, position)
        self._require_finite(adapted, done)
        distance = math.sqrt(sum(float((adapted[name] - value).square().sum()) for name, value in self.start.items()))
        line: LogLine = {"round": done + 1, "task": position + 1, **logs, "distance": distance}
        # From here on the state changes, and no interruption may split it.
        with held_back():
            self._sum = {name: self._sum.get(name, 0) + adapted[name] for name in self.start}
            if position + 1 == self.outer.tasks_a_round:
                mean = {name: value / self.outer.tasks_a_round for name, value in self._sum.items()}
                self.start = outer_step(self.start, mean, self.outer.rate_of(done))
                self._sum = {}
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
            self._done = number + 1
        return line

    def _require_finite(self, adapted: Weights, done: int) -> None:
        broken = [name for name, value in adapted.items() if not bool(torch.isfinite(value).all())]
        if broken:
            raise DivergenceError(
                f"{broken[0]} is not finite after the updates of round {done + 1} of {self.outer.rounds}",
                remedy="lower learning_rate",
            )

    # ---------------------------------------------------------------- resume

    def _save(self) -> None:
        with held_back():
            tensors = {"start": self.start, "sum": self._sum}
            save_checkpoint(
                self.checkpoints, Checkpoint(self._done, {k: v for k, v in tensors.items() if v}), self.identity
            )
            self._saved = self._done

    def _resume(self) -> None:
        checkpoint = load_checkpoint(self.checkpoints, self.identity)
        if checkpoint is not None:
            self.start = {name: checkpoint.tensors["start"][name].to(value) for name, value in self.start.items()}
            self._sum = checkpoint.tensors.get("sum", {})
            self._done = self._saved = checkpoint.update

    def _log_up_to(self, done: int) -> list[LogLine]:
        """The log's lines up to task ``done``; later ones, of tasks that will be done again, are cut off the file."""
        lines = self.log_file.read_text(encoding="utf-8").splitlines()[:done] if self.log_file.exists() else []
        self.log_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return [json.loads(line) for line in lines]


class LoraTasks:
    """The feedback engine as Reptile's inner loop: each task is a run of the engine from the start it is given.

    ``terms_of`` gives the terms of (round, task) and what to log of them: the diffusion loss on some style's images, or
    any other objectives. ``settings.updates`` is k, the updates a task; each task has a seed of its own.
    """

    def __init__(
        self,
        adapter: DiffusionAdapter,
        parameters: TrainableParameters,
        terms_of: Callable[[int, int], tuple[Sequence[Term], LogLine]],
        settings: EngineSettings,
        scratch: Path,
    ) -> None:
        self.adapter = adapter
        self.parameters = parameters
        self.terms_of = terms_of
        self.settings = settings
        self.scratch = scratch

    def __call__(self, start: dict[str, Tensor], done: int, task: int) -> tuple[dict[str, Tensor], LogLine]:
        """The weights after k updates from ``start``, and the mean loss of the first and the last of them."""
        terms, about = self.terms_of(done, task)
        settings = self.settings.model_copy(update={"seed": task_seed(self.settings.seed, done, task)})
        self.parameters.start_from(start)
        folder = self.scratch / f"task-{done}-{task}"
        engine = FeedbackEngine(self.adapter, terms, settings, folder, description="", parameters=self.parameters)
        log = engine.run()
        shutil.rmtree(folder)
        return self.parameters.current(), {**about, "loss_first": log[0]["loss"], "loss_last": log[-1]["loss"]}


def task_seed(seed: int, done: int, task: int) -> int:
    """A 31-bit seed of its own for task ``task`` of the round after ``done`` rounds."""
    return int(np.random.SeedSequence([seed, done, task]).generate_state(1)[0] >> 1)
