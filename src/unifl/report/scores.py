"""Reads evaluation.json into scores with intervals, for the report's tables, charts and words.

The figures are those of arXiv 2404.05595 Table 1 (quality at the full and at a few steps) and of its user study, as the
step evaluation measures them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unifl.core.errors import DataContractError

MODEL_TITLES = {"base": "Base", "stage1": "Stage 1", "stage2": "Stage 2"}


@dataclass(frozen=True)
class Score:
    """A metric's value with the two ends of its 95% interval; the ends equal the value where no interval was
    computed."""

    value: float
    low: float
    high: float

    @property
    def has_interval(self) -> bool:
        return self.high > self.low


@dataclass(frozen=True)
class Metric:
    """One column of the table: its key in the JSON, its title, which direction is better, and what it measures."""

    key: str
    title: str
    lower_is_better: bool
    explanation: str = ""


@dataclass(frozen=True)
class Row:
    """One judged sampler: `model` in base, stage1, stage2, at `steps` denoising steps."""

    model: str
    steps: int
    scores: Mapping[str, Score]

    @property
    def model_title(self) -> str:
        return MODEL_TITLES.get(self.model, self.model)

    @property
    def steps_title(self) -> str:
        return steps_words(self.steps)

    @property
    def title(self) -> str:
        return f"{self.model_title}, {self.steps_title}"


@dataclass(frozen=True)
class Comparison:
    """Two samplers over the same prompts and seeds: paired differences (first minus second) and the jury's preference.

    `points` are the share of pairs that the first wins minus the share it loses, times 100: `jury` for the four judges'
    majority, and each axis alone.
    """

    model: str
    steps: int
    against: str
    against_steps: int
    differences: Mapping[str, Score]
    points: Mapping[str, Score]

    @property
    def title(self) -> str:
        ours = f"{MODEL_TITLES.get(self.model, self.model)}, {steps_words(self.steps)}"
        return (
            f"{ours} against {MODEL_TITLES.get(self.against, self.against).lower()}, {steps_words(self.against_steps)}"
        )


@dataclass(frozen=True)
class Evaluation:
    """What evaluation.json says, ready for the page. `floor` holds the scores of real images passed through the
    autoencoder."""

    few_steps: int
    full_steps: int
    rows: tuple[Row, ...]
    metrics: tuple[Metric, ...]
    floor: Mapping[str, Score]
    comparisons: tuple[Comparison, ...]
    examiners: Mapping[str, Mapping[str, Any]]
    facts: Mapping[str, Any]

    def row(self, model: str, steps: int) -> Row | None:
        return next((row for row in self.rows if (row.model, row.steps) == (model, steps)), None)

    def comparison(self, model: str, steps: int, against: str, against_steps: int) -> Comparison | None:
        asked = (model, steps, against, against_steps)
        found = (one for one in self.comparisons if (one.model, one.steps, one.against, one.against_steps) == asked)
        return next(found, None)


def read_evaluation(evaluation: Mapping[str, Any]) -> Evaluation:
    """The evaluation from the JSON that the step evaluation wrote; raises DataContractError when it lacks what every
    evaluation has."""
    try:
        rows = tuple(
            Row(str(row["model"]), int(row["steps"]), _scores(row["metrics"])) for row in evaluation["results"]
        )
        metrics = tuple(
            Metric(key, str(info["title"]), info["better"] == "lower", str(info.get("explanation", "")))
            for key, info in evaluation["metric_info"].items()
        )
        return Evaluation(
            few_steps=int(evaluation["few_steps"]),
            full_steps=int(evaluation["full_steps"]),
            rows=rows,
            metrics=metrics,
            floor=_scores(evaluation["floor"]),
            comparisons=tuple(_comparison(entry) for entry in evaluation["comparisons"]),
            examiners=evaluation["examiners"],
            facts=evaluation,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataContractError(
            f"the evaluation cannot be read: {type(error).__name__} {error}",
            step="report",
            expected="the JSON that the step evaluation writes",
            remedy="run the step evaluation again with this version",
        ) from error


def _comparison(entry: Mapping[str, Any]) -> Comparison:
    ours, theirs = (str(entry["model"]), int(entry["steps"])), (str(entry["against"]), int(entry["against_steps"]))
    return Comparison(*ours, *theirs, _scores(entry["differences"]), _scores(entry["preference_points"]))


def _scores(metrics: Mapping[str, Any]) -> dict[str, Score]:
    return {
        key: Score(float(entry["value"]), float(entry["low"]), float(entry["high"])) for key, entry in metrics.items()
    }


def steps_words(steps: int) -> str:
    """1 -> "1 step", 4 -> "4 steps"."""
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def with_interval(score: Score) -> str:
    """ "11.4 (10.3 to 12.5)"."""
    value = number(score.value)
    return f"{value} ({number(score.low)} to {number(score.high)})" if score.has_interval else value


def number(value: float) -> str:
    """About three significant digits with a true minus sign, no exponent for the sizes that metrics have."""
    return _digits(value).replace("-", "−")


def _digits(value: float) -> str:
    magnitude = abs(value)
    if magnitude >= 1000:
        return f"{value:,.0f}"
    if magnitude >= 100:
        return f"{value:.0f}"
    if magnitude >= 10:
        return f"{value:.1f}"
    if magnitude >= 1:
        return f"{value:.2f}"
    return f"{value:.3f}"
