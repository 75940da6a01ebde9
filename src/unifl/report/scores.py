"""Reads evaluation.json into scores with intervals, and says in words whether the tuning did what it promised.

This is the report's headline (arXiv 2404.05595 §4.2, Table 1: quality at the full and at a few steps). The words are
computed from the 95% intervals, never written by hand, so a run that failed to beat the base says so in the same
place and the same size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unifl.core.errors import DataContractError

Outcome = Literal["good", "bad", "open"]
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
    def title(self) -> str:
        return f"{MODEL_TITLES.get(self.model, self.model)}, {steps_words(self.steps)}"


@dataclass(frozen=True)
class Evaluation:
    """What evaluation.json says, ready for the page. `floor` holds the scores of real images passed through the
    autoencoder."""

    few_steps: int
    full_steps: int
    rows: tuple[Row, ...]
    metrics: tuple[Metric, ...]
    floor: Mapping[str, Score]
    facts: Mapping[str, Any]

    def row(self, model: str, steps: int) -> Row | None:
        return next((row for row in self.rows if (row.model, row.steps) == (model, steps)), None)


@dataclass(frozen=True)
class Claim:
    """One comparison in words. `word` answers, `sentence` claims, `evidence` gives the figures behind it."""

    outcome: Outcome
    word: str
    sentence: str
    evidence: str


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
            facts=evaluation,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataContractError(
            f"the evaluation cannot be read: {type(error).__name__} {error}",
            step="report",
            expected="the JSON that the step evaluation writes",
            remedy="run the step evaluation again with this version",
        ) from error


def _scores(metrics: Mapping[str, Any]) -> dict[str, Score]:
    return {
        key: Score(float(entry["value"]), float(entry["low"]), float(entry["high"])) for key, entry in metrics.items()
    }


def steps_words(steps: int) -> str:
    """1 -> "1 step", 4 -> "4 steps"."""
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def number(value: float) -> str:
    """Four significant digits at most, no exponent for the sizes that metrics have."""
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


def outcome(candidate: Score, reference: Score, lower_is_better: bool) -> Outcome:
    """Better or worse only when the two 95% intervals do not overlap; otherwise open."""
    if not (candidate.has_interval or reference.has_interval):
        return "open"
    below, above = candidate.high < reference.low, candidate.low > reference.high
    if not (below or above):
        return "open"
    return "good" if below == lower_is_better else "bad"


def claims(evaluation: Evaluation) -> list[Claim]:
    """The headline first (stage 2 against the base at few steps), then what else the run set out to show. Empty when
    nothing can be compared."""
    few, full = evaluation.few_steps, evaluation.full_steps
    pairs = [("stage2", few, "base", few), ("stage1", full, "base", full), ("stage2", few, "base", full)]
    made = [_claim(evaluation, *pair) for pair in pairs]
    return [claim for claim in made if claim is not None]


def side_effects(evaluation: Evaluation) -> str:
    """One sentence on the other metrics of stage 2 against the base at few steps, naming those that got worse."""
    few = evaluation.few_steps
    tuned, base = evaluation.row("stage2", few), evaluation.row("base", few)
    if tuned is None or base is None:
        return ""
    sorted_titles: dict[str, list[str]] = {"good": [], "bad": [], "open": []}
    for metric in evaluation.metrics[1:]:
        if metric.key in tuned.scores and metric.key in base.scores:
            result = outcome(tuned.scores[metric.key], base.scores[metric.key], metric.lower_is_better)
            sorted_titles[result].append(metric.title)
    parts = [
        f"{word}: {', '.join(sorted_titles[key])}"
        for key, word in (("good", "also better"), ("bad", "worse"), ("open", "no clear difference"))
        if sorted_titles[key]
    ]
    return (
        f"Other metrics of stage 2 against the base, both at {steps_words(few)} — {'; '.join(parts)}." if parts else ""
    )


def _claim(evaluation: Evaluation, model: str, steps: int, against: str, against_steps: int) -> Claim | None:
    tuned, base = evaluation.row(model, steps), evaluation.row(against, against_steps)
    if tuned is None or base is None or not evaluation.metrics:
        return None
    metric = evaluation.metrics[0]
    if metric.key not in tuned.scores or metric.key not in base.scores:
        return None
    candidate, reference = tuned.scores[metric.key], base.scores[metric.key]
    result = outcome(candidate, reference, metric.lower_is_better)
    title, against_title = MODEL_TITLES[model], MODEL_TITLES[against].lower()
    verb = {"good": "beats", "bad": "is worse than", "open": "is not shown to differ from"}[result]
    sentence = f"{title} at {steps_words(steps)} {verb} the {against_title} at {steps_words(against_steps)}."
    word = {"good": "Yes", "bad": "No", "open": "Not shown"}[result]
    better = "lower" if metric.lower_is_better else "higher"
    overlap = "do not overlap" if result != "open" else "overlap"
    intervals = f"The 95% intervals {overlap}." if candidate.has_interval or reference.has_interval else "No interval."
    values = f"{metric.title}: {_with_interval(candidate)} against {_with_interval(reference)}"
    evidence = f"{values}{_change(candidate, reference)} ({better} is better). {intervals}"
    return Claim(result, word, sentence, evidence)


def _with_interval(score: Score) -> str:
    return (
        f"{number(score.value)} ({number(score.low)} to {number(score.high)})"
        if score.has_interval
        else number(score.value)
    )


def _change(candidate: Score, reference: Score) -> str:
    """The change in percent; nothing where a value that may be negative makes a ratio meaningless."""
    if reference.value <= 0 or candidate.value < 0:
        return ""
    direction = "lower" if candidate.value < reference.value else "higher"
    return f", {abs(candidate.value / reference.value - 1):.0%} {direction}"
