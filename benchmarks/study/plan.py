"""What the study trains, measures and compares: `plan.yaml`, checked, and unrolled over training seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from unifl.core.errors import SettingsError

PLAN = Path(__file__).with_name("plan.yaml")
Sampler = Literal["ddim", "lcm"]
Size = Literal["headline", "ablation"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(_Part):
    """One run of a step.

    `inputs` maps the step's inputs to a path or to `@training` or `@training.output`, another training of the same
    seed; `output` is the one that `@training` means.
    """

    step: str
    output: str = "tuned_model"
    preset: str | None = Field(None, description="preset (name or file) whose section of the step gives the settings")
    settings: dict[str, Any] = {}
    inputs: dict[str, str]
    seeded: bool = Field(True, description="whether the training seed reaches it; else one run serves all seeds")

    def needs(self) -> set[str]:
        """Names of the trainings whose outputs this one takes."""
        return {address[1:].partition(".")[0] for address in self.inputs.values() if address.startswith("@")}


class Model(_Part):
    """A model that is measured: what a table calls it, and the training that makes it (none: the base itself)."""

    title: str
    training: str | None = None
    samplers: tuple[Sampler, ...] = ("ddim",)


class CellOrder(_Part):
    """Models to measure at some numbers of steps, on the headline's or the ablations' number of images."""

    models: tuple[str, ...]
    steps: tuple[int, ...]
    size: Size


class Ablation(_Part):
    """One part taken out: the `whole` model against the one `without`, at `steps` steps."""

    title: str
    whole: str
    without: str
    steps: int


class Collapse(_Part):
    """A provoked collapse: the same training with the over-optimization guard and without it."""

    title: str
    guarded: str
    unguarded: str
    steps: int


class Choices(_Part):
    """What sampler settings are chosen from, for each model and number of steps, by KID on validation captions."""

    guidance: tuple[float, ...]
    spacing: tuple[Literal["trailing", "leading", "linspace"], ...]
    images: int = Field(ge=2)


class Plan(_Part):
    """The whole study. Raises ValueError for a name that nothing has, or trainings in a circle."""

    few_steps: int
    full_steps: int
    choices: Choices
    trainings: dict[str, Training]
    models: dict[str, Model]
    cells: tuple[CellOrder, ...]
    ablations: tuple[Ablation, ...] = ()
    collapses: tuple[Collapse, ...] = ()

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for name, training in self.trainings.items():
            _require(training.needs(), self.trainings, f"training {name}")
        _require({m.training for m in self.models.values() if m.training}, self.trainings, "a model")
        for order in self.cells:
            _require(order.models, self.models, "a cell")
        for ablation in self.ablations:
            _require((ablation.whole, ablation.without), self.models, ablation.title)
        for collapse in self.collapses:
            _require((collapse.guarded, collapse.unguarded), self.models, collapse.title)
        self.in_order(self.models)
        return self

    def in_order(self, models: Iterable[str]) -> list[str]:
        """Trainings that the models need, each after those that it takes something from."""
        done: list[str] = []

        def visit(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                raise ValueError(f"trainings wait for each other: {' -> '.join((*path, name))}")
            for needed in sorted(self.trainings[name].needs()):
                visit(needed, (*path, name))
            if name not in done:
                done.append(name)

        for model in models:
            training = self.models[model].training
            if training is not None:
                visit(training, ())
        return done

    def measured(self) -> list[tuple[str, int, Size]]:
        """Every (model, steps, size) once; a headline cell serves an ablation as well."""
        asked: dict[tuple[str, int], Size] = {}
        for order in self.cells:
            for model in order.models:
                for steps in order.steps:
                    if asked.get((model, steps)) != "headline":
                        asked[model, steps] = order.size
        return [(model, steps, size) for (model, steps), size in asked.items()]


def read_plan(file: Path = PLAN) -> Plan:
    """The plan of a YAML file. Raises SettingsError that names what is wrong with it."""
    try:
        return Plan.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError("the plan of the study cannot be used", file=file, expected=str(error)) from error


def _require(names: Iterable[str], known: Mapping[str, object], where: str) -> None:
    missing = sorted(set(names) - set(known))
    if missing:
        raise ValueError(f"{where} names {', '.join(missing)}, which the plan does not have")
