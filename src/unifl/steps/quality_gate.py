"""quality_gate: a model passes, or fails, by rules on its evaluation; nothing unjudged is published.

Stands after evaluation. The default rule is the paper's claim for few steps (arXiv 2404.05595, Table 1): stage 2 at the
few-step count has a lower KID than the base at the same count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from unifl.core.errors import DataContractError, GateFailed
from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition

Steps = Literal["few", "full"] | int
MODELS = Literal["base", "stage1", "stage2"]


class GateRule(StepSettings):
    """One rule: a metric of a model at a step count against another model or against a limit (exactly one of the
    three).

    Which direction is better comes from the evaluation. With `confident`, better means that the 95 % intervals are
    disjoint.
    """

    metric: str = Field(description="A metric of the evaluation: kid, fid, image_text, color, ...")
    model: MODELS = Field(default="stage2", description="Who is judged.")
    steps: Steps = Field(default="few", description="Sampling steps: few, full, or a number.")
    better_than: MODELS | None = Field(default=None, description="Compare with this model.")
    reference_steps: Steps | None = Field(default=None, description="Its sampling steps; the same when not given.")
    tolerance: float = Field(
        default=0.0, ge=0, description="How much worse than the reference still passes, in the metric's own unit."
    )
    at_least: float | None = Field(default=None, description="Pass from this value upwards.")
    at_most: float | None = Field(default=None, description="Pass up to this value.")
    confident: bool = Field(
        default=False, description="Ask for disjoint 95 % intervals (issue: the embedded preset does)."
    )

    @model_validator(mode="after")
    def _one_comparison(self) -> GateRule:
        given = [name for name in ("better_than", "at_least", "at_most") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of better_than, at_least, at_most")
        if self.better_than is None and (self.confident or self.tolerance or self.reference_steps is not None):
            raise ValueError("confident, tolerance and reference_steps need better_than")
        return self


class QualityGateSettings(StepSettings):
    """What a model must show."""

    rules: tuple[GateRule, ...] = Field(
        default=(GateRule(metric="kid", model="stage2", steps="few", better_than="base"),),
        min_length=1,
        description="Every rule must hold.",
    )


STEP = StepDefinition(
    name="quality_gate",
    summary="Let a model pass, or fail, by thresholds on its evaluation.",
    inputs={"evaluation": "JSON of the evaluation step"},
    outputs={"verdict": "JSON: passed, and every rule with its figures"},
    settings=QualityGateSettings,
)


@dataclass(frozen=True)
class Ruling:
    """One rule's outcome, with the sentence that a person reads."""

    passed: bool
    sentence: str
    value: float
    limit: float


def run(inputs: Paths, outputs: Paths, settings: QualityGateSettings, context: StepContext) -> Metrics:
    """Write the verdict. Raises GateFailed (verdict kept) when a rule fails, DataContractError for an unusable
    evaluation."""
    from unifl.core.files import write_json_atomic

    evaluation = read_evaluation(inputs["evaluation"])
    rulings = [judge(rule, evaluation, inputs["evaluation"]) for rule in settings.rules]
    failed = [ruling for ruling in rulings if not ruling.passed]
    verdict = {"passed": not failed, "rules": [asdict(ruling) for ruling in rulings]}
    write_json_atomic(outputs["verdict"], verdict)
    if failed:
        raise GateFailed(
            f"{len(failed)} of {len(rulings)} rules failed: " + "; ".join(ruling.sentence for ruling in failed),
            file=inputs["evaluation"],
            remedy="train longer or change the feedback settings; the rules stand in the preset",
            keep_outputs=True,
        )
    return {"passed": True, "rules": len(rulings)}


def read_evaluation(file: Path) -> dict[str, Any]:
    """The evaluation's JSON. Raises DataContractError when it can't be read."""
    try:
        evaluation = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataContractError(
            f"the evaluation can't be read: {error}", file=file, remedy="run evaluation again"
        ) from error
    if (
        not isinstance(evaluation, dict)
        or not {"results", "metric_info", "few_steps", "full_steps"} <= evaluation.keys()
    ):
        raise DataContractError(
            "this is not an evaluation", file=file, expected="results, metric_info, few_steps, full_steps"
        )
    return evaluation


def judge(rule: GateRule, evaluation: Mapping[str, Any], file: Path) -> Ruling:
    """Apply one rule. Raises DataContractError when the evaluation lacks what the rule speaks of."""
    judged = _figure(rule.metric, rule.model, rule.steps, evaluation, file)
    name = f"{rule.metric} of {rule.model} at {_count(rule.steps, evaluation)} steps is {judged['value']:.4g}"
    if rule.at_least is not None:
        return Ruling(
            judged["value"] >= rule.at_least, f"{name}, at least {rule.at_least:g}", judged["value"], rule.at_least
        )
    if rule.at_most is not None:
        return Ruling(
            judged["value"] <= rule.at_most, f"{name}, at most {rule.at_most:g}", judged["value"], rule.at_most
        )
    assert rule.better_than is not None
    steps = rule.steps if rule.reference_steps is None else rule.reference_steps
    reference = _figure(rule.metric, rule.better_than, steps, evaluation, file)
    lower_is_better = evaluation["metric_info"][rule.metric]["better"] == "lower"
    sign = 1.0 if lower_is_better else -1.0
    if rule.confident:
        worst, best = ("high", "low") if lower_is_better else ("low", "high")
        value, limit = judged[worst], reference[best]
    else:
        value, limit = judged["value"], reference["value"]
    limit += sign * rule.tolerance
    # Equality passes only where a tolerance was given: without one the rule asks for better, not for as good.
    passed = sign * value <= sign * limit if rule.tolerance else sign * value < sign * limit
    relation = "lower" if lower_is_better else "higher"
    sentence = f"{name}, to be {relation} than {rule.better_than}'s {reference['value']:.4g} at "
    sentence += f"{_count(steps, evaluation)} steps"
    sentence += f" (tolerance {rule.tolerance:g})" if rule.tolerance else ""
    sentence += " with disjoint 95 % intervals" if rule.confident else ""
    return Ruling(passed, sentence, judged["value"], limit)


def _count(steps: Steps, evaluation: Mapping[str, Any]) -> int:
    return int(evaluation[f"{steps}_steps"]) if isinstance(steps, str) else steps


def _figure(metric: str, model: str, steps: Steps, evaluation: Mapping[str, Any], file: Path) -> Mapping[str, float]:
    count = _count(steps, evaluation)
    for row in evaluation["results"]:
        if (
            row["model"] == model
            and row["steps"] == count
            and metric in row["metrics"]
            and metric in evaluation["metric_info"]
        ):
            figure: Mapping[str, float] = row["metrics"][metric]
            return figure
    known = sorted({name for row in evaluation["results"] for name in row["metrics"]})
    measured = sorted({f"{row['model']} at {row['steps']}" for row in evaluation["results"]})
    raise DataContractError(
        f"the evaluation has no {metric} of {model} at {count} steps",
        file=file,
        expected=f"one of {', '.join(known)} for {', '.join(measured)}",
        remedy="mend the rule, or evaluate that too",
    )
