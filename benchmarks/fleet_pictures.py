"""The two pictures of docs/scale.md, drawn by `python -m benchmarks.fleet --pictures docs/images`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.fleet_simulation import daly, young

mpl.rcParams.update({"svg.hashsalt": "unifl", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
COLORS = ("#1f6f8b", "#c8553d", "#588157")


def _saved(figure: Figure, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
    return file


def interval_picture(curves: list[tuple[float, float, list[float], list[float]]], folder: Path) -> Path:
    """Overhead of stage 2 by checkpoint interval, with Young's and Daly's intervals marked."""
    figure = Figure(figsize=(7.2, 4.2))
    axes = figure.add_subplot()
    for color, (mean, cost, intervals, overheads) in zip(COLORS, curves, strict=True):
        axes.plot(intervals, [100 * o for o in overheads], color=color, label=f"a node lives {mean / 3600:g} h")
        for formula, marker in ((young, "o"), (daly, "D")):
            best = formula(cost, mean)
            height = 100 * float(np.interp(best, intervals, overheads))
            axes.plot([best], [height], marker, color=color, markerfacecolor="white" if marker == "o" else color)
    axes.plot([], [], "o", color="black", markerfacecolor="white", label="Young")
    axes.plot([], [], "D", color="black", label="Daly")
    axes.axvline(60, color="gray", linewidth=0.8, linestyle=":")
    axes.text(62, 112, "60 s", color="gray")
    axes.set(xscale="log", yscale="log", ylim=(0.3, 150), xlabel="seconds of training between two checkpoints")
    axes.set_yticks([1, 10, 100], ["1", "10", "100"])
    axes.set_xticks([100, 1000, 10000], ["100", "1,000", "10,000"])
    axes.set_ylabel("time over undisturbed training, %")
    axes.set_title(f"Stage 2 on 8 GPUs, a checkpoint takes {curves[0][1]:.0f} s, nodes lost without notice")
    axes.legend(frameon=False)
    return _saved(figure, folder / "fleet_interval.svg")


def scaling_picture(parts: list[tuple[int, dict[str, float]]], folder: Path) -> Path:
    """Shares of the longest path by number of GPUs, and its hours."""
    figure = Figure(figsize=(7.2, 4.2))
    axes = figure.add_subplot()
    names = list(parts[0][1])
    colors = ("#1f6f8b", "#c8553d", "#e9a03b", "#9c89b8", "#588157", "#b7b7b7")
    positions = np.arange(len(parts))
    bottom = np.zeros(len(parts))
    for name, color in zip(names, colors, strict=True):
        heights = np.array([100 * max(hours[name], 0) / sum(hours.values()) for _, hours in parts])
        axes.bar(positions, heights, 0.72, bottom=bottom, color=color, label=name)
        bottom += heights
    for position, (_, hours) in zip(positions, parts, strict=True):
        axes.text(position, 101, f"{sum(hours.values()):.0f} h", ha="center")
    axes.set_xticks(positions, [str(gpus) for gpus, _ in parts])
    axes.set(xlabel="GPUs", ylabel="share of the run's hours, %", ylim=(0, 108))
    axes.legend(frameon=False, bbox_to_anchor=(1.0, 0.9), loc="upper left")
    return _saved(figure, folder / "fleet_scaling.svg")


PICTURES: dict[str, Callable[[Any, Path], Path]] = {"Interval": interval_picture, "Scaling": scaling_picture}
