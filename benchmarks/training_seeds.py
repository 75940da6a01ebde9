"""Runs the pipeline with several training seeds and asks of each: is stage 2 better than the base at few steps, stage 1
at many?

    python benchmarks/training_seeds.py                                # preset embedded, seeds 0, 1 and 2: hours
    python benchmarks/training_seeds.py --preset demo --seeds 0 1      # minutes; too few updates to expect a yes
    python benchmarks/training_seeds.py --evaluated 0=runs/dvc/evaluation/evaluation.json   # seed 0 from dvc repro

Everything that trains takes the seed; prompts, starting noise and real images of the evaluation are the same for all. A
run that has ended is taken from the cache, so that the command can be killed and started again. Writes
docs/training_seeds.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

TRAINED = (
    "reward_model_color",
    "reward_model_layout",
    "reward_model_lighting",
    "reward_model_detail",
    "perceptual_feedback",
    "decoupled_feedback",
    "adversarial_feedback",
)
QUESTIONS = (("stage1", "full_steps"), ("stage2", "few_steps"))
EVALUATION = Path("runs", "latest", "outputs", "evaluation", "evaluation")


def main() -> int:
    """Run every seed, print the table, write it; 0 when every answer of every seed is yes, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="embedded")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--evaluated", metavar="SEED=FILE", action="append", default=[], help="a seed's evaluation that exists already"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/training_seeds.json"))
    arguments = parser.parse_args()

    from unifl.core.files import write_json_atomic

    evaluated = {int(seed): Path(file) for seed, file in (one.split("=", 1) for one in arguments.evaluated)}
    rows, floor = [], None
    for seed in arguments.seeds:
        evaluation = read(evaluated[seed]) if seed in evaluated else run(arguments.preset, seed)
        rows += [{"seed": seed, **answer(evaluation, model, steps)} for model, steps in QUESTIONS]
        floor = evaluation["floor"]["kid"]
    show(rows, floor)
    write_json_atomic(arguments.output, {"preset": arguments.preset, "rows": rows, "floor": floor})
    return 0 if all(row["disjoint"] for row in rows) else 1


def run(preset: str, seed: int) -> dict[str, Any]:
    """The evaluation of one run. A gate that is not passed (code 6) still has one."""
    print(f"seed {seed}", flush=True)
    seeds = [part for step in TRAINED for part in ("--set", f"{step}.seed={seed}")]
    ended = subprocess.run([sys.executable, "-m", "pipelines", "run", "--preset", preset, *seeds], check=False)
    if ended.returncode not in (0, 6):
        sys.exit(ended.returncode)
    return read(EVALUATION)


def read(file: Path) -> dict[str, Any]:
    """What the step evaluation has written."""
    evaluation: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return evaluation


def answer(evaluation: dict[str, Any], model: str, steps: str) -> dict[str, Any]:
    """KID of base and tuned model at one number of steps; `disjoint`: the whole interval of the tuned one is lower."""
    count = evaluation[steps]
    kid = {row["model"]: row["metrics"]["kid"] for row in evaluation["results"] if row["steps"] == count}
    return {
        "model": model,
        "steps": count,
        "base": kid["base"],
        "tuned": kid[model],
        "disjoint": kid[model]["high"] < kid["base"]["low"],
    }


def show(rows: list[dict[str, Any]], floor: dict[str, float]) -> None:
    """Print the answers, KID x1000 with 95 % intervals."""
    table = Table("seed", "model", "steps", "KID of the base", "KID of the model", "intervals apart")
    for row in rows:
        table.add_row(
            str(row["seed"]), row["model"], str(row["steps"]), *(interval(row[key]) for key in ("base", "tuned")),
            "yes" if row["disjoint"] else "no",
        )  # fmt: skip
    Console().print(table)
    print(f"KID of real images after the autoencoder, the floor: {interval(floor)}")


def interval(value: dict[str, float]) -> str:
    """A value with its interval."""
    return f"{value['value']:.0f} [{value['low']:.0f}, {value['high']:.0f}]"


if __name__ == "__main__":
    sys.exit(main())
