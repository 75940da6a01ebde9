"""The report's section on the reward models: alpha, accuracy, calibration, and whether each stays on its axis.

What arXiv 2404.05595 §3.2 claims of decoupled rewards, on this run's held-out pairs and probe pictures. A reward that
is not there costs its own part of the section and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from unifl.report import figures
from unifl.report.run_folder import Missing, RunFolder, or_missing
from unifl.report.scores import Score, number, with_interval

AXES = ("color", "layout", "lighting", "detail")
SPILL = 0.25
"""A reward hardly reacts to another axis up to this share of its own reaction. The paper gives no number."""
TOO_SURE = 0.02
"""From this mean difference of predicted probability and share of votes on, the page says that there is one."""
DARKEST_TINT = 38  # percent of the axis's colour behind a cell; its text stays above a contrast of 4.5


def rewards(run: RunFolder) -> dict[str, Any]:
    """One entry an axis (alpha, accuracy, figure, or why there are none), the calibration, the table of reactions.

    The table has a row a reward and a column a degraded axis: the mean change of the score, in its standard deviations.
    A decoupled reward falls on its own axis and hardly moves on the others.
    """
    entries: list[dict[str, Any]] = []
    for axis in AXES:
        reward = or_missing(partial(_reward, run, axis), "The reward model's description")
        entries.append({"axis": axis, **({"missing": reward.reason} if isinstance(reward, Missing) else reward)})
    calibrations = {entry["axis"]: entry["calibration"] for entry in entries if entry.get("calibration")}
    reactions = {entry["axis"]: entry["reactions"] for entry in entries if entry.get("reactions")}
    strongest = max((abs(score.value) for row in reactions.values() for score in row.values()), default=0.0)
    return {
        "entries": entries,
        "calibration": figures.calibration_figure(calibrations) if calibrations else None,
        "calibration_words": [calibration_words(axis, found) for axis, found in calibrations.items()],
        "reactions": [(axis, _cells(axis, row, strongest)) for axis, row in reactions.items()],
        "spill": f"{SPILL:.0%}",
        "faults": [words for axis, row in reactions.items() for words in reaction_faults(axis, row)],
        "synthetic": any(entry.get("synthetic") for entry in entries),
    }


def _reward(run: RunFolder, axis: str) -> dict[str, Any] | Missing:
    config = run.json(f"reward_model_{axis}", "reward_model", "config.json")
    details = run.json(f"reward_model_{axis}", "reward_model", "details.json")
    if isinstance(config, Missing):
        return config
    if isinstance(details, Missing):
        return details
    offset = config["alpha_offset"]
    facts = [
        ("α", with_interval(_score(config, "alpha")) + (f", lowered by {number(-offset)}" if offset < 0 else "")),
        ("Validation accuracy", with_interval(_score(config, "validation_accuracy"))),
        ("Training pairs", f"{config['training_pairs']:,}"),
        ("Validation pairs", f"{config['validation_pairs']:,}"),
    ]
    calibration = details.get("calibration")
    if calibration:
        facts.insert(2, ("Calibration error", with_interval(_score(calibration, "ece"))))
    return {
        "facts": facts,
        "note": _alpha_note(axis, config["alpha"], offset) if offset < 0 else None,
        "figure": figures.reward_figure(axis, details, config["alpha"]),
        "calibration": calibration,
        "reactions": _reactions(details),
        "synthetic": config["synthetic_preferences"],
    }


def _alpha_note(axis: str, alpha: float, offset: float) -> str:
    return (
        f"The preferred pictures score {number(alpha - offset)} on average. The hinge of {axis} lets go earlier, at "
        f"{number(alpha)}: in the paper's ablation of α a higher one adds noise in the place of detail."
    )


def _score(described: Mapping[str, Any], key: str) -> Score:
    return Score(described[key], described[f"{key}_low"], described[f"{key}_high"])


def _reactions(details: Mapping[str, Any]) -> dict[str, Score]:
    """The reaction to each axis; without intervals where an earlier version of the step has computed none."""
    means, intervals = details.get("response") or {}, details.get("response_intervals") or {}
    return {axis: Score(means[axis], *intervals.get(axis, (means[axis],) * 2)) for axis in AXES} if means else {}


def _cells(axis: str, row: Mapping[str, Score], strongest: float) -> list[dict[str, Any]]:
    """A row of the heat map: falls are tinted in the reward's own colour, rises are not (a reward should have none)."""
    cells = []
    for other in AXES:
        fall = max(0.0, -row[other].value)
        tint = round(DARKEST_TINT * fall / strongest) if strongest else 0
        cells.append({"score": row[other], "own": other == axis, "tint": tint})
    return cells


def reaction_faults(axis: str, row: Mapping[str, Score]) -> list[str]:
    """What is wrong with a reward's reactions, one sentence each; empty when it falls on its own axis alone."""
    own = row[axis]
    if own.high >= 0:
        return [f"{axis.capitalize()} does not surely fall when {axis} is degraded: {with_interval(own)}."]
    faults = []
    for other, reaction in row.items():
        if other != axis and abs(reaction.value) > SPILL * abs(own.value):
            chance = " That may be chance." if reaction.low <= 0 <= reaction.high and reaction.has_interval else ""
            verb = "falls" if reaction.value < 0 else "rises"
            faults.append(
                f"{axis.capitalize()} also {verb} when {other} is degraded: {with_interval(reaction)}, "
                f"{abs(reaction.value / own.value):.0%} of its reaction to {axis}.{chance}"
            )
    return faults


def calibration_words(axis: str, found: Mapping[str, Any]) -> str:
    """ "Color is 5.8 points too sure; its logits fit best when divided by 2.5." """
    gap = found["overconfidence"]
    if abs(gap) < TOO_SURE:
        return f"{axis.capitalize()} is as sure as its annotators agree."
    direction = "too sure" if gap > 0 else "too modest"
    return (
        f"{axis.capitalize()} is {abs(gap) * 100:.1f} points {direction} on average; its logits fit best when divided "
        f"by {number(found['temperature'])}."
    )
