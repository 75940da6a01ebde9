"""Discrete-event simulation (simpy) of runs of the DAG on a pool of GPUs whose nodes may be preempted.

A step waits for its inputs, then in a first-come queue for its GPUs (as Kueue's StrictFIFO), holds all of them until it
ends, and starts again from its last checkpoint when one of its nodes is lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from benchmarks.fleet_inputs import Inputs, Preemption, Step

STAYS = Preemption(hours_between=None, notice_seconds=0, replacement_seconds=0, restart_seconds=0)
"""Nodes that nobody takes away."""


@dataclass(frozen=True)
class Scenario:
    """What is asked of the fleet.

    Attributes:
        gpus: GPUs in the pool.
        runs: runs that start together.
        width: most GPUs that one step takes; the pool by default.
        interval_seconds: training between two checkpoints.
        checkpoint_seconds: what one checkpoint costs; training waits.
        preemption: of the nodes.
        notice_used: a lost node's notice is used for a checkpoint, if one fits into it.
        evaluation_parts: GPUs that one evaluation is spread over (1 as built).
    """

    gpus: int
    runs: int = 1
    width: int | None = None
    interval_seconds: float = 600.0
    checkpoint_seconds: float = 0.0
    preemption: Preemption = STAYS
    notice_used: bool = True
    evaluation_parts: int = 1


@dataclass
class Tally:
    """What became of the time, in GPU seconds, and when things ended, in seconds."""

    work: float = 0.0
    checkpoints: float = 0.0
    lost: float = 0.0
    restarts: float = 0.0
    idle: float = 0.0
    preemptions: int = 0
    worst_loss_seconds: float = 0.0
    ended: dict[tuple[int, str], float] = field(default_factory=dict)
    started: dict[tuple[int, str], float] = field(default_factory=dict)
    queued_seconds: float = 0.0
    most_gpus: int = 0

    @property
    def paid(self) -> float:
        """GPU seconds of nodes that stood. `idle` is waiting for a lost node with the rest of the gang."""
        return self.work + self.checkpoints + self.lost + self.restarts + self.idle

    @property
    def hours(self) -> float:
        """From the start until the last step's end."""
        return max(self.ended.values()) / 3600

    def cost(self, price_per_hour: float) -> float:
        """Price of the GPU time that was paid."""
        return self.paid / 3600 * price_per_hour


def simulate(inputs: Inputs, edges: Mapping[str, set[str]], scenario: Scenario, seed: int = 0) -> Tally:
    """One simulation from the first step's start to the last one's end.

    Raises ValueError when DAG and inputs name different steps.
    """
    if set(edges) != set(inputs.steps):
        raise ValueError(f"the DAG and fleet.yaml name different steps: {sorted(set(edges) ^ set(inputs.steps))}")
    environment = simpy.Environment()
    pool = simpy.Container(environment, capacity=scenario.gpus, init=scenario.gpus)
    tally = Tally()
    for run in range(scenario.runs):
        done = {name: environment.event() for name in edges}
        for position, name in enumerate(edges):
            random = np.random.default_rng([seed, run, position])
            task = _Task(environment, pool, inputs, scenario, tally, random)
            environment.process(task.run(run, name, [done[other] for other in sorted(edges[name])], done[name]))
    environment.run()
    return tally


@dataclass
class _Task:
    environment: simpy.Environment
    pool: simpy.Container
    inputs: Inputs
    scenario: Scenario
    tally: Tally
    random: np.random.Generator

    def run(self, run: int, name: str, waits_for: list[Any], done: Any) -> Iterator[Any]:
        step, environment, tally = self._step(name), self.environment, self.tally
        yield environment.all_of(waits_for)
        gpus = self.inputs.width(step, min(self.scenario.gpus, self.scenario.width or self.scenario.gpus))
        asked = environment.now
        if gpus:
            yield self.pool.get(gpus)
            tally.most_gpus = max(tally.most_gpus, round(self.pool.capacity - self.pool.level))
        tally.queued_seconds += environment.now - asked
        tally.started[run, name] = environment.now
        if gpus:
            yield from self._on_gpus(step, gpus)
            yield self.pool.put(gpus)
        else:
            yield environment.timeout(self.inputs.work_seconds(step, 1))
        tally.ended[run, name] = environment.now
        done.succeed()

    def _step(self, name: str) -> Step:
        step = self.inputs.steps[name]
        return step.model_copy(update={"processes": self.scenario.evaluation_parts}) if name == "evaluation" else step

    def _on_gpus(self, step: Step, gpus: int) -> Iterator[Any]:
        """The work of a step on `gpus` GPUs, attempt after attempt; an attempt is one event."""
        tally, preemption, scenario = self.tally, self.scenario.preemption, self.scenario
        work = self.inputs.work_seconds(step, gpus)
        interval = scenario.interval_seconds if step.tuning else work / step.portions
        cost = scenario.checkpoint_seconds if step.tuning else 0.0
        nodes = self.inputs.nodes(gpus)
        left, first = work, True
        while True:
            start = 0.0 if first else preemption.restart_seconds
            saves = max(math.ceil(left / interval) - 1, 0)
            whole = start + left + saves * cost
            until = math.inf
            if preemption.hours_between is not None:
                until = float(self.random.exponential(preemption.hours_between * 3600 / nodes))
            if until >= whole:
                yield self.environment.timeout(whole)
                tally.restarts += start * gpus
                tally.work += left * gpus
                tally.checkpoints += saves * cost * gpus
                return
            kept, lost, saving = _at(until - start, interval, cost)
            ended = until
            if step.tuning and scenario.notice_used and until > start and cost <= preemption.notice_seconds:
                # The notice stops training at once and writes what was done.
                ended, saving, kept, lost = until + cost, saving + cost, kept + lost, 0.0
            yield self.environment.timeout(ended)
            tally.preemptions += 1
            tally.restarts += min(start, until) * gpus
            tally.work += kept * gpus
            tally.checkpoints += saving * gpus
            tally.lost += lost * gpus
            tally.worst_loss_seconds = max(tally.worst_loss_seconds, lost)
            left, first = left - kept, False
            missing = (
                float(self.random.exponential(preemption.replacement_seconds))
                if preemption.replacement_seconds
                else 0.0
            )
            yield self.environment.timeout(missing)
            # The rest of the gang stands and is paid while the lost node is replaced.
            tally.idle += missing * max(gpus - self.inputs.gpus_per_node, 0)


def _at(seconds: float, interval: float, cost: float) -> tuple[float, float, float]:
    """(kept work, lost work, time spent on checkpoints) `seconds` after training began; a broken checkpoint keeps
    nothing."""
    if seconds <= 0:
        return 0.0, 0.0, 0.0
    whole, rest = divmod(seconds, interval + cost)
    lost = min(rest, interval)
    return whole * interval, lost, whole * cost + (rest - lost)


def young(checkpoint_seconds: float, mean_seconds: float) -> float:
    """Young's best interval (1974, doi 10.1145/361147.361115): sqrt(2 C M)."""
    return math.sqrt(2 * checkpoint_seconds * mean_seconds)


def daly(checkpoint_seconds: float, mean_seconds: float) -> float:
    """Daly's best interval (2006, doi 10.1016/j.future.2004.11.016, eq. 37), for C < 2 M; M otherwise."""
    if checkpoint_seconds >= 2 * mean_seconds:
        return mean_seconds
    ratio = checkpoint_seconds / (2 * mean_seconds)
    return young(checkpoint_seconds, mean_seconds) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - checkpoint_seconds
