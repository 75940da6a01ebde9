"""From findings to figures: every cell's row, every comparison of two cells, one seed at a time and over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.study.measuring import Captions, subset
from unifl.evaluation import comparison, metrics
from unifl.evaluation.cells import CellFindings
from unifl.evaluation.panel import Panel

Key = tuple[str, int, int]
"""Model, steps, training seed."""

RESAMPLES = 1_000


@dataclass(frozen=True)
class Spread:
    """A figure over training seeds: mean, lowest, highest, and the 95 % interval of each seed."""

    values: tuple[metrics.Estimate, ...]

    @property
    def mean(self) -> float:
        return float(np.mean([one.value for one in self.values]))

    @property
    def sure(self) -> bool:
        """Whether every seed's interval lies on one side of 0."""
        return all(one.low > 0 for one in self.values) or all(one.high < 0 for one in self.values)

    def as_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "sure": self.sure, "seeds": [one.as_dict() for one in self.values]}

    def text(self, digits: int = 0, sign: bool = False) -> str:
        """`mean (lowest to highest)`, or one seed's value with its interval."""
        form = f"{{:{'+' if sign else ''}.{digits}f}}"
        if len(self.values) == 1:
            one = self.values[0]
            return f"{form.format(one.value)} [{form.format(one.low)}, {form.format(one.high)}]"
        low, high = min(one.value for one in self.values), max(one.value for one in self.values)
        return f"{form.format(self.mean)} ({form.format(low)} to {form.format(high)})"


class Figures:
    """Rows and comparisons of what was found, computed once each."""

    def __init__(self, found: Mapping[Key, CellFindings], captions: Captions, panel: Panel, floor: Any) -> None:
        self.found, self.captions, self.panel, self.floor = found, captions, panel, floor
        self._rows: dict[tuple[Key, int], comparison.Row] = {}
        self._texts = panel.text_vectors(captions.prompts.captions)

    def row(self, key: Key, images: int | None = None) -> comparison.Row:
        """All figures of a cell, over its first `images` prompts (default: all it has)."""
        found = self.found[key]
        count = min(images or len(found.findings), len(found.findings))
        if (key, count) not in self._rows:
            prompts = self.captions.first(count)
            row = comparison.figures(
                subset(found, count).findings,
                prompts,
                self._texts[:count],
                self.captions.reference,
                self.panel,
                RESAMPLES,
            )
            hits = self._hits(found, prompts, count)
            for name, values in hits.items():
                row.drawn[name] = metrics.mean(values, RESAMPLES)
            self._rows[key, count] = row
        return self._rows[key, count]

    def _hits(self, found: CellFindings, prompts: comparison.Prompts, count: int) -> dict[str, np.ndarray[Any, Any]]:
        """Per-image hits whose paired difference a mark asks for: style response and number of objects."""
        findings = subset(found, count).findings
        hits = {"style_response": 100.0 * self.panel.style_hits(findings, prompts.styles)}
        if findings.objects is not None:
            asked = np.array([len(one) for one in prompts.concepts])
            hits["object_count"] = 100.0 * (findings.objects[:, 0] == asked)
        return hits

    def paired(self, ours: Key, theirs: Key) -> tuple[comparison.Row, comparison.Row]:
        """Rows of two cells over the prompts that both have."""
        count = min(len(self.found[ours].findings), len(self.found[theirs].findings))
        return self.row(ours, count), self.row(theirs, count)

    def over_seeds(self, name: str, model: str, steps: int, seeds: Sequence[int]) -> Spread:
        """One figure of a model at a number of steps, of each training seed."""
        return over_seeds(seeds, lambda seed: self.row((model, steps, seed)).drawn[name].estimate())

    def difference(self, name: str, ours: Key, theirs: Key) -> metrics.Estimate:
        """Ours minus theirs of one figure, paired."""
        mine, other = self.paired(ours, theirs)
        return mine.drawn[name].minus(other.drawn[name])

    def relative(self, name: str, ours: Key, theirs: Key) -> metrics.Estimate:
        """Change of KID or FID above the autoencoder's floor, in percent of theirs."""
        mine, other = self.paired(ours, theirs)
        floor = self.floor[name]["value"]

        def change(a: Any, b: Any) -> Any:
            return 100.0 * ((a - floor) / (b - floor) - 1)

        a, b = mine.drawn[name], other.drawn[name]
        return metrics.Draws(float(change(a.value, b.value)), change(a.draws, b.draws)).estimate()

    def points(self, ours: Key, theirs: Key, axis: int | None = None) -> metrics.Estimate:
        """Preference points of the jury (or of one judge): share of prompts won minus share lost."""
        mine, other = self.paired(ours, theirs)
        judges = slice(None) if axis is None else slice(axis, axis + 1)
        return metrics.preference_points(mine.judges[judges], other.judges[judges], RESAMPLES).estimate()

    def wins(self, ours: Key, theirs: Key) -> metrics.Estimate:
        """Share of prompts that the jury gives to ours, in percent; ties count half."""
        mine, other = self.paired(ours, theirs)
        won = 50.0 * (metrics.votes(mine.judges, other.judges) + 1)
        return metrics.mean(won, RESAMPLES).estimate()

    def summary(self, key: Key) -> dict[str, Any]:
        """A cell for the JSON behind the tables."""
        found, row = self.found[key], self.row(key)
        cell = found.cell
        return {
            "model": key[0], "steps": key[1], "seed": key[2], "images": len(found.findings), "sampler": cell.sampler,
            "spacing": cell.spacing, "guidance_scale": cell.guidance_scale,
            "metrics": row.metrics() | {n: row.drawn[n].estimate().as_dict() for n in row.drawn},
        }  # fmt: skip


def over_seeds(seeds: Sequence[int], figure: Any) -> Spread:
    """The figure of each seed, `figure(seed)` giving an estimate."""
    return Spread(tuple(figure(seed) for seed in seeds))
