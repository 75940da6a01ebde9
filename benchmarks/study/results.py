"""Gathers what the study found and writes it: docs/results.md, the JSON behind every number, and the pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.study.figures import Figures, Key, over_seeds
from benchmarks.study.marks import Mark, marks
from benchmarks.study.measuring import Measuring, Sampling
from benchmarks.study.page import results_page, write_pictures
from benchmarks.study.plan import Plan
from benchmarks.study.structure import MaskKeeping
from benchmarks.study.training import Trainings
from unifl.core.files import write_json_atomic, write_text_atomic
from unifl.evaluation.cells import CellFindings
from unifl.evaluation.metrics import Draws
from unifl.feedback.guard import SUMMARY_NAME
from unifl.lineage.records import read_record

NOISE_TO = 10
"""T_a of arXiv 2404.05595 §3.1."""


def write_results(
    measuring: Measuring,
    found: Mapping[Key, CellFindings],
    chosen: Mapping[tuple[str, int], Sampling],
    seeds: Sequence[int],
    models: Sequence[str],
    output: Path,
    command: str,
) -> list[Mark]:
    """Write results.md, results.json and images/results_*.png below `output`; give the marks."""
    plan = measuring.plan
    figures = Figures(found, measuring.test, measuring.panel, measuring.floor())
    masks, ceiling = keeping_of_masks(measuring, chosen, seeds, models)
    answers = list(marks(figures, seeds, plan.few_steps, plan.full_steps, masks))
    facts = {
        "ablations": ablations(plan, figures, seeds),
        "collapses": collapses(plan, figures, measuring.trainings, seeds),
        "trainings": costs(plan, measuring.trainings, seeds, models),
        "prompts": prompt_facts(plan, measuring.trainings, seeds[0], models),
    }
    write_pictures(plan, figures, seeds[0], output / "images")
    write_text_atomic(output / "results.md", results_page(plan, figures, seeds, answers, facts, command))
    write_json_atomic(
        output / "results.json",
        {
            "command": command,
            "seeds": list(seeds),
            "floor": figures.floor,
            "chosen": [{"model": model, "steps": steps, **asdict(how)} for (model, steps), how in chosen.items()],
            "marks": [one.as_dict() for one in answers],
            "cells": [figures.summary(key) for key in found if plan.models[key[0]].training or key[2] == seeds[0]],
            "masks": {
                "real_images": ceiling,
                "models": [
                    {"model": model, "seed": seed, **draws.estimate().as_dict()}
                    for (model, seed), draws in masks.items()
                ],
            },
            **{name: plain(value) for name, value in facts.items()},
        },
    )
    return answers


def keeping_of_masks(
    measuring: Measuring, chosen: Mapping[tuple[str, int], Sampling], seeds: Sequence[int], models: Sequence[str]
) -> tuple[dict[tuple[str, int], Draws], dict[str, float]]:
    """Overlap of masks after noising real images, for base and stage 1, with the same sampling; and the probe's own."""
    full = measuring.plan.full_steps
    if not {"base", "stage1"} <= set(models):
        return {}, {}
    store = measuring.trainings.folder / "masks"
    keeping = MaskKeeping(measuring.table, measuring.images["ablation"], NOISE_TO, full, store)
    how = chosen["base", full]
    masks = {
        (model, seed): keeping.of(
            lambda m=model, s=seed: measuring.adapter(m, s),
            measuring.digest(model, seed),
            how.guidance_scale,
            how.spacing,
        )
        for seed in seeds
        for model in ("base", "stage1")
    }
    return masks, keeping.real()


def ablations(plan: Plan, figures: Figures, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Points and KID difference of the whole model against each one without a part."""
    rows = []
    for one in plan.ablations:
        keys = [((one.whole, one.steps, seed), (one.without, one.steps, seed)) for seed in seeds]
        if all(key in figures.found for pair in keys for key in pair):
            pairs = dict(zip(seeds, keys, strict=True))
            points = over_seeds(seeds, lambda seed, p=pairs: figures.points(*p[seed]))
            kid = over_seeds(seeds, lambda seed, p=pairs: figures.difference("kid", *p[seed]))
            rows.append({"title": one.title, "steps": one.steps, "points": points, "kid": kid})
    return rows


def collapses(plan: Plan, figures: Figures, trainings: Trainings, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What became of each provoked collapse, with the guard and without."""
    rows = []
    for one in plan.collapses:
        names = (one.guarded, one.unguarded)
        if not all((name, one.steps, seed) in figures.found for name in names for seed in seeds):
            continue
        guarded, unguarded = (figures.over_seeds("kid", name, one.steps, seeds) for name in names)
        looks = [guard_of(trainings.model(one.guarded, seed)) for seed in seeds]
        rows.append(
            {
                "title": one.title,
                "stopped": ", ".join(f"{look['stopped_at']}, {look['kept_update']}" for look in looks),
                "guarded": guarded,
                "unguarded": unguarded,
                "apart": all(a.high < b.low for a, b in zip(guarded.values, unguarded.values, strict=True)),
            }
        )
    return rows


def guard_of(model: Path | None) -> dict[str, Any]:
    """What the guard of a training has said."""
    assert model is not None, "a collapse names trained models"
    return dict(json.loads((model / SUMMARY_NAME).read_text(encoding="utf-8")))


def costs(plan: Plan, trainings: Trainings, seeds: Sequence[int], models: Sequence[str]) -> list[dict[str, Any]]:
    """Updates and CPU minutes of each training, from its lineage record, averaged over seeds."""
    rows = []
    for name in plan.in_order(models):
        records = [read_record(trainings.place(name, seed) / "record.json").run for seed in seeds]
        updates = [one["metrics"].get("updates") for one in records]
        rows.append(
            {
                "title": name,
                "updates": updates[0] if updates[0] is not None else "",
                "cpu_minutes": sum(one["cpu_seconds"] for one in records) / len(records) / 60,
                "teacher_parameters": records[0]["metrics"].get("teacher_parameters"),
            }
        )
    return rows


def prompt_facts(plan: Plan, trainings: Trainings, seed: int, models: Sequence[str]) -> dict[str, Any]:
    """Metrics of every prompt selection, ANS among them."""
    return {
        name: dict(read_record(trainings.place(name, seed) / "record.json").run["metrics"])
        for name in plan.in_order(models)
        if plan.trainings[name].step == "prompt_curation"
    }


def plain(value: Any) -> Any:
    """Spreads as dictionaries, for JSON."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.as_dict() if hasattr(value, "as_dict") else value
