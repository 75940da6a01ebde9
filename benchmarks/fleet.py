"""Hours, cost and lost work of the whole pipeline on 1 to 128 GPUs: the tables and pictures of docs/scale.md.

    python -m benchmarks.fleet                          # all tables, seconds
    python -m benchmarks.fleet --pictures docs/images   # and the pictures
    python -m benchmarks.fleet --seeds 20 --inputs my.yaml

A simulation on figures from other sources (benchmarks/fleet.yaml names each), not a measurement of a fleet.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.fleet_inputs import INPUTS, Inputs, dag_edges, price_per_hour, read_inputs
from benchmarks.fleet_simulation import STAYS, Scenario, Tally, daly, simulate, young
from unifl.core.progress import progress

DISK = "filestore-zonal-10tib"
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
CHAIN = ("perceptual_feedback", "decoupled_feedback", "adversarial_feedback")


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        array = np.array(list(values))
        return cls(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0)

    def text(self, digits: int = 1) -> str:
        return f"{self.mean:,.{digits}f} ± {self.deviation:,.{digits}f}"


@dataclass(frozen=True)
class Fleet:
    """The inputs, the DAG and the number of seeds that every table shares."""

    inputs: Inputs
    edges: Mapping[str, set[str]]
    seeds: int
    full_price: float

    def tallies(self, scenario: Scenario) -> list[Tally]:
        return [simulate(self.inputs, self.edges, scenario, seed) for seed in range(self.seeds)]

    @property
    def spot_price(self) -> float:
        return self.full_price * self.inputs.spot_price_share

    def mean_seconds(self, gpus: int, hours_between: float) -> float:
        """Mean time between losses of any node of a gang."""
        return hours_between * 3600 / self.inputs.nodes(gpus)

    def spot(self, gpus: int, hours_between: float | None = None, disk: str = DISK, **more: object) -> Scenario:
        """A run on spot nodes, with a checkpoint at Daly's interval of its widest step."""
        known = self.inputs.preemption
        hours = hours_between or known.hours_between or 24.0
        width = min(int(str(more.get("width") or gpus)), gpus)
        seconds = self.inputs.checkpoint_seconds(disk)
        scenario = Scenario(
            gpus,
            interval_seconds=daly(seconds, self.mean_seconds(width, hours)),
            checkpoint_seconds=seconds,
            preemption=known.model_copy(update={"hours_between": hours}),
        )
        return replace(scenario, **more)  # type: ignore[arg-type]

    def stays(self, gpus: int, **more: object) -> Scenario:
        """A run on nodes at the full price, which stay; a checkpoint an hour."""
        seconds = self.inputs.checkpoint_seconds(DISK)
        scenario = Scenario(gpus, interval_seconds=3600, checkpoint_seconds=seconds, preemption=STAYS)
        return replace(scenario, **more)  # type: ignore[arg-type]


def table(head: str, rows: Iterable[Iterable[object]]) -> None:
    columns = head.split(" | ")
    print(f"| {head} |\n|{'---|' * len(columns)}")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)
    print()


def sizes(fleet: Fleet) -> None:
    """One run on 1, 8 and 64 GPUs, on nodes that stay and on spot nodes."""
    rows = []
    for gpus in progress([1, 8, 64], "sizes"):
        tally = simulate(fleet.inputs, fleet.edges, fleet.stays(gpus))
        cost = tally.cost(fleet.full_price)
        rows.append(
            [gpus, "stays", f"{tally.hours:.1f}", f"{cost:,.0f}", 0, "0.0", "0.0", f"{100 * share(tally):.0f} %"]
        )
        for hours in (168.0, 24.0, 2.0):
            found = fleet.tallies(fleet.spot(gpus, hours))
            rows.append(
                [
                    gpus,
                    f"{hours:g} h",
                    Spread.of(t.hours for t in found).text(),
                    Spread.of(t.cost(fleet.spot_price) for t in found).text(0),
                    f"{np.mean([t.preemptions for t in found]):.1f}",
                    Spread.of(t.lost / 3600 for t in found).text(2),
                    f"{np.mean([(t.restarts + t.idle) / 3600 for t in found]):.1f}",
                    f"{100 * np.mean([share(t) for t in found]):.0f} %",
                ]
            )
    table("GPUs | a node lives | hours | cost USD | losses | GPU h lost | GPU h restarting, waiting | useful", rows)


def share(tally: Tally) -> float:
    """Part of the paid GPU time that was kept work (all-reduce counts as work)."""
    return tally.work / tally.paid


def storages(fleet: Fleet) -> None:
    """What the storage of checkpoints does to a run on 8 GPUs, with the notice used and without."""
    rows, tuning = [], fleet.inputs.tuning
    cases = [(disk, "all", tuning.parameters) for disk in fleet.inputs.storage]
    cases.append((next(iter(fleet.inputs.storage)), "LoRA", tuning.lora_parameters))
    for disk, weights, parameters in progress(cases, "storages"):
        seconds = fleet.inputs.checkpoint_seconds(disk, parameters)
        fits = seconds <= fleet.inputs.preemption.notice_seconds
        best = daly(seconds, fleet.mean_seconds(8, 24))
        for name, interval in (("", 60.0), (" (Daly)", best)):
            for notice in (True, False) if fits else (False,):
                scenario = replace(
                    fleet.spot(8, 24), interval_seconds=interval, checkpoint_seconds=seconds, notice_used=notice
                )
                found = fleet.tallies(scenario)
                rows.append(
                    [
                        disk,
                        weights,
                        f"{seconds:.1f} s",
                        f"{interval:,.0f} s{name}",
                        "saves" if notice else "not used" if fits else "too short",
                        Spread.of(t.hours for t in found).text(),
                        f"{np.mean([t.checkpoints / 3600 for t in found]):.1f}",
                        Spread.of(t.lost / 3600 for t in found).text(2),
                    ]
                )
    table("storage | weights | a checkpoint | interval | notice | hours | GPU h saving | GPU h lost", rows)


def intervals(fleet: Fleet, gpus: int = 8) -> list[tuple[float, float, list[float], list[float]]]:
    """(mean seconds, cost seconds, intervals, simulated overhead of each) of stage 2 alone, killed without notice."""
    step = {"adversarial_feedback": fleet.inputs.steps["adversarial_feedback"]}
    alone = fleet.inputs.model_copy(update={"steps": step})
    work = alone.work_seconds(step["adversarial_feedback"], gpus)
    curves, rows = [], []
    for hours in progress([2.0, 24.0, 168.0], "intervals"):
        mean, cost = fleet.mean_seconds(gpus, hours), fleet.inputs.checkpoint_seconds(DISK)
        grid = np.geomspace(30, 8 * 3600, 31)
        restart = fleet.inputs.preemption.model_copy(update={"hours_between": hours, "replacement_seconds": 0.0})
        overheads = []
        for interval in grid:
            scenario = Scenario(
                gpus, interval_seconds=interval, checkpoint_seconds=cost, preemption=restart, notice_used=False
            )
            ends = [
                simulate(alone, {"adversarial_feedback": set()}, scenario, seed).hours for seed in range(fleet.seeds)
            ]
            overheads.append(float(np.mean(ends)) * 3600 / work - 1)
        curves.append((mean, cost, [float(i) for i in grid], overheads))
        best = int(np.argmin(overheads))
        near = [i for i, o in zip(grid, overheads, strict=True) if o <= overheads[best] * 1.1 + 0.001]
        rows.append(
            [
                f"{hours:g} h",
                f"{cost:.0f} s",
                f"{grid[best]:,.0f} s",
                f"{min(near):,.0f} to {max(near):,.0f} s",
                f"{young(cost, mean):,.0f} s",
                f"{daly(cost, mean):,.0f} s",
                f"{100 * overheads[best]:.1f} %",
                f"{100 * float(np.interp(60, grid, overheads)):.1f} %",
            ]
        )
    table("a node lives | checkpoint | best | within a tenth of it | Young | Daly | overhead at best | at 60 s", rows)
    return curves


def scaling(fleet: Fleet) -> list[tuple[int, dict[str, float]]]:
    """(GPUs, hours of each part of the longest path) of one run on nodes that stay."""
    parts, rows = [], []
    one = simulate(fleet.inputs, fleet.edges, fleet.stays(1)).hours
    for gpus in progress(list(SIZES), "scaling"):
        scenario = fleet.stays(gpus)
        tally = simulate(fleet.inputs, fleet.edges, scenario)
        hours = dict.fromkeys(("compute", "all-reduce", "optimizer", "checkpoints"), 0.0)
        for name in CHAIN:
            step = fleet.inputs.steps[name]
            width, updates = fleet.inputs.width(step, gpus), fleet.inputs.updates(step) / 3600
            compute, optimizer, reduce = fleet.inputs.update_seconds(step, width)
            hours["compute"] += updates * compute
            hours["optimizer"] += updates * optimizer
            hours["all-reduce"] += updates * reduce
            hours["checkpoints"] += (tally.ended[0, name] - tally.started[0, name]) / 3600 - updates * (
                compute + optimizer + reduce
            )
        tuning = sum(hours.values())
        hours["evaluation"] = (tally.ended[0, "evaluation"] - tally.started[0, "evaluation"]) / 3600
        hours["other steps, queue"] = tally.hours - sum(hours.values())
        parts.append((gpus, hours))
        cost = tally.cost(fleet.full_price)
        held = sum(
            (tally.ended[0, n] - tally.started[0, n]) / 3600 * fleet.inputs.width(fleet.inputs.steps[n], gpus)
            for n in fleet.inputs.steps
        )
        rows.append(
            [
                gpus,
                f"{tally.hours:.1f}",
                f"{one / tally.hours:.1f}",
                f"{100 * one / tally.hours / gpus:.0f} %",
                f"{100 * hours['all-reduce'] / tuning:.1f} %",
                f"{100 * (tally.hours - tuning) / tally.hours:.0f} %",
                f"{cost:,.0f}",
                f"{100 * held / (gpus * tally.hours):.0f} %",
            ]
        )
    table("GPUs | hours | speed-up | efficiency | all-reduce in tuning | not tuning | cost USD | pool in use", rows)
    return parts


def branches(fleet: Fleet) -> None:
    """What the parallel parts of the DAG can save: four rewards beside perceptual feedback, a spread evaluation."""
    rows = []
    for gpus in (8, 64):
        base = simulate(fleet.inputs, fleet.edges, fleet.stays(gpus))
        chained = {name: set(needs) for name, needs in fleet.edges.items()}
        rewards = sorted(name for name in chained if name.startswith("reward_model"))
        for earlier, later in zip(rewards, [*rewards[1:], "perceptual_feedback"], strict=True):
            chained[later].add(earlier)
        serial = simulate(fleet.inputs, chained, fleet.stays(gpus))
        spread = simulate(fleet.inputs, fleet.edges, fleet.stays(gpus, evaluation_parts=gpus))
        rows.append([gpus, f"{base.hours:.1f}", f"{serial.hours:.1f}", f"{spread.hours:.1f}"])
    table("GPUs | hours | rewards one after the other | evaluation on all GPUs", rows)


def queues(fleet: Fleet) -> None:
    """Eight runs that start together on 64 spot GPUs, by how many GPUs a step takes."""
    rows = []
    for width in progress([64, 32, 16, 8], "queue"):
        found = fleet.tallies(fleet.spot(64, 24, runs=8, width=width))
        first = [min(end for (_, name), end in t.ended.items() if name == "quality_gate") / 3600 for t in found]
        rows.append(
            [
                width,
                Spread.of(first).text(),
                Spread.of(t.hours for t in found).text(),
                Spread.of(t.cost(fleet.spot_price) / 8 for t in found).text(0),
                f"{np.mean([t.preemptions for t in found]):.1f}",
                Spread.of(t.lost / 3600 for t in found).text(1),
            ]
        )
    table("GPUs a step | first run ends h | last run ends h | cost USD a run | losses | GPU h lost", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=Path, default=INPUTS, help="figures to start from (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=100, help="simulations of each case that has chance in it")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw fleet_interval.svg and fleet_scaling.svg")
    arguments = parser.parse_args()
    inputs = read_inputs(arguments.inputs)
    fleet = Fleet(inputs, dag_edges(), arguments.seeds, price_per_hour(inputs.accelerator))
    for title, draw in SECTIONS.items():
        print(f"## {title}\n")
        drawn = draw(fleet)
        if arguments.pictures and drawn is not None:
            from benchmarks import fleet_pictures

            print(fleet_pictures.PICTURES[title](drawn, arguments.pictures), "\n")


SECTIONS: dict[str, Callable[[Fleet], object]] = {
    "Sizes": sizes,
    "Interval": intervals,
    "Storage": storages,
    "Scaling": scaling,
    "Branches": branches,
    "Queue": queues,
}

if __name__ == "__main__":
    main()
