"""The report's figures, one function each, as inline SVG that follows the page's colours.

They show what arXiv 2404.05595 argues with: the metric at few and many steps (§4.2), reward distributions with alpha
(§3.2, equation 4), the selected prompts among all (§3.2, active prompt selection), and the terms of each tuning
step's loss (§3.1 to §3.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from unifl.report.scores import Metric, Row, Score, number
from unifl.report.svg import ROLES, drawing, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMOOTHING_SHARE = 0.05
"""Half life of the moving mean as a share of all updates: enough to see a trend, too little to hide a collapse."""


def interval_chart(rows: Sequence[Row], metric: Metric, floor: Score | None) -> Markup:
    """Every sampler's value of `metric` as a dot with its 95% interval, one line each; the autoencoder's floor as a
    dashed line."""
    shown = [row for row in rows if metric.key in row.scores]
    with drawing(8.2, 0.55 + 0.34 * len(shown)) as (figure, axes):
        axis = axes[0][0]
        for place, row in enumerate(reversed(shown)):
            score, colour = row.scores[metric.key], ROLES.get(row.model, ROLES["total"])
            axis.plot([score.low, score.high], [place, place], color=colour, linewidth=2.4, solid_capstyle="round")
            axis.plot([score.value], [place], "o", color=colour, markersize=6)
            axis.annotate(
                number(score.value),
                (score.high, place),
                (6, 0),
                textcoords="offset points",
                va="center",
                color=ROLES["ink"],
                fontsize=8.5,
            )
        if floor is not None:
            axis.axvline(floor.value, color=ROLES["muted"], linestyle=(0, (4, 3)), linewidth=1)
            axis.annotate(
                "autoencoder floor",
                (floor.value, len(shown) - 0.55),
                (4, 0),
                textcoords="offset points",
                va="bottom",
                color=ROLES["muted"],
                fontsize=8,
            )
        axis.set_yticks(range(len(shown)), [row.title for row in reversed(shown)], color=ROLES["ink"])
        axis.set_ylim(-0.6, len(shown) - 0.15)
        axis.margins(x=0.12)
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
        axis.set_xlabel(f"{metric.title} ({'lower' if metric.lower_is_better else 'higher'} is better)")
        return inline_svg(figure, f"interval-{metric.key}", _interval_words(shown, metric))


def training_curves(
    updates: Sequence[Mapping[str, Any]],
    panels: Sequence[tuple[str, Sequence[str]]],
    name: str,
    title: str,
    levels: Mapping[str, float],
) -> Markup:
    """Panels of curves over the update number: raw values thin, their moving mean thick. `panels` is (heading, keys
    of training.jsonl)."""
    # As many as there are up to four, else the three or four that leave fewer cells empty.
    columns = len(panels) if len(panels) <= 4 else min((4, 3), key=lambda count: -len(panels) % count)
    rows = -(-len(panels) // columns)
    steps = np.array([float(update["update"]) for update in updates])
    with drawing(9.6, 2.15 * rows + 0.1, rows, columns) as (figure, axes):
        cells = [axis for row in axes for axis in row]
        for axis, (heading, keys) in zip(cells, panels, strict=False):
            for key, colour in zip(keys, colours_of(keys), strict=True):
                values = np.array([float(update.get(key, np.nan)) for update in updates])
                known = np.isfinite(values)
                if len(keys) == 1:
                    axis.plot(*thinned(steps[known], values[known]), color=colour, linewidth=0.6, alpha=0.35)
                axis.plot(
                    *thinned(steps[known], moving_mean(values[known])),
                    color=colour,
                    linewidth=1.7,
                    label=short_label(key, keys),
                )
                if key in levels:
                    axis.axhline(levels[key], color=colour, linewidth=1, linestyle=(0, (2, 2)))
            axis.set_title(heading)
            axis.set_xlabel("update")
            if len(keys) > 1:
                _legend_above_curves(axis, len(keys))
        for axis in cells[len(panels) :]:
            axis.set_visible(False)
        words = f"{title}: " + "; ".join(f"{heading} from {_ends(updates, keys)}" for heading, keys in panels)
        return inline_svg(figure, name, words)


def reward_figure(axis_name: str, details: Mapping[str, Any], alpha: float) -> Markup:
    """A reward on its validation pairs: scores of both sides with alpha, accuracy while training, accuracy by
    operation.

    `details` is details.json of a reward model's folder (histograms, curve, operations).
    """
    with drawing(9.6, 2.6, 1, 3) as (figure, axes):
        scores, curve, operations = axes[0]
        edges = np.asarray(details["histograms"]["edges"], dtype=float)
        for side, colour, fill in (("rejected", ROLES["muted"], 0.25), ("preferred", ROLES[axis_name], 0.35)):
            counts = np.asarray(details["histograms"][side], dtype=float)
            scores.stairs(counts, edges, fill=True, color=colour, alpha=fill)
            scores.stairs(counts, edges, color=colour, linewidth=1.4, label=side)
        height = scores.get_ylim()[1]
        scores.plot([alpha, alpha], [0, height], "--", color=ROLES["ink"], linewidth=1.3, label=f"α = {number(alpha)}")
        scores.set(title="Scores of validation images", xlabel="score, in standard deviations", ylabel="images")
        _legend_above_curves(scores, 3)
        _draw_accuracy(curve, details["curve"], ROLES[axis_name])
        _draw_operations(operations, details["operations"], ROLES[axis_name])
        last = details["curve"][-1]["validation_accuracy"]
        words = (
            f"Reward for {axis_name}: alpha is {number(alpha)}, validation accuracy ends at {last:.1%}. By operation: "
        )
        words += ", ".join(f"{name} {entry['accuracy']:.0%}" for name, entry in details["operations"].items())
        return inline_svg(figure, f"reward-{axis_name}", words)


def calibration_figure(found: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Reliability curves, one panel an axis: share of votes over predicted probability, with intervals.

    `found` maps an axis to `calibration` of its details.json. Areas of dots and bars at the foot say where the pairs
    are: no line joins the dots, since it would lead the eye to bins of one or two.
    """
    with drawing(9.6, 2.75, 1, 4) as (figure, axes):
        for panel, (axis_name, one) in zip(axes[0], found.items(), strict=False):
            bins, colour = one["bins"], ROLES[axis_name]
            most = max(entry["pairs"] for entry in bins)
            for entry in bins:
                width = entry["high_edge"] - entry["low_edge"]
                height = 0.2 * entry["pairs"] / most
                panel.bar(entry["low_edge"], height, 0.9 * width, align="edge", color=ROLES["dropped"])
            panel.plot([0.5, 1], [0.5, 1], color=ROLES["muted"], linewidth=1, linestyle=(0, (4, 3)))
            places = [entry["predicted"] for entry in bins]
            lows, highs = [entry["low"] for entry in bins], [entry["high"] for entry in bins]
            panel.vlines(places, lows, highs, color=colour, linewidth=1.1, alpha=0.6)
            areas = [6 + 54 * entry["pairs"] / most for entry in bins]
            panel.scatter(places, [entry["observed"] for entry in bins], areas, color=colour, zorder=3)
            panel.set(title=axis_name.capitalize(), xlabel="predicted probability", xlim=(0.48, 1.02), ylim=(0, 1.05))
            panel.set_xticks([0.5, 0.75, 1.0], ["0.5", "0.75", "1"])
        axes[0][0].set_ylabel("share of the votes")
        for panel in axes[0][len(found) :]:
            panel.set_visible(False)
        words = ", ".join(
            f"{name} {number(one['ece'])}, interval {number(one['ece_low'])} to {number(one['ece_high'])}"
            for name, one in found.items()
        )
        return inline_svg(figure, "reward-calibration", f"Expected calibration error of the rewards: {words}.")


def prompt_map(points: NDArray[np.float64], fates: Sequence[str], explained: float) -> Markup:
    """A map of prompt embeddings [N, 2] coloured by fate: selected, kept but not drawn, and everything that was
    dropped.

    `explained` is the share of the embeddings' variance that the two directions hold, 0 to 1.
    """
    groups = {"selected": ("kept", 3.0), "kept": ("stage1", 2.6)}
    with drawing(5.6, 4.5) as (figure, axes):
        axis = axes[0][0]
        chosen = np.array([groups.get(fate, ("dropped", 2.2))[0] for fate in fates], dtype=object)
        for role, size, label in (
            ("dropped", 2.2, "dropped"),
            ("stage1", 2.6, "kept, not drawn"),
            ("kept", 3.0, "selected"),
        ):
            mask = chosen == role
            if mask.any():
                axis.plot(
                    points[mask, 0],
                    points[mask, 1],
                    "o",
                    color=ROLES[role],
                    markersize=size,
                    markeredgewidth=0,
                    label=f"{label} ({int(mask.sum()):,})",
                )
        axis.set(
            xticks=[],
            yticks=[],
            xlabel=f"two main directions of the sentence embeddings ({explained:.0%} of their variance)",
        )
        axis.grid(visible=False)
        axis.spines[["left", "bottom"]].set_visible(False)
        axis.legend(
            loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, handletextpad=0.1, markerscale=2, columnspacing=1
        )
        axis.set_title("Map of a sample of the prompts", pad=24)
        counts = ", ".join(
            f"{int((chosen == role).sum())} {word}"
            for role, word in (("kept", "selected"), ("stage1", "kept"), ("dropped", "dropped"))
        )
        return inline_svg(figure, "prompt-map", f"Map of {len(fates)} prompts: {counts}.")


def line_chart(x: Sequence[float], y: Sequence[float], name: str, title: str, x_label: str, y_label: str) -> Markup:
    """One series with its points marked, x on a scale of powers of 2."""
    with drawing(3.8, 2.2) as (figure, axes):
        axis = axes[0][0]
        axis.plot(x, y, "o-", color=ROLES["kept"], linewidth=1.6, markersize=4)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.minorticks_off()
        axis.set(title=title, xlabel=x_label, ylabel=y_label)
        return inline_svg(
            figure, name, f"{title}: " + ", ".join(f"{number(b)} at {a:g}" for a, b in zip(x, y, strict=True))
        )


def bar_chart(counts: Mapping[str, int], name: str, title: str, x_label: str, y_label: str) -> Markup:
    """One bar a key, in the order given."""
    with drawing(3.8, 2.2) as (figure, axes):
        axis = axes[0][0]
        axis.bar(range(len(counts)), list(counts.values()), color=ROLES["base"], width=0.75)
        axis.set_xticks(range(len(counts)), list(counts))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.grid(axis="x", visible=False)
        axis.set(title=title, xlabel=x_label, ylabel=y_label)
        return inline_svg(
            figure, name, f"{title}: " + ", ".join(f"{count:,} with {key}" for key, count in counts.items())
        )


def moving_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exponential moving mean with a half life of SMOOTHING_SHARE of the series, corrected for its start."""
    decay = 0.5 ** (1 / max(1.0, SMOOTHING_SHARE * len(values)))
    smooth, total, weight = np.empty_like(values), 0.0, 0.0
    for index, value in enumerate(values):
        total, weight = decay * total + float(value), decay * weight + 1.0
        smooth[index] = total / weight
    return smooth


def thinned(
    x: NDArray[np.float64], y: NDArray[np.float64], most: int = 400
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most `most` points of a curve, evenly spaced, the last one always among them: more cannot be seen and only
    grow the file."""
    if len(x) <= most:
        return x, y
    chosen = np.unique(np.linspace(0, len(x) - 1, most).round().astype(int))
    return x[chosen], y[chosen]


def colours_of(keys: Sequence[str]) -> list[str]:
    """The axis's own colour for a key that names one of the four axes, else the next of a few plain ones."""
    plain = iter(
        [
            ROLES["stage2"],
            ROLES["stage1"],
            ROLES["base"],
            ROLES["color"],
            ROLES["layout"],
            ROLES["lighting"],
            ROLES["detail"],
            ROLES["total"],
        ]
        * 3
    )
    named = {axis: ROLES[axis] for axis in ("color", "layout", "lighting", "detail")}
    return [next((colour for axis, colour in named.items() if axis in key), None) or next(plain) for key in keys]


def short_label(key: str, keys: Sequence[str]) -> str:
    """A key without the words that all keys of its panel share: `reward_color` beside `reward_layout` is `color`."""
    shared = set.intersection(*(set(other.split("_")) for other in keys)) if len(keys) > 1 else set()
    return " ".join(word for word in readable(key).split() if word not in shared) or readable(key)


def readable(key: str) -> str:
    """`reward_color` -> `reward color`."""
    return key.replace("_", " ").replace("/", " ").strip()


def _legend_above_curves(axis: Axes, entries: int) -> None:
    """Makes room above the curves and puts the legend there, so that it covers none of them."""
    columns = 2 if entries <= 4 else 3
    rows = -(-entries // columns)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + (high - low) * 0.14 * rows)
    axis.legend(
        loc="upper left", ncols=columns, handlelength=1.1, columnspacing=1, labelspacing=0.25, borderaxespad=0.2
    )


def _draw_accuracy(axis: Axes, curve: Sequence[Mapping[str, float]], colour: str) -> None:
    updates = np.array([point["update"] for point in curve], dtype=float)
    accuracy = np.array([point["validation_accuracy"] for point in curve], dtype=float)
    axis.plot(*thinned(updates, accuracy), color=colour, linewidth=1.7)
    axis.axhline(0.5, color=ROLES["muted"], linewidth=1, linestyle=(0, (4, 3)))
    axis.annotate(
        "chance", (updates[-1], 0.5), (0, 3), textcoords="offset points", ha="right", color=ROLES["muted"], fontsize=8
    )
    axis.set(title="Validation accuracy", xlabel="update", ylim=(min(0.45, float(accuracy.min())), 1.0))


def _draw_operations(axis: Axes, operations: Mapping[str, Mapping[str, float]], colour: str) -> None:
    names = sorted(operations, key=lambda name: operations[name]["accuracy"])
    shares = [operations[name]["accuracy"] for name in names]
    axis.barh(range(len(names)), shares, color=colour, alpha=0.55, height=0.7)
    axis.axvline(0.5, color=ROLES["muted"], linewidth=1, linestyle=(0, (4, 3)))
    # Where voters rejected a side without a fault: twins, and votes cast without looking.
    called = {"untouched": "no fault"}
    labels = [f"{called.get(name, readable(name))} ({operations[name]['pairs']:.0f})" for name in names]
    axis.set_yticks(range(len(names)), labels, color=ROLES["ink"])
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0, labelsize=8)
    axis.set(title="Accuracy by the loser's fault", xlim=(0, 1), xlabel="share of pairs")


def _ends(updates: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    ends = []
    for key in keys:
        values = np.array([float(update[key]) for update in updates if key in update])
        if len(values):
            smooth = moving_mean(values)
            ends.append(f"{readable(key)} {number(float(smooth[0]))} to {number(float(smooth[-1]))}")
    return ", ".join(ends)


def _interval_words(rows: Sequence[Row], metric: Metric) -> str:
    parts = []
    for row in rows:
        score = row.scores[metric.key]
        parts.append(f"{row.title}: {number(score.value)}, interval {number(score.low)} to {number(score.high)}")
    return f"{metric.title}. " + "; ".join(parts)
