"""Writes docs/results.md with its tables and pictures from the study's figures, and the JSON behind every number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.figures import Figures
from benchmarks.study.marks import Mark
from benchmarks.study.plan import Plan
from unifl.data.vocabulary import AXES
from unifl.evaluation.samples import grid

COLUMNS = (
    ("kid", "KID", 0),
    ("fid", "FID", 0),
    ("clip_like", "Caption", 3),
    *((f"judge_{axis}", axis.capitalize(), 2) for axis in AXES),
    ("style_response", "Style %", 0),
    ("object_count", "Count %", 0),
)
"""What a cell's table shows: figure, heading, digits."""

SHOWN = 8
"""Pictures a row."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(header), " | ".join("---" for _ in header), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def results_page(
    plan: Plan, figures: Figures, seeds: Sequence[int], found_marks: Sequence[Mark], facts: dict[str, Any], command: str
) -> str:
    """The whole page as Markdown."""
    count = max(len(one.findings) for one in figures.found.values())
    floor = {name: f"{value['value']:.0f}" for name, value in figures.floor.items()}
    parts = [
        "# Results on the embedded model\n",
        f"Made by `{command}`; do not edit. The JSON behind every number: [results.json](results.json).\n",
        f"Training seeds: {', '.join(map(str, seeds))}. Headline cells hold {count} pictures on captions of the test "
        "split; ablations hold fewer, paired on the same captions and noise. With several seeds a figure is the mean "
        "and, in parentheses, the lowest and the highest seed; with one it is the value and its 95 % bootstrap "
        f"interval. KID is times 1,000, and {floor['kid']} for real images after the autoencoder, its floor (FID: "
        f"{floor['fid']}). Caption is the cosine of picture and caption in the scorer's space. Points are the share "
        "of prompts that the majority of the four held-out judges gives to the first model, minus the share it gives "
        "to the second: the paper's user study as a machine can do it, and not a user study.\n",
        "## The marks\n",
        table(
            ("Question", "Goal", "Found", "Met"),
            (
                (one.question, f"{one.goal} {one.unit}".strip(), one.text(), "yes" if one.met else "**no**")
                for one in found_marks
            ),
        ),
        '"Met" asks it of every seed.\n',
    ]
    for steps in sorted({key[1] for key in figures.found}, reverse=True):
        rows = _cells(plan, figures, seeds, steps)
        at = f"at {steps} step{'s' * (steps > 1)}"
        parts += [
            f"## {at.capitalize()}\n",
            table(("Model", "Sampling", *(c[1] for c in COLUMNS)), rows),
        ]
        parts.append(f"![The first captions of the test split {at}, a row a model](images/results_{steps}.png)\n")
    if facts.get("ablations"):
        parts += ["## Ablations\n", _ablations(facts["ablations"])]
    if facts.get("collapses"):
        parts += ["## The over-optimization guard\n", _collapses(facts["collapses"])]
    if facts.get("prompts"):
        parts += ["## Prompts\n", _prompts(facts["prompts"])]
    parts += ["## What it cost\n", _costs(facts["trainings"])]
    return "\n".join(parts)


def _cells(plan: Plan, figures: Figures, seeds: Sequence[int], steps: int) -> Iterable[tuple[str, ...]]:
    for model, definition in plan.models.items():
        if (model, steps, seeds[0]) not in figures.found:
            continue
        used = seeds if definition.training else seeds[:1]
        cell = figures.found[model, steps, seeds[0]].cell
        yield (
            definition.title,
            f"{cell.sampler.upper()}, {cell.spacing}, {cell.guidance_scale:g}",
            *(figures.over_seeds(name, model, steps, used).text(digits) for name, _, digits in COLUMNS),
        )


def _ablations(rows: Sequence[dict[str, Any]]) -> str:
    return table(
        ("Taken out", "Steps", "Points of the whole against it", "KID, whole minus it"),
        (
            (one["title"], str(one["steps"]), one["points"].text(0, sign=True), one["kid"].text(0, sign=True))
            for one in rows
        ),
    )


def _collapses(rows: Sequence[dict[str, Any]]) -> str:
    return table(
        ("Provoked by", "Stopped at update, kept", "KID with the guard", "KID without", "Intervals apart"),
        (
            (
                one["title"],
                one["stopped"],
                one["guarded"].text(),
                one["unguarded"].text(),
                "yes" if one["apart"] else "**no**",
            )
            for one in rows
        ),
    )


def _costs(rows: Sequence[dict[str, Any]]) -> str:
    return table(
        ("Training", "Updates", "CPU minutes, one thread", "Parameters of networks held beside for it, millions"),
        (
            (one["title"], str(one["updates"]), f"{one['cpu_minutes']:.1f}", _millions(one["teacher_parameters"]))
            for one in rows
        ),
    )


def _millions(parameters: int | None) -> str:
    return f"{parameters / 1e6:.1f}" if parameters else ""


def _prompts(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """Average similarity to the nearest other prompt (ANS) before and after, of each selection."""
    return table(
        ("Prompts", "Taken", "ANS", "ANS of as many random ones"),
        (
            (name, str(one["prompts_selected"]), f"{one['ans_selected']:.3f}", f"{one['ans_random']:.3f}")
            for name, one in facts.items()
        ),
    )


def write_pictures(plan: Plan, figures: Figures, seed: int, folder: Path) -> None:
    """A grid for every number of steps: a row a model, the same captions and noise in each column."""
    folder.mkdir(parents=True, exist_ok=True)
    for steps in {key[1] for key in figures.found}:
        rows = [
            (definition.title, figures.found[model, steps, seed].pictures[:SHOWN])
            for model, definition in plan.models.items()
            if (model, steps, seed) in figures.found
        ]
        grid(rows).save(folder / f"results_{steps}.png", optimize=True)
