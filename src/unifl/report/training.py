"""The report's sections on what was trained and on what: tuning curves, prompts, pictures of the data set.

Every function returns what its part of the template shows, or a `Missing` with the reason, so that a run which
stopped half-way still gets a page that says where. arXiv 2404.05595 §3.1 (PeFL), §3.2 (decoupled rewards, prompt
selection) and §3.3 (adversarial feedback).
"""

from __future__ import annotations

import io
from collections import Counter
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from unifl.core.errors import UniflError
from unifl.report import figures
from unifl.report.pictures import read_png
from unifl.report.rewards import AXES
from unifl.report.run_folder import Missing, RunFolder, or_missing, read_json, read_json_lines
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
MOST_EXAMPLES = 4
NOT_DRAWN = ("update", "lr", "learning_rate", "cpu_seconds", "wall_seconds", "samples", "images", "epoch", "seed")


def tuning(run: RunFolder) -> list[dict[str, Any]]:
    """One entry a tuning step: title, what it optimises, and its curves with the number of updates, or why there are
    none."""
    entries = []
    for name, (title, subject) in TUNING_STEPS.items():
        curves = or_missing(partial(_curves, run, name, title), "training.jsonl")
        found = {"updates": None, "missing": curves.reason} if isinstance(curves, Missing) else curves
        entries.append({"title": title, "subject": subject, **found})
    return entries


def _curves(run: RunFolder, name: str, title: str) -> dict[str, Any] | Missing:
    folder = run.output(name, "tuned_model")
    if isinstance(folder, Missing):
        return folder
    updates = read_json_lines(folder / "training.jsonl")
    if isinstance(updates, Missing):
        return updates
    guard = read_json(folder / "guard.json") if (folder / "guard.json").exists() else {"inspections": []}
    if isinstance(guard, Missing):
        return guard
    rows = sorted([*updates, *map(_look, guard["inspections"])], key=itemgetter("update"))
    alphas = {f"reward_{axis}": config["alpha"] for axis in AXES if "alpha" in (config := _reward_config(run, axis))}
    return {
        "updates": int(updates[-1]["update"]),
        "figure": figures.training_curves(rows, panels(rows), f"curves-{name}", title, alphas),
        "guard": _guard_words(guard),
    }


def _look(inspection: dict[str, Any]) -> dict[str, float]:
    """An inspection of the guard as a point of the curves."""
    return {
        "update": inspection["update"],
        "held_out_kid": inspection["kid"]["value"],
        "held_out_judges": inspection["judges"]["value"],
    }


def _guard_words(guard: dict[str, Any]) -> str:
    looks = guard["inspections"]
    if not looks:
        return "No over-optimization guard was on."
    if guard["stopped_at"] is None:
        return f"The over-optimization guard looked {len(looks)} times and let it go on to the end."
    return (
        f"The over-optimization guard stopped it after update {guard['stopped_at']}: {looks[-1]['worse']}. The weights "
        f"of update {guard['kept_update']} are kept."
    )


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
    last = (
        "Rewards",
        "Hinge terms",
        "Discriminator loss",
        "Discriminator accuracy",
        "Discriminator scores",
        "Gradient norm",
    )
    order = sorted(grouped, key=lambda heading: (heading != "Loss", last.index(heading) if heading in last else -1))
    return [(heading, grouped[heading]) for heading in order]


def _heading(key: str) -> str:
    if key == "loss":
        return "Loss"
    if key.startswith("held_out"):
        return "KID, held out" if key == "held_out_kid" else "Judges, held out"
    if "grad_norm" in key:
        return "Gradient norm"
    if "hinge" in key:
        return "Hinge terms"
    if key.startswith(("variety_", "contrast_")):
        return "Pictures' deviation"
    if any(axis in key for axis in AXES):
        return "Rewards"
    if key in ("score_real", "score_fake"):
        return "Discriminator scores"
    return "Discriminator loss" if key == "discriminator" else figures.readable(key).capitalize()


def _reward_config(run: RunFolder, axis: str) -> dict[str, Any]:
    config = run.json(f"reward_model_{axis}", "reward_model", "config.json")
    return {} if isinstance(config, Missing) else config


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
    packages = [_packages(source) for source in frame["source"]]
    licences = Counter(zip(packages, frame["licence"], frame["attribution"], strict=True))
    view["licences"] = [("images", *key, f"{count:,}") for key, count in sorted(licences.items())]
    view["licences"] += _prompt_licences(run)
    view["concepts"] = f"{len({concept for row in frame['concepts'] for concept in row}):,}"
    view["others"] = [
        entry for entry in (_count(run, "prompts", "prompts"), _count(run, "preferences", "votes on pairs")) if entry
    ]
    return view


def _picture(encoded: bytes) -> str:
    return read_png(io.BytesIO(encoded))[1]


def _packages(source: str) -> str:
    """The icon sets in "set@1.2#dog; set@1.2#cat", without the single icons: "set@1.2"."""
    return "; ".join(sorted({icon.split("#")[0].strip() for icon in source.split(";")}))


def _prompt_licences(run: RunFolder) -> list[tuple[str, str, str, str, str]]:
    path = run.output("resolve_data", "prompts")
    if isinstance(path, Missing):
        return []
    import pyarrow.parquet as pq

    counts = Counter(pq.read_table(path, columns=["licence"]).column("licence").to_pylist())
    return [("prompts", "prompt database", licence, "", f"{count:,}") for licence, count in sorted(counts.items())]


def _count(run: RunFolder, output: str, label: str) -> tuple[str, str] | None:
    path = run.output("resolve_data", output)
    return None if isinstance(path, Missing) else (label, f"{_rows(path):,}")


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.ParquetFile(path).metadata.num_rows)
