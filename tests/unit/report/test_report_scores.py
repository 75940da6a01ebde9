"""The words of the headline follow from the intervals, also when the run failed to beat the base."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.report.evaluated_models import FEW, evaluation
from unifl.core.errors import DataContractError
from unifl.report.scores import Score, number, read_evaluation, steps_words
from unifl.report.verdict import claims, outcome, side_effects


def test_disjoint_lower_interval_is_better_for_a_distance() -> None:
    assert outcome(Score(10, 9, 11), Score(20, 19, 21), lower_is_better=True) == "good"


def test_disjoint_higher_interval_is_worse_for_a_distance() -> None:
    assert outcome(Score(20, 19, 21), Score(10, 9, 11), lower_is_better=True) == "bad"


def test_disjoint_higher_interval_is_better_for_a_score() -> None:
    assert outcome(Score(0.4, 0.39, 0.41), Score(0.3, 0.29, 0.31), lower_is_better=False) == "good"


def test_touching_intervals_are_open() -> None:
    assert outcome(Score(10, 9, 15), Score(20, 15, 21), lower_is_better=True) == "open"


def test_values_without_intervals_are_open() -> None:
    assert outcome(Score(10, 10, 10), Score(20, 20, 20), lower_is_better=True) == "open"


@pytest.mark.parametrize(
    ("stage2_kid", "word", "sentence"),
    [
        (46.0, "Yes, in pairs", "Stage 2 at 4 steps beats the base at 4 steps, compared pair by pair."),
        (11.4, "Yes", "Stage 2 at 4 steps beats the base at 4 steps."),
        (47.5, "Not shown", "Stage 2 at 4 steps is not shown to differ from the base at 4 steps."),
        (80.0, "No", "Stage 2 at 4 steps is worse than the base at 4 steps."),
    ],
)
def test_headline_says_what_the_intervals_say(stage2_kid: float, word: str, sentence: str) -> None:
    first = claims(read_evaluation(evaluation(np.random.default_rng(0), stage2_kid=stage2_kid)))[0]
    assert (first.word, first.sentence) == (word, sentence)


def test_evidence_gives_both_values_with_their_intervals() -> None:
    first = claims(read_evaluation(evaluation(np.random.default_rng(0))))[0]
    assert "11.4 (10.3 to 12.5) against 47.8 (45.9 to 49.7)" in first.evidence
    assert "76% lower" in first.evidence


def test_metrics_that_got_worse_are_named_first() -> None:
    described = evaluation(np.random.default_rng(0))
    compared = next(row for row in described["comparisons"] if (row["model"], row["against_steps"]) == ("stage2", FEW))
    compared["differences"]["judge_layout"] = {"value": -0.4, "low": -0.5, "high": -0.3}
    assert "— worse: Judge: layout; better: FID" in side_effects(read_evaluation(described))[0]


def test_paired_difference_decides_where_intervals_overlap() -> None:
    described = evaluation(np.random.default_rng(0), stage2_kid=47.0)
    compared = next(row for row in described["comparisons"] if (row["model"], row["against_steps"]) == ("stage2", FEW))
    compared["differences"]["fid"] = {"value": -1.0, "low": -1.4, "high": -0.6}
    assert "better: FID" in side_effects(read_evaluation(described))[0]


def test_jury_that_prefers_the_base_is_said() -> None:
    described = evaluation(np.random.default_rng(0), stage2_kid=80.0)
    assert side_effects(read_evaluation(described))[1].startswith("The jury of four judges prefers the base")


def test_evaluation_without_results_is_refused_with_a_remedy() -> None:
    with pytest.raises(DataContractError, match="run the step evaluation again"):
        read_evaluation({"few_steps": 4})


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (-0.01234, "−0.012"), (0.0, "0.000")],
)
def test_numbers_keep_about_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_one_step_is_singular() -> None:
    assert (steps_words(1), steps_words(4)) == ("1 step", "4 steps")
