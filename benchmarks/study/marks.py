"""The marks: what the study was to show, each with its goal, its figure over training seeds, and whether it is met."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.study.figures import Figures, Spread, over_seeds
from unifl.data.vocabulary import AXES
from unifl.evaluation.metrics import Draws, Estimate


@dataclass(frozen=True)
class Mark:
    """A question with its goal in words, the figure that answers it, and whether every seed's value meets the goal."""

    question: str
    goal: str
    unit: str
    figure: Spread
    met: bool

    def text(self) -> str:
        """The figure as a table shows it."""
        small = not self.unit and abs(self.figure.mean) < 0.1
        return self.figure.text(0 if self.unit else 3 if small else 2, sign=True)

    def as_dict(self) -> dict[str, Any]:
        return {
            "question": self.question,
            "goal": self.goal,
            "unit": self.unit,
            "met": self.met,
            **self.figure.as_dict(),
        }


def marks(
    figures: Figures, seeds: Sequence[int], few: int, full: int, masks: Mapping[tuple[str, int], Draws]
) -> Iterator[Mark]:
    """Every mark whose cells were measured, in the order of the study; `masks` by model and seed."""

    def ask(
        question: str,
        goal: str,
        needs: Sequence[tuple[str, int]],
        figure: Callable[[int], Estimate],
        meets: Callable[[Estimate], bool],
        unit: str = "",
    ) -> Iterator[Mark]:
        if all((model, steps, seed) in figures.found for model, steps in needs for seed in seeds):
            spread = over_seeds(seeds, figure)
            yield Mark(question, goal, unit, spread, all(meets(one) for one in spread.values))

    def against(ours: tuple[str, int], theirs: tuple[str, int], what: Any, *more: Any) -> Callable[[int], Estimate]:
        return lambda seed: what(*more, (*ours, seed), (*theirs, seed))

    def points(question: str, goal: float, ours: tuple[str, int], theirs: tuple[str, int]) -> Iterator[Mark]:
        yield from ask(
            question, f"≥ +{goal:g}" if goal else "up", (ours, theirs), against(ours, theirs, figures.points),
            lambda one: one.value >= goal if goal else one.low > 0, "points",
        )  # fmt: skip

    stage1, stage2, base = ("stage1", full), ("stage2", few), ("base", full)
    one_and_base = (stage1, base)
    for name in ("kid", "fid"):
        yield from ask(
            f"Stage 1 against base, {full} steps: {name.upper()} above the floor", "≤ -15", one_and_base,
            against(stage1, base, figures.relative, name), lambda one: one.value <= -15, "%",
        )  # fmt: skip
    yield from ask(
        "… likeness of picture and caption", "not lower", one_and_base,
        against(stage1, base, figures.difference, "clip_like"), lambda one: one.high >= 0,
    )  # fmt: skip
    for axis in AXES:
        yield from ask(
            f"… judge of {axis}", "up", one_and_base,
            against(stage1, base, figures.difference, f"judge_{axis}"), lambda one: one.low > 0,
        )  # fmt: skip
    yield from ask(
        "… style response rate", "≥ +10", one_and_base,
        against(stage1, base, figures.difference, "style_response"), lambda one: one.value >= 10, "points",
    )  # fmt: skip
    tuned = ("diffusion", full)
    yield from ask(
        "… and against plain fine-tuning", "up", (stage1, tuned),
        against(stage1, tuned, figures.difference, "style_response"), lambda one: one.value > 0, "points",
    )  # fmt: skip
    yield from ask(
        "… number of objects as asked", "up", one_and_base,
        against(stage1, base, figures.difference, "object_count"), lambda one: one.low > 0, "points",
    )  # fmt: skip
    if masks:
        spread = over_seeds(seeds, lambda seed: masks["stage1", seed].minus(masks["base", seed]))
        kept = Spread(tuple(Estimate(100 * one.value, 100 * one.low, 100 * one.high) for one in spread.values))
        question = "… masks of a real image noised to T_a: overlap"
        yield Mark(question, "up", "points", kept, all(one.low > 0 for one in kept.values))
    yield from points(f"Stage 1 against ReFL, {full} steps", 17, stage1, ("refl", full))
    yield from points(f"Stage 1 against Diffusion-DPO, {full} steps", 0, stage1, ("dpo", full))
    yield from points("Four rewards against one global reward", 17, stage1, ("global_reward", full))
    base_few = ("base", few)
    yield from ask(
        f"Stage 2 against base, {few} steps: KID above the floor", "≤ -50", (stage2, base_few),
        against(stage2, base_few, figures.relative, "kid"), lambda one: one.value <= -50, "%",
    )  # fmt: skip
    yield from ask(
        f"Stage 2 at {few} steps against stage 1 at {full}: won", "≥ 45", (stage2, stage1),
        against(stage2, stage1, figures.wins), lambda one: one.value >= 45, "%",
    )  # fmt: skip
    yield from points(f"Stage 2 against LCM, {few} steps", 30, stage2, ("lcm", few))
    yield from points(
        f"Stage 2 against adversarial distillation from a teacher, {few} steps",
        10,
        stage2,
        ("teacher_adversarial", few),
    )
    for steps in (2, 1):
        ours, theirs = ("stage2", steps), ("lcm", steps)
        yield from points(f"Stage 2 against LCM, {steps} step{'s' * (steps > 1)}", 0, ours, theirs)
        yield from ask(
            "… KID, ours minus LCM's", "lower", (ours, theirs),
            against(ours, theirs, figures.difference, "kid"), lambda one: one.high < 0, "KID",
        )  # fmt: skip
    yield from points("Selected prompts against random ones", 9, stage1, ("random_prompts", full))
