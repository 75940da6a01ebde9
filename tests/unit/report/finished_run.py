"""Writes the folder of a finished run with real small pictures and seeded numbers, as the pipeline leaves it, for
tests of the report."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.unit.report.evaluated_models import AXES, PROMPTS, evaluation, picture, write_samples
from unifl.data import contracts

STYLES = ("noto", "twemoji", "fluent-emoji", "watercolor", "woodcut", "indigo")


def write_finished_run(folder: Path, seed: int = 7) -> Path:
    """A run in which every step has finished and stage 2 at 4 steps beats the base; returns `folder`."""
    rng = np.random.default_rng(seed)
    outputs = folder / "outputs"
    (folder / "records").mkdir(parents=True)
    write_images(outputs / "resolve_data" / "images", rng)
    write_prompts(outputs / "resolve_data" / "prompts")
    write_preferences(outputs / "resolve_data" / "preferences")
    write_json(outputs / "validate_data" / "verdict", {"passed": True, "checks": 34, "errors": 0, "warnings": 1})
    (outputs / "validate_data" / "report").write_text("<!doctype html><title>validation</title>", encoding="utf-8")
    for axis in AXES:
        write_reward(outputs / f"reward_model_{axis}" / "reward_model", axis, rng)
    write_curation(outputs / "prompt_curation" / "details", rng)
    for name, updates in (("perceptual_feedback", 60), ("decoupled_feedback", 60), ("adversarial_feedback", 120)):
        write_tuned_model(outputs / name / "tuned_model", name, updates, rng)
    write_json(outputs / "evaluation" / "evaluation", evaluation(rng))
    write_samples(outputs / "evaluation" / "samples")
    rule = {"passed": True, "sentence": "kid of stage2 at 4 steps is 11.4, to be lower than base's 47.8 at 4 steps"}
    write_json(outputs / "quality_gate" / "verdict", {"passed": True, "rules": [rule]})
    write_summary(folder)
    return folder


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_reward(folder: Path, axis: str, rng: np.random.Generator) -> None:
    """config.json and details.json of a reward model on 400 validation pairs."""
    preferred, rejected = rng.normal(0.6, 0.8, 400), rng.normal(-0.4, 0.9, 400)
    edges = np.linspace(-3.5, 3.5, 31)
    offset = -0.5 if axis == "detail" else 0.0
    alpha = float(preferred.mean()) + offset
    response = {other: -0.9 if other == axis else float(rng.normal(0, 0.06)) for other in AXES}
    details = {
        "axis": axis,
        "histograms": {
            "edges": edges.tolist(),
            "preferred": np.histogram(preferred, edges)[0].tolist(),
            "rejected": np.histogram(rejected, edges)[0].tolist(),
        },
        "operations": {
            name: {"pairs": 100, "accuracy": float(rng.uniform(0.7, 0.97))}
            for name in ("natural", f"{axis}_too_little", f"{axis}_too_much", "mixed")
        },
        "response": response,
        "response_intervals": {other: [value - 0.12, value + 0.12] for other, value in response.items()},
        "calibration": {
            "bins": [
                {
                    "low_edge": edge / 100,
                    "high_edge": edge / 100 + 0.1,
                    "pairs": pairs,
                    "predicted": edge / 100 + 0.05,
                    "observed": edge / 100 - 0.02,
                    "low": max(0.0, edge / 100 - 0.02 - 1 / pairs**0.5),
                    "high": min(1.0, edge / 100 - 0.02 + 1 / pairs**0.5),
                }
                for edge, pairs in ((50, 20), (60, 25), (70, 40), (80, 75), (90, 240))
            ],
            "ece": 0.07,
            "ece_low": 0.05,
            "ece_high": 0.09,
            "overconfidence": 0.07,
            "temperature": 2.4,
        },
        "curve": [
            {"update": 30 * epoch, "loss": 0.4, "validation_loss": 0.4, "validation_accuracy": 0.86 - 0.34 * 0.7**epoch}
            for epoch in range(1, 13)
        ],
    }
    config = {
        "axis": axis,
        "alpha": alpha,
        "alpha_low": alpha - 0.08,
        "alpha_high": alpha + 0.08,
        "alpha_offset": offset,
        "validation_accuracy": 0.86,
        "validation_accuracy_low": 0.84,
        "validation_accuracy_high": 0.88,
        "training_pairs": 3200,
        "validation_pairs": 400,
        "synthetic_preferences": True,
    }
    write_json(folder / "details.json", details)
    write_json(folder / "config.json", config)


def write_curation(path: Path, rng: np.random.Generator) -> None:
    """details.json of prompt_curation: 1,500 points around 40 centres, each centre with one selected prompt."""
    fates = ["selected", "kept", "near-duplicate", "poor", "not English", "too long"]
    counts = dict(zip(fates, [4000, 2204, 25671, 17001, 1210, 226], strict=True))
    centres = rng.normal(0, 0.3, (40, 2))
    places = centres[rng.integers(0, 40, 1500)] + rng.normal(0, 0.03, (1500, 2))
    drawn = rng.choice(fates, 1500, p=np.array(list(counts.values())) / sum(counts.values()))
    details = {
        "counts": counts,
        "sources": {
            "grammar": {"selected": 3500, "kept": 2000, "near-duplicate": 20671, "poor": 9001},
            "logs": {
                "selected": 500,
                "kept": 204,
                "near-duplicate": 5000,
                "poor": 8000,
                "not English": 1210,
                "too long": 226,
            },
        },
        "richness": {"0": 8120, "1": 8881, "2": 17400, "3": 11911, "4": 3200, "5": 800},
        "ans": {"all": 0.943, "rich": 0.951, "kept": 0.761, "selected": 0.742, "random": 0.893},
        "k": 64,
        "k_sweep": [
            {"k": 2**power, "kept": int(6204 + 4000 * 0.4**power), "walks": 3, "differs": max(0, 200 - 40 * power)}
            for power in range(9)
        ],
        "samples": {fate: [prompt for prompt, *_ in PROMPTS][: 3 + number % 3] for number, fate in enumerate(fates)},
        "map": {
            "points": [
                {"x": round(float(x), 4), "y": round(float(y), 4), "fate": str(fate), "text": "a prompt"}
                for (x, y), fate in zip(places, drawn, strict=True)
            ],
            "explained_variance": [0.061, 0.044],
        },
    }
    write_json(path, details)


def write_tuned_model(folder: Path, name: str, updates: int, rng: np.random.Generator) -> None:
    rows = []
    for update in range(1, updates + 1):
        progress = update / updates
        row: dict[str, float] = {
            "update": update,
            "loss": 1.4 - 0.6 * progress + rng.normal(0, 0.08),
            "grad_norm": 0.9 + abs(rng.normal(0, 0.3)),
            "lr": 2e-5,
            "cpu_seconds": 0.8 * update,
        }
        if name == "perceptual_feedback":
            row |= {
                "structure": 0.9 - 0.3 * progress + rng.normal(0, 0.06),
                "style": 0.5 - 0.3 * progress + rng.normal(0, 0.05),
            }
        else:
            row |= {f"hinge_{axis}": max(0.0, 0.7 - 0.5 * progress + rng.normal(0, 0.05)) for axis in AXES}
            row |= {
                f"reward_{axis}": 0.2 * index + 0.8 * progress + rng.normal(0, 0.15) for index, axis in enumerate(AXES)
            }
        if name == "adversarial_feedback":
            row |= {
                "generator": 0.5 + rng.normal(0, 0.2),
                "discriminator": 1.3 - 0.2 * progress + rng.normal(0, 0.1),
                "discriminator_accuracy": 0.5 + 0.2 * progress + rng.normal(0, 0.05),
                "score_real": 0.4 * progress + rng.normal(0, 0.1),
                "score_fake": -0.4 * progress + rng.normal(0, 0.1),
            }
        rows.append(row)
    folder.mkdir(parents=True)
    (folder / "training.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_images(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    mask = contracts.encode_mask(np.ones((64, 64), bool))
    rows = []
    for number in range(240):
        caption, shape, colour, background = PROMPTS[number % len(PROMPTS)]
        buffer = io.BytesIO()
        picture(shape, colour, background, 0, 0, rng).save(buffer, "PNG")
        style = STYLES[number % len(STYLES)]
        licence = "CC-BY-4.0" if style == "twemoji" else "Apache-2.0" if style == "noto" else "MIT"
        rows.append(
            {
                "image_id": f"image-{number:05d}",
                "image": buffer.getvalue(),
                "caption": caption,
                "style": style,
                "concepts": [shape],
                "attributes": ["red"],
                "relation": None,
                "background": "plain",
                "masks": [mask],
                "split": "test" if style == "indigo" else ("train", "train", "train", "validation", "test")[number % 5],
                "source": f"{style}-icons@1.2#{shape}; {style}-icons@1.2#icon-{number}",
                "licence": licence,
                "attribution": f"The authors of the {style} icon set",
            }
        )
    pq.write_table(pa.Table.from_pylist(rows, contracts.IMAGES), folder / "images-00000.parquet")


def write_prompts(path: Path) -> None:
    rows = [
        {"prompt_id": f"prompt-{number}", "text": text, "source": "grammar", "licence": "Apache-2.0"}
        for number, (text, *_) in enumerate(PROMPTS)
    ]
    pq.write_table(pa.Table.from_pylist(rows, contracts.PROMPTS), path)


def write_preferences(path: Path) -> None:
    untouched = {"image_a": "image-00000", "derivation_a": "", "image_b": "image-00001", "derivation_b": ""}
    vote = {"prompt": PROMPTS[0][0], "preferred": "a", "weight": 1.0, "split": "train", "synthetic": True}
    rows = [
        {"pair_id": f"{axis}-{pair}", "axis": axis, "annotator": annotator, **untouched, **vote}
        for axis in AXES
        for pair in range(20)
        for annotator in range(5)
    ]
    pq.write_table(pa.Table.from_pylist(rows, contracts.PREFERENCES), path)


def write_summary(folder: Path) -> None:
    """summary.json and a record a step, with the outputs that lie in the folder."""
    data = ["images", "prompts", "preferences"]
    ran: list[tuple[str, list[str], dict[str, Any], float]] = [
        ("resolve_data", [], {}, 3.1),
        ("validate_data", data, {"checks": 34, "errors": 0, "warnings": 1}, 18.4),
        ("prompt_curation", ["prompts"], {"prompts_read": 50312, "ans_selected": 0.742}, 96.2),
        *[
            (f"reward_model_{axis}", data[::2], {"axis": axis, "updates": 360, "validation_accuracy": 0.86}, 61.0)
            for axis in AXES
        ],
        ("perceptual_feedback", ["base_model", "images"], {"updates": 60}, 141.0),
        ("decoupled_feedback", ["base_model"], {"updates": 60}, 152.7),
        ("adversarial_feedback", ["base_model", "images"], {"updates": 120}, 243.9),
        ("evaluation", ["base_model"], {f"stage2_4_{name}": 11.4 for name in ("kid", "fid", "clip_like")}, 120.3),
        ("quality_gate", ["evaluation"], {"passed": True, "rules": 1}, 0.4),
    ]
    steps = []
    for index, (name, taken, metrics, cpu) in enumerate(ran):
        made = {path.name: f"outputs/{name}/{path.name}" for path in sorted((folder / "outputs" / name).iterdir())}
        write_json(folder / "records" / f"{name}.json", statement(name, taken, made))
        steps.append(
            {
                "name": name,
                "cached": index < 2,
                "outcome": "succeeded",
                "wall_seconds": cpu * 0.7,
                "cpu_seconds": cpu,
                "metrics": metrics,
                "outputs": made,
                "record": f"records/{name}.json",
            }
        )
    summary = {"id": "20261123T041500Z-demo", "preset": "demo", "started": "2026-11-23T04:15:00+00:00", "error": None}
    write_json(folder / "summary.json", summary | {"wall_seconds": 612.4, "steps": steps})


def statement(step: str, taken: list[str], outputs: dict[str, str]) -> dict[str, Any]:
    """An in-toto statement as the hook around steps writes it, with digests of the names."""

    def described(name: str, uri: str) -> dict[str, Any]:
        return {"name": name, "uri": uri, "digest": {"sha256": hashlib.sha256(uri.encode()).hexdigest()}}

    given = {name: f"outputs/resolve_data/{name}" for name in ("images", "prompts", "preferences")}
    uris = given | {"evaluation": "outputs/evaluation/evaluation", "base_model": "data/base_model"}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [described(name, uri) for name, uri in outputs.items()],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "externalParameters": {"step": step, "settings": {"seed": 0}},
                "internalParameters": {
                    "seed": 0,
                    "commit": "9f1c2d7be0a4431f9b1d5f7f8f1f64a2b6a2a5d3",
                    "dirty": False,
                    "code_version": "4b1d" * 16,
                },
                "resolvedDependencies": [described(name, uris[name]) for name in taken or outputs],
            },
            "runDetails": {"metadata": {"finishedOn": "2026-11-23T04:25:00Z"}, "cpu_seconds": 1.0},
        },
    }
