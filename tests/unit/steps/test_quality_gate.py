"""The gate: better, good enough and confident mean what they say, in the direction of each metric."""

import json
from pathlib import Path
from typing import Any

import pytest

from unifl.core.errors import DataContractError, GateFailed, SettingsError
from unifl.core.step import execute
from unifl.steps.quality_gate import GateRule, QualityGateSettings, judge


def evaluation(**kid_and_score: tuple[float, float]) -> dict[str, Any]:
    """KID (lower is better) and image-text score (higher) of models at 4 steps, with intervals of +-1."""
    rows = [
        {
            "model": model,
            "steps": 4,
            "metrics": {
                name: {"value": value, "low": value - 1, "high": value + 1}
                for name, value in zip(("kid", "image_text"), values, strict=True)
            },
        }
        for model, values in kid_and_score.items()
    ]
    info = {"kid": {"title": "KID", "better": "lower"}, "image_text": {"title": "score", "better": "higher"}}
    return {"few_steps": 4, "full_steps": 20, "results": rows, "metric_info": info}


def passes(rule: dict[str, Any], **figures: tuple[float, float]) -> bool:
    return judge(GateRule.model_validate({"metric": "kid", **rule}), evaluation(**figures), Path("e.json")).passed


def test_better_follows_the_direction_of_the_metric() -> None:
    figures = {"base": (10.0, 10.0), "stage2": (9.0, 9.0)}
    assert passes({"better_than": "base"}, **figures)
    assert not passes({"metric": "image_text", "better_than": "base"}, **figures)


def test_as_good_is_not_better_without_a_tolerance() -> None:
    same = {"base": (10.0, 10.0), "stage2": (10.0, 10.0)}
    assert not passes({"better_than": "base"}, **same)
    assert passes({"better_than": "base", "tolerance": 0.1}, **same)


@pytest.mark.parametrize(("metric", "worse"), [("kid", 12.0), ("image_text", 8.0)])
def test_a_tolerance_lets_a_little_worse_pass_in_both_directions(metric: str, worse: float) -> None:
    figures = {"base": (10.0, 10.0), "stage2": (worse, worse)}
    assert passes({"metric": metric, "better_than": "base", "tolerance": 2.5}, **figures)
    assert not passes({"metric": metric, "better_than": "base", "tolerance": 1.5}, **figures)


def test_confident_asks_for_disjoint_intervals() -> None:
    rule = {"better_than": "base", "confident": True}
    assert not passes(rule, base=(10.0, 0.0), stage2=(8.5, 0.0))
    assert passes(rule, base=(10.0, 0.0), stage2=(7.5, 0.0))


def test_limits_include_their_value() -> None:
    assert passes({"at_most": 9.0}, stage2=(9.0, 0.0))
    assert not passes({"at_most": 8.9}, stage2=(9.0, 0.0))
    assert passes({"metric": "image_text", "at_least": 0.5}, stage2=(9.0, 0.5))


def test_a_failed_gate_says_by_how_much_and_keeps_its_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    file, verdict = tmp_path / "evaluation.json", tmp_path / "verdict.json"
    file.write_text(json.dumps(evaluation(base=(10.0, 0.0), stage2=(11.0, 0.0))))
    with pytest.raises(GateFailed, match="kid of stage2 at 4 steps is 11, to be lower than base's 10 at 4 steps"):
        execute("quality_gate", {"evaluation": file}, {"verdict": verdict}, None)
    written = json.loads(verdict.read_text())
    assert written["passed"] is False
    assert written["rules"][0]["value"] == 11.0


def test_what_was_not_measured_is_an_error_and_not_a_pass() -> None:
    with pytest.raises(DataContractError, match=r"no kid of stage1 at 4 steps .*stage2 at 4"):
        passes({"model": "stage1", "at_most": 1}, stage2=(9.0, 0.0))


@pytest.mark.parametrize("rule", [{}, {"at_least": 1, "at_most": 2}, {"at_most": 1, "confident": True}])
def test_a_rule_makes_exactly_one_comparison(rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"exactly one|need better_than"):
        GateRule.model_validate({"metric": "kid", **rule})


def test_a_gate_without_rules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rules"):
        QualityGateSettings(rules=())
    with pytest.raises(SettingsError, match="rules"):
        execute("quality_gate", {"evaluation": tmp_path}, {"verdict": tmp_path / "v"}, {"rules": []})
