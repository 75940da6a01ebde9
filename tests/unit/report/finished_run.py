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
from PIL import Image, ImageDraw, ImageFilter

from unifl.data import contracts

FEW, FULL = 4, 20
AXES = ("color", "layout", "lighting", "detail")
PROMPTS = [
    ("a red apple on a plain background, glossy icon", "apple", "#c62828", "#f3ead8"),
    ("a small fox left of a pine, watercolor painting", "triangle", "#d2691e", "#cfe3f2"),
    ("a yellow star above a house, flat icon", "star", "#f2b705", "#24324a"),
    ("a blue fish, engraving", "fish", "#2f6fb5", "#e8dcc0"),
    ("two green cactuses, woodcut print", "cactus", "#3c7a3c", "#f0e2b6"),
    ("a purple umbrella beside a cloud, noto icon", "apple", "#7a3fa0", "#dfe8ef"),
    ("a large owl on a gradient background, impasto painting", "triangle", "#6b4a2f", "#b9cbd6"),
    ("a rocket above a moon, twemoji icon", "star", "#b03a48", "#182038"),
]
STYLES = ("noto", "twemoji", "fluent-emoji", "watercolor", "woodcut", "indigo")


def write_finished_run(folder: Path, seed: int = 7) -> Path:
    """A run in which every step has finished and stage 2 at 4 steps beats the base; returns `folder`."""
    rng = np.random.default_rng(seed)
    outputs = folder / "outputs"
    outputs.mkdir(parents=True)
    (folder / "records").mkdir()
    write_images(outputs / "images", rng)
    write_prompts(outputs / "prompts.parquet")
    write_preferences(outputs / "preferences.parquet")
    for axis in AXES:
        write_reward(outputs / f"reward_model_{axis}", axis, rng)
    write_curation(outputs / "curation.json", rng)
    for name, updates in (("perceptual_feedback", 60), ("decoupled_feedback", 60), ("adversarial_feedback", 120)):
        write_tuned_model(outputs / name, name, updates, rng)
    write_json(outputs / "evaluation.json", evaluation(rng))
    write_samples(outputs / "samples")
    write_summary(folder)
    return folder


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def picture(
    shape: str, colour: str, background: str, blur: float, speckle: float, rng: np.random.Generator
) -> Image.Image:
    """A 64 px picture of one object, blurred and blotched as a sampler with too few steps does."""
    image = Image.new("RGB", (256, 256), background)
    draw = ImageDraw.Draw(image)
    if shape == "apple":
        draw.ellipse((56, 72, 200, 216), fill=colour)
        draw.rectangle((122, 36, 134, 84), fill="#5a3a1e")
    elif shape == "triangle":
        draw.polygon([(128, 40), (212, 210), (44, 210)], fill=colour)
        draw.ellipse((100, 130, 120, 150), fill="white")
        draw.ellipse((138, 130, 158, 150), fill="white")
    elif shape == "star":
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2, 45, 100)
        draw.polygon(
            [(128 + r * np.cos(a), 128 + r * np.sin(a)) for r, a in zip(radii, angles, strict=True)], fill=colour
        )
    elif shape == "fish":
        draw.ellipse((40, 84, 180, 172), fill=colour)
        draw.polygon([(170, 128), (226, 84), (226, 172)], fill=colour)
    else:
        draw.rounded_rectangle((104, 48, 152, 220), 22, fill=colour)
        draw.rounded_rectangle((60, 100, 90, 170), 14, fill=colour)
        draw.rounded_rectangle((166, 84, 196, 150), 14, fill=colour)
    small = image.resize((64, 64), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(blur))
    noise = rng.normal(0, 1, (8, 8, 3))
    blotches = (
        np.asarray(
            Image.fromarray(np.uint8(np.clip(noise * 40 + 128, 0, 255))).resize((64, 64), Image.Resampling.BICUBIC),
            float,
        )
        - 128
    )
    return Image.fromarray(np.uint8(np.clip(np.asarray(small, float) + speckle * blotches, 0, 255)))


def write_samples(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = []
    for model, steps, blur, speckle in (
        ("base", FULL, 0.9, 0.25),
        ("base", FEW, 2.2, 1.1),
        ("stage1", FULL, 0.6, 0.15),
        ("stage2", FEW, 0.5, 0.2),
    ):
        names = []
        for index, (_, shape, colour, background) in enumerate(PROMPTS):
            name = f"{model}-{steps}-{index:02d}.png"
            picture(shape, colour, background, blur, speckle, np.random.default_rng(index)).save(folder / name)
            names.append(name)
        rows.append({"model": model, "steps": steps, "images": names})
    write_json(
        folder / "samples.json",
        {"prompts": [prompt for prompt, *_ in PROMPTS], "seeds": list(range(len(PROMPTS))), "rows": rows},
    )


def evaluation(rng: np.random.Generator, *, stage2_kid: float = 11.4) -> dict[str, Any]:
    def entry(value: float, spread: float) -> dict[str, float]:
        return {"value": value, "low": value - spread, "high": value + spread}

    kids = {
        ("base", FULL): 14.2,
        ("base", FEW): 47.8,
        ("stage1", FULL): 12.1,
        ("stage1", FEW): 39.9,
        ("stage2", FULL): 13.0,
        ("stage2", FEW): stage2_kid,
    }
    results = []
    for (model, steps), kid in kids.items():
        metrics = {
            "kid": entry(kid, 0.9 + 0.02 * kid),
            "fid": entry(20 + 1.3 * kid, 2.0),
            "image_text": entry(0.34 - kid / 900, 0.004),
        }
        for axis in AXES:
            metrics[axis] = entry(1.2 - kid / 60 + rng.normal(0, 0.05), 0.04)
        metrics["concept"] = entry(0.81 - kid / 150, 0.02)
        results.append({"model": model, "steps": steps, "metrics": metrics})
    info = {
        "kid": {
            "title": "KID × 1000",
            "better": "lower",
            "explanation": "Distance of features of generated and real pictures.",
        },
        "fid": {"title": "FID (64 PCA)", "better": "lower"},
        "image_text": {"title": "Image–text", "better": "higher"},
        **{axis: {"title": axis.capitalize(), "better": "higher"} for axis in AXES},
        "concept": {"title": "Concept", "better": "higher"},
    }
    return {
        "few_steps": FEW,
        "full_steps": FULL,
        "images": 2000,
        "results": results,
        "floor": {"kid": entry(5.3, 0.4), "fid": entry(18.2, 1.5)},
        "metric_info": info,
    }


def write_reward(folder: Path, axis: str, rng: np.random.Generator) -> None:
    preferred, rejected = rng.normal(0.9, 0.8, 400), rng.normal(-0.4, 0.9, 400)
    edges = np.linspace(-3.5, 3.5, 36)
    curve = [
        {
            "epoch": epoch,
            "loss": 0.69 * 0.85**epoch + 0.2,
            "validation_accuracy": 0.86 - 0.34 * 0.7**epoch + rng.normal(0, 0.006),
        }
        for epoch in range(12)
    ]
    details = {
        "axis": axis,
        "histograms": {
            "edges": edges.tolist(),
            "preferred": np.histogram(preferred, edges)[0].tolist(),
            "rejected": np.histogram(rejected, edges)[0].tolist(),
        },
        "curve": curve,
    }
    write_json(folder / "details.json", details)
    alpha = float(preferred.mean())
    config = {"axis": axis, "trunk": "lite0", "alpha": alpha, "alpha_low": alpha - 0.08, "alpha_high": alpha + 0.08}
    write_json(
        folder / "config.json",
        config | {"validation_accuracy": 0.86, "validation_accuracy_low": 0.84, "validation_accuracy_high": 0.88},
    )


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
            row |= {
                f"reward_{axis}": 0.2 * index + 0.8 * progress + rng.normal(0, 0.15) for index, axis in enumerate(AXES)
            }
        if name == "adversarial_feedback":
            row |= {
                "generator": 0.5 + rng.normal(0, 0.2),
                "discriminator_loss": 1.3 - 0.2 * progress + rng.normal(0, 0.1),
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
                "source": f"{style} icons",
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
    given = {
        "images": "outputs/images",
        "prompts": "outputs/prompts.parquet",
        "preferences": "outputs/preferences.parquet",
    }
    made: list[tuple[str, list[str], dict[str, str], dict[str, Any], float]] = [
        ("resolve_data", [], given, {}, 3.1),
        ("validate_data", ["images", "prompts", "preferences"], {}, {"expectations": 34, "failed": 0}, 18.4),
        (
            "prompt_curation",
            ["prompts"],
            {"details": "outputs/curation.json"},
            {"selected": 5000, "ans_after": 0.742},
            96.2,
        ),
        *[
            (
                f"reward_model_{axis}",
                ["preferences", "images"],
                {"reward_model": f"outputs/reward_model_{axis}"},
                {"axis": axis, "updates": 360, "alpha": 0.9, "validation_accuracy": 0.86},
                61.0,
            )
            for axis in AXES
        ],
        (
            "perceptual_feedback",
            ["base_model", "images"],
            {"tuned_model": "outputs/perceptual_feedback"},
            {"updates": 60},
            141.0,
        ),
        ("decoupled_feedback", ["base_model"], {"tuned_model": "outputs/decoupled_feedback"}, {"updates": 60}, 152.7),
        (
            "adversarial_feedback",
            ["base_model", "images"],
            {"tuned_model": "outputs/adversarial_feedback"},
            {"updates": 120},
            243.9,
        ),
        (
            "evaluation",
            ["base_model"],
            {"evaluation": "outputs/evaluation.json", "samples": "outputs/samples"},
            {"kid_stage2": 11.4},
            120.3,
        ),
        ("quality_gate", ["evaluation"], {}, {"passed": True}, 0.4),
    ]
    steps = []
    for index, (name, taken, outputs, metrics, cpu) in enumerate(made):
        record = f"records/{name}.json"
        write_json(folder / record, statement(name, taken, outputs))
        steps.append(
            {
                "name": name,
                "cached": index < 2,
                "outcome": "succeeded",
                "wall_seconds": cpu * 0.7,
                "cpu_seconds": cpu,
                "metrics": metrics,
                "outputs": outputs,
                "record": record,
            }
        )
    summary = {"id": "20261123T041500Z-demo", "preset": "demo", "started": "2026-11-23T04:15:00+00:00", "error": None}
    write_json(folder / "summary.json", summary | {"wall_seconds": 612.4, "steps": steps})


def statement(step: str, taken: list[str], outputs: dict[str, str]) -> dict[str, Any]:
    """An in-toto statement as the hook around steps writes it, with digests of the names."""

    def described(name: str, uri: str) -> dict[str, Any]:
        return {"name": name, "uri": uri, "digest": {"sha256": hashlib.sha256(uri.encode()).hexdigest()}}

    uris = {
        "images": "outputs/images",
        "prompts": "outputs/prompts.parquet",
        "preferences": "outputs/preferences.parquet",
        "evaluation": "outputs/evaluation.json",
        "base_model": "data/base_model",
    }
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
                "resolvedDependencies": [described(name, uris[name]) for name in taken],
            },
            "runDetails": {"metadata": {"finishedOn": "2026-11-23T04:25:00Z"}, "cpu_seconds": 1.0},
        },
    }
