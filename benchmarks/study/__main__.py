"""The study: trains every model of benchmarks/study/plan.yaml, measures all cells and writes docs/results.md.

    python -m benchmarks.study                          # everything, three training seeds: many hours on two cores
    python -m benchmarks.study --seeds 0 --only base stage1 stage2 --images 200    # a part, smaller
    python -m benchmarks.study --list                   # what is finished and what is not

It can be killed and started again: finished trainings, choices and pictures are kept below runs/study, and a training
that was cut goes on from its checkpoint. Settings are chosen on the validation split, results stand on the test split.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.study.plan import PLAN, Plan, read_plan
from unifl.core.errors import UniflError
from unifl.core.progress import progress


def main() -> int:
    """Parse the arguments, train, choose, measure, write; an error is one line and its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="models to train and measure; all when absent")
    parser.add_argument("--images", type=int, default=2_000, help="pictures a headline cell")
    parser.add_argument("--ablation_images", type=int, default=500, help="pictures a cell of an ablation")
    parser.add_argument("--folder", type=Path, default=Path("runs", "study"), help="where everything is kept")
    parser.add_argument(
        "--output", type=Path, default=Path("docs"), help="where results.md, results.json and images/ go"
    )
    parser.add_argument("--train_only", action="store_true", help="train, and stop before the first picture")
    parser.add_argument("--list", action="store_true", help="print what is finished, and do nothing")
    arguments = parser.parse_args()
    try:
        plan = read_plan(arguments.plan)
        return list_trainings(plan, arguments) if arguments.list else run(plan, arguments)
    except UniflError as error:
        print(f"the study: {error}", file=sys.stderr)
        return error.exit_code


def chosen_models(plan: Plan, only: Sequence[str] | None) -> list[str]:
    """The models that were asked for, in the plan's order. Raises UniflError for one that the plan does not have."""
    unknown = sorted(set(only or ()) - set(plan.models))
    if unknown:
        raise UniflError(f"the plan has no model {', '.join(unknown)}", expected=f"some of {', '.join(plan.models)}")
    return [name for name in plan.models if not only or name in only]


def list_trainings(plan: Plan, arguments: argparse.Namespace) -> int:
    """Print a table: each training, and which seeds are finished."""
    from benchmarks.study.training import STAMP, Trainings

    trainings = Trainings(plan, arguments.folder)
    table = Table("training", "step", *(f"seed {seed}" for seed in arguments.seeds))
    for name in plan.in_order(chosen_models(plan, arguments.only)):
        there = [(trainings.place(name, seed) / STAMP).is_file() for seed in arguments.seeds]
        table.add_row(name, plan.trainings[name].step, *("finished" if one else "" for one in there))
    Console().print(table)
    return 0


def run(plan: Plan, arguments: argparse.Namespace) -> int:
    """Everything, from what is there already."""
    from benchmarks.study.training import Trainings

    models, seeds = chosen_models(plan, arguments.only), arguments.seeds
    trainings = Trainings(plan, arguments.folder)
    work = [(name, seed) for seed in seeds for name in plan.in_order(models)]
    for name, seed in progress(work, "training", "trainings"):
        trainings.ensure(name, seed)
    if arguments.train_only:
        return 0

    from benchmarks.study.measuring import Measuring
    from benchmarks.study.results import write_results

    measuring = Measuring(plan, trainings, arguments.images, arguments.ablation_images)
    orders = [(model, steps, size) for model, steps, size in plan.measured() if model in models]
    chosen = measuring.choose([(model, steps) for model, steps, _ in orders], seeds[0])
    found = measuring.measure(orders, seeds, chosen)
    marks = write_results(measuring, found, chosen, seeds, models, arguments.output, command_line())
    show(marks)
    return 0


def show(marks: Sequence[Any]) -> None:
    """Print the marks as a table."""
    table = Table("question", "goal", "found", "met", title="the marks")
    for mark in marks:
        table.add_row(mark.question, f"{mark.goal} {mark.unit}", mark.text(), "yes" if mark.met else "no")
    Console().print(table)


def command_line() -> str:
    """The command, as one would repeat it."""
    return " ".join(["python -m benchmarks.study", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
