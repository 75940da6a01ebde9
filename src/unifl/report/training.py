"""The report's sections on what was trained and on what: tuning curves, rewards, prompts, pictures of the data set.

Every function returns what its part of the template shows, or a `Missing` with the reason, so that a run which
stopped half-way still gets a page that says where. arXiv 2404.05595 §3.1 (PeFL), §3.2 (decoupled rewards, prompt
selection) and §3.3 (adversarial feedback).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unifl.core.errors import UniflError
from unifl.report import figures
from unifl.report.pictures import read_png
from unifl.report.run_folder import Missing, RunFolder, read_json_lines
from unifl.report.scores import number

TUNING_STEPS = {
    "perceptual_feedback": (
        "Perceptual feedback (PeFL), stage 1a",
        "Structure and style of a real picture, predicted from its noised latent.",
    ),
    "decoupled_feedback": (
        "Decoupled feedback, stage 1",
        "Four reward models from pure noise, each with a hinge at its alpha.",
    ),
    "adversarial_feedback": (
        "Adversarial feedback, stage 2",
        "A reward model as discriminator over the whole trajectory; the four hinges stay.",
    ),
}
AXES = ("color", "layout", "lighting", "detail")
MOST_EXAMPLES = 4
NOT_DRAWN = ("update", "lr", "learning_rate", "cpu_seconds", "wall_seconds", "samples", "images", "epoch", "seed")


def tuning(run: RunFolder) -> list[dict[str, Any]]:
    """One entry a tuning step: title, what it optimises, and its curves with the number of updates, or why there are
    none."""
    return [
        {"name": name, "title": title, "subject": subject, **_curves(run, name, title)}
        for name, (title, subject) in TUNING_STEPS.items()
    ]


def _curves(run: RunFolder, name: str, title: str) -> dict[str, Any]:
    folder = run.output(name, "tuned_model")
    updates = folder if isinstance(folder, Missing) else read_json_lines(folder / "training.jsonl")
    if isinstance(updates, Missing):
        return {"updates": None, "missing": updates.reason}
    alphas = {f"reward_{axis}": config["alpha"] for axis in AXES if "alpha" in (config := _reward_config(run, axis))}
    return {
        "updates": int(updates[-1]["update"]),
        "figure": figures.training_curves(updates, panels(updates), f"curves-{name}", title, alphas),
    }


def panels(updates: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """The numeric keys of training.jsonl as (heading, keys): the loss, each of its terms, then rewards, hinges,
    discriminator, gradient."""
    keys = dict.fromkeys(
        key
        for update in updates
        for key, value in update.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in NOT_DRAWN
    )
    for key in [key for key in keys if key != "loss" and all(row.get(key) == row.get("loss") for row in updates)]:
        del keys[key]  # the only term of the loss
    grouped: dict[str, list[str]] = {}
    for key in keys:
        grouped.setdefault(_heading(key), []).append(key)
    last = ("Rewards", "Hinge terms", "Discriminator", "Gradient norm")
    order = sorted(grouped, key=lambda heading: (heading != "Loss", last.index(heading) if heading in last else -1))
    return [(heading, grouped[heading]) for heading in order]


def _heading(key: str) -> str:
    if key == "loss":
        return "Loss"
    if "grad_norm" in key:
        return "Gradient norm"
    if "hinge" in key:
        return "Hinge terms"
    if any(axis in key for axis in AXES):
        return "Rewards"
    if any(word in key for word in ("discriminator", "real", "fake")):
        return "Discriminator"
    return figures.readable(key).capitalize()


def rewards(run: RunFolder) -> list[dict[str, Any]]:
    """One entry an axis: alpha, validation accuracy, distribution of scores and curve, or why there are none."""
    return [{"axis": axis, **_reward(run, axis)} for axis in AXES]


def _reward_config(run: RunFolder, axis: str) -> dict[str, Any]:
    config = run.json(f"reward_model_{axis}", "reward_model", "config.json")
    return {} if isinstance(config, Missing) else config


def _reward(run: RunFolder, axis: str) -> dict[str, Any]:
    config = run.json(f"reward_model_{axis}", "reward_model", "config.json")
    details = run.json(f"reward_model_{axis}", "reward_model", "details.json")
    if isinstance(config, Missing):
        return {"missing": config.reason}
    if isinstance(details, Missing):
        return {"missing": details.reason}
    facts = [
        ("α (mean score of preferred images)", _interval(config, "alpha")),
        ("Validation accuracy", _interval(config, "validation_accuracy")),
    ]
    figure = figures.reward_figure(axis, details.get("histograms"), details.get("curve", []), config.get("alpha"))
    return {"facts": [(label, text) for label, text in facts if text], "figure": figure}


def _interval(config: Mapping[str, Any], key: str) -> str:
    """`key` as "0.71 (0.68 to 0.74)" from key, key_low, key_high; without the bracket where there is no interval."""
    if config.get(key) is None:
        return ""
    low, high = config.get(f"{key}_low"), config.get(f"{key}_high")
    return number(config[key]) + (f" ({number(low)} to {number(high)})" if low is not None and high is not None else "")


def prompts(run: RunFolder) -> dict[str, Any] | Missing:
    """What became of the prompts: counts by fate and source, ANS before and after, the map, the sweep over k,
    examples."""
    details = run.json("prompt_curation", "details")
    if isinstance(details, Missing):
        return details
    points = details["map"]["points"]
    fates = [fate for fate, count in details["counts"].items() if count]
    return {
        "read": f"{sum(details['counts'].values()):,}",
        "survivors": f"{details['counts']['selected'] + details['counts']['kept']:,}",
        "selected": f"{details['counts']['selected']:,}",
        "ans": {name: number(value) for name, value in details["ans"].items()},
        "k": details["k"],
        "fates": fates,
        "sources": [
            (source, [f"{counts.get(fate, 0):,}" for fate in fates], f"{sum(counts.values()):,}")
            for source, counts in details["sources"].items()
        ],
        "examples": [
            (fate, details["samples"][fate][:MOST_EXAMPLES]) for fate in fates if details["samples"].get(fate)
        ],
        "map": figures.prompt_map(
            np.array([[point["x"], point["y"]] for point in points], dtype=float).reshape(-1, 2),
            [point["fate"] for point in points],
            sum(details["map"]["explained_variance"]),
        ),
        "sweep": figures.line_chart(
            [trial["k"] for trial in details["k_sweep"]],
            [trial["kept"] for trial in details["k_sweep"]],
            name="k-sweep",
            title="Survivors of compression by k",
            x_label="nearest neighbours looked at (k)",
            y_label="prompts",
        ),
        "richness": figures.bar_chart(
            details["richness"],
            "richness",
            "Richness of the prompts read",
            "largest count of relations of one subject",
            "prompts",
        ),
    }


def data(run: RunFolder) -> dict[str, Any] | Missing:
    """Counts by style and split, licences with their attribution, and how many prompts and votes the run was given."""
    folder = run.output("resolve_data", "images")
    if isinstance(folder, Missing):
        return folder
    from unifl.data import contracts

    try:
        table = contracts.open_images(folder)
        frame = table.frame
        examples = [
            (str(style), str(rows["caption"].iloc[0]), _picture(table.encoded(rows["image_id"].iloc[0])))
            for style, rows in frame.groupby("style")
        ]
    except UniflError as error:
        return Missing(str(error))
    view: dict[str, Any] = {
        "images": f"{len(frame):,}",
        "examples": examples,
        "splits": sorted(frame["split"].unique(), key=["train", "validation", "test"].index),
    }
    table = frame.groupby(["style", "split"]).size().unstack(fill_value=0)
    view["styles"] = [
        (style, [f"{row.get(split, 0):,}" for split in view["splits"]], f"{row.sum():,}")
        for style, row in table.iterrows()
    ]
    licences = Counter(zip(frame["source"], frame["licence"], frame["attribution"], strict=True))
    view["licences"] = [(*key, f"{count:,}") for key, count in sorted(licences.items())]
    view["concepts"] = f"{len({concept for row in frame['concepts'] for concept in row}):,}"
    view["others"] = [entry for entry in (_prompt_count(run), _preference_count(run)) if entry]
    return view


def _picture(encoded: bytes) -> str:
    return read_png(io.BytesIO(encoded))[1]


def _prompt_count(run: RunFolder) -> tuple[str, str] | None:
    path = run.output("resolve_data", "prompts")
    return None if isinstance(path, Missing) else ("prompts", f"{_rows(path):,}")


def _preference_count(run: RunFolder) -> tuple[str, str] | None:
    path = run.output("resolve_data", "preferences")
    return None if isinstance(path, Missing) else ("votes on pairs of images", f"{_rows(path):,}")


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.ParquetFile(path).metadata.num_rows)
