"""Pictures and figures of an evaluation of three models, as the step evaluation writes them, for tests of the
report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

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
    listing = {"prompts": [prompt for prompt, *_ in PROMPTS], "seeds": list(range(len(PROMPTS))), "rows": rows}
    (folder / "samples.json").write_text(json.dumps(listing), encoding="utf-8")


def entry(value: float, spread: float) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def metric_info() -> dict[str, dict[str, str]]:
    """Title, direction and explanation of every metric, KID first."""
    info = {
        "kid": ("KID ×1000", "lower", "Distance to real held-out images, from features of another network."),
        "fid": ("FID (64 d)", "lower", "Fréchet distance to real held-out images on fixed directions."),
        "clip_like": ("Image–text", "higher", "Cosine of image and caption in a contrastive space."),
        **{f"judge_{axis}": (f"Judge: {axis}", "higher", f"Mean score of a judge of {axis}.") for axis in AXES},
        "concept_top1": ("Concept top-1", "higher", "Share of prompts whose object is named first."),
        "style_top1": ("Style top-1", "higher", "Share of images whose style is named first."),
    }
    return {key: {"title": title, "better": better, "explanation": text} for key, (title, better, text) in info.items()}


def evaluation(rng: np.random.Generator, *, stage2_kid: float = 11.4) -> dict[str, Any]:
    """evaluation.json: three models at two step counts; all metrics follow KID, with a little noise."""
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
            "clip_like": entry(0.34 - kid / 900, 0.004),
            **{f"judge_{axis}": entry(0.9 - kid / 40 + rng.normal(0, 0.05), 0.04) for axis in AXES},
            "concept_top1": entry(0.81 - kid / 150, 0.02),
            "style_top1": entry(0.93 - kid / 300, 0.015),
        }
        results.append({"model": model, "steps": steps, "metrics": metrics})
    by_model = {(row["model"], row["steps"]): row["metrics"] for row in results}
    comparisons = []
    for ours, theirs in (
        (("stage1", FULL), ("base", FULL)),
        (("stage2", FEW), ("base", FEW)),
        (("stage2", FEW), ("base", FULL)),
    ):
        gap = by_model[theirs]["kid"]["value"] - by_model[ours]["kid"]["value"]
        differences = {
            key: entry(value["value"] - by_model[theirs][key]["value"], 0.6 * (value["high"] - value["value"]))
            for key, value in by_model[ours].items()
            if not key.endswith("top1")
        }
        points = {name: entry(float(np.clip(gap * 1.5 + rng.normal(0, 3), -90, 90)), 4.0) for name in ("jury", *AXES)}
        comparisons.append(
            {
                "model": ours[0],
                "steps": ours[1],
                "against": theirs[0],
                "against_steps": theirs[1],
                "differences": differences,
                "preference_points": points,
            }
        )
    examiners = {axis: {"pairs": 600, "accuracy": entry(0.88, 0.02)} for axis in AXES}
    return {
        "few_steps": FEW,
        "full_steps": FULL,
        "images": 2000,
        "reference_images": 2000,
        "guidance_scale": 4.0,
        "stage2_guidance_scale": None,
        "spacing": "trailing",
        "results": results,
        "floor": {"kid": entry(5.3, 0.4), "fid": entry(18.2, 1.5)},
        "metric_info": metric_info(),
        "comparisons": comparisons,
        "examiners": examiners | {"scorer": {"gallery": 200, "recall_at_1": entry(0.41, 0.03)}},
    }
