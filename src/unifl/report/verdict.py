"""Says in words whether the tuning did what it promised: the headline of the report.

The claims are those of arXiv 2404.05595 (§4, Table 1): few steps without loss, quality at many steps. The words follow
from the 95% intervals, never from a hand, so a run that failed to beat the base says so in the same place and size.
Where two intervals overlap, the paired difference over the same prompts decides, and the sentence says that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unifl.report.scores import Evaluation, Score, steps_words, with_interval

Outcome = Literal["good", "bad", "open"]
NO_DIFFERENCE = Score(0.0, 0.0, 0.0)
WORDS: dict[Outcome, tuple[str, str]] = {
    "good": ("Yes", "beats"),
    "bad": ("No", "is worse than"),
    "open": ("Not shown", "is not shown to differ from"),
}


@dataclass(frozen=True)
class Claim:
    """One comparison in words. `word` answers, `sentence` claims, `evidence` gives the figures behind it."""

    outcome: Outcome
    word: str
    sentence: str
    evidence: str


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


def side_effects(evaluation: Evaluation) -> list[str]:
    """What else changed from the base to stage 2 at few steps: the other metrics, and whom the jury prefers.

    Metrics are sorted by their paired difference where there is one, else by their intervals; worse ones come first.
    """
    few = evaluation.few_steps
    tuned, base = evaluation.row("stage2", few), evaluation.row("base", few)
    if tuned is None or base is None:
        return []
    compared = evaluation.comparison("stage2", few, "base", few)
    titles: dict[Outcome, list[str]] = {"bad": [], "open": [], "good": []}
    for metric in evaluation.metrics[1:]:
        if metric.key in tuned.scores and metric.key in base.scores:
            result = outcome(tuned.scores[metric.key], base.scores[metric.key], metric.lower_is_better)
            if compared is not None and metric.key in compared.differences:
                result = outcome(compared.differences[metric.key], NO_DIFFERENCE, metric.lower_is_better)
            titles[result].append(metric.title)
    words: dict[Outcome, str] = {"bad": "worse", "open": "no clear difference", "good": "better"}
    parts = [f"{words[key]}: {', '.join(found)}" for key, found in titles.items() if found]
    sentences = [f"Other metrics, both at {steps_words(few)} — {'; '.join(parts)}."] if parts else []
    if compared is not None and "jury" in compared.points:
        points = compared.points["jury"]
        whom = "prefers stage 2 by" if points.value >= 0 else "prefers the base; stage 2 stands at"
        sentences.append(f"The jury of four judges {whom} {with_interval(points)} points, of −100 to 100.")
    return sentences


def _claim(evaluation: Evaluation, model: str, steps: int, against: str, against_steps: int) -> Claim | None:
    tuned, base = evaluation.row(model, steps), evaluation.row(against, against_steps)
    if tuned is None or base is None or not evaluation.metrics:
        return None
    metric = evaluation.metrics[0]
    if metric.key not in tuned.scores or metric.key not in base.scores:
        return None
    candidate, reference = tuned.scores[metric.key], base.scores[metric.key]
    compared = evaluation.comparison(model, steps, against, against_steps)
    paired = None if compared is None else compared.differences.get(metric.key)
    result = outcome(candidate, reference, metric.lower_is_better)
    apart = result != "open"
    if not apart and paired is not None:
        result = outcome(paired, NO_DIFFERENCE, metric.lower_is_better)
    word, verb = WORDS[result]
    sentence = f"{tuned.model_title} at {tuned.steps_title} {verb} the {base.model_title.lower()} at {base.steps_title}"
    only_paired = result != "open" and not apart
    sentence += ", compared pair by pair." if only_paired else "."
    better = "lower" if metric.lower_is_better else "higher"
    evidence = f"{metric.title}: {with_interval(candidate)} against {with_interval(reference)}"
    evidence += f"{_change(candidate, reference)} ({better} is better). "
    evidence += "The 95% intervals do not overlap." if apart else "The 95% intervals overlap."
    if paired is not None:
        evidence += f" Paired over the same prompts and seeds, the difference is {with_interval(paired)}."
    return Claim(result, f"{word}, in pairs" if only_paired else word, sentence, evidence)


def _change(candidate: Score, reference: Score) -> str:
    """The change in percent; nothing where a value that may be negative makes a ratio meaningless."""
    if reference.value <= 0 or candidate.value < 0:
        return ""
    direction = "lower" if candidate.value < reference.value else "higher"
    return f", {abs(candidate.value / reference.value - 1):.0%} {direction}"
