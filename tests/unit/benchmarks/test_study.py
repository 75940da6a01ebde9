"""The study's plan is held together by names, a training runs once for its settings and inputs, figures are paired."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.study.figures import Figures, Spread, over_seeds
from benchmarks.study.marks import marks
from benchmarks.study.measuring import Captions, subset
from benchmarks.study.page import results_page, table
from benchmarks.study.plan import PLAN, Plan, read_plan
from benchmarks.study.structure import overlap
from benchmarks.study.training import Trainings
from tests.tiny_examiners import write_tiny_examiners
from unifl.core.errors import SettingsError, UniflError
from unifl.core.step import step_definition
from unifl.evaluation import comparison
from unifl.evaluation.cells import Cell, CellFindings
from unifl.evaluation.metrics import Estimate
from unifl.evaluation.panel import Findings, Panel


def plan_of(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "few_steps": 4,
        "full_steps": 20,
        "choices": {"guidance": [1.0], "spacing": ["trailing"], "images": 2},
        "trainings": {
            "first": {"step": "perceptual_feedback", "inputs": {"base_model": "data/base_model"}},
            "second": {"step": "decoupled_feedback", "inputs": {"model": "@first"}},
        },
        "models": {"base": {"title": "Base"}, "ours": {"title": "Ours", "training": "second"}},
        "cells": [
            {"models": ["base", "ours"], "steps": [4], "size": "ablation"},
            {"models": ["ours"], "steps": [4, 20], "size": "headline"},
        ],
    }
    return content | changes


# ------------------------------------------------------------------------------------------------ plan


def test_the_plan_of_the_study_names_steps_inputs_and_outputs_that_exist() -> None:
    plan = read_plan(PLAN)
    for name, training in plan.trainings.items():
        definition = step_definition(training.step)
        assert training.output in definition.outputs, name
        assert set(training.inputs) <= set(definition.inputs), name
        assert set(definition.inputs) - definition.optional_inputs <= set(training.inputs), name
        definition.settings.model_validate(Trainings(plan, Path("nowhere"))._settings(training, 0))


def test_a_training_comes_after_what_it_needs() -> None:
    assert Plan.model_validate(plan_of()).in_order(["ours"]) == ["first", "second"]


def test_a_cell_of_the_headline_serves_the_ablations_too() -> None:
    assert Plan.model_validate(plan_of()).measured() == [
        ("base", 4, "ablation"),
        ("ours", 4, "headline"),
        ("ours", 20, "headline"),
    ]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"models": {"ours": {"title": "Ours", "training": "third"}}}, "third"),
        ({"cells": [{"models": ["theirs"], "steps": [4], "size": "headline"}]}, "theirs"),
        ({"trainings": {"first": {"step": "a", "inputs": {"b": "@first"}}}, "models": {}, "cells": []}, None),
    ],
)
def test_a_name_that_nothing_has_is_refused(changes: dict[str, Any], word: str | None, tmp_path: Path) -> None:
    if word is None:
        changes["models"] = {"ours": {"title": "Ours", "training": "first"}}
        word = "first -> first"
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(plan_of(**changes)), encoding="utf-8")
    with pytest.raises(SettingsError, match=word):
        read_plan(file)


# ------------------------------------------------------------------------------------------------ trainings


@pytest.fixture
def gate(tmp_path: Path) -> tuple[Plan, Path, Path]:
    """A plan whose one training is a step that takes a second, the file that it reads, and the study's folder."""
    evaluation = tmp_path / "evaluation.json"
    evaluation.write_text(
        '{"few_steps": 4, "full_steps": 20, "metric_info": {"kid": {"title": "KID", "better": "lower"}}, "results": '
        '[{"model": "base", "steps": 4, "metrics": {"kid": {"value": 2, "low": 1, "high": 3}}}]}',
        encoding="utf-8",
    )
    rules = [{"metric": "kid", "model": "base", "steps": 4, "at_most": 5}]
    training = {
        "step": "quality_gate",
        "output": "verdict",
        "seeded": False,
        "settings": {"rules": rules},
        "inputs": {"evaluation": str(evaluation)},
    }
    plan = plan_of(trainings={"gate": training}, models={"ours": {"title": "Ours", "training": "gate"}}, cells=[])
    return Plan.model_validate(plan), evaluation, tmp_path / "study"


def test_a_training_runs_once_for_its_settings_and_inputs(gate: tuple[Plan, Path, Path]) -> None:
    plan, evaluation, folder = gate
    trained = Trainings(plan, folder).ensure("gate", 0)
    written = (trained.folder / "record.json").stat().st_mtime_ns
    assert Trainings(plan, folder).ensure("gate", 1).folder == trained.folder, "it takes no seed"
    assert (trained.folder / "record.json").stat().st_mtime_ns == written

    evaluation.write_text(evaluation.read_text().replace('"value": 2', '"value": 2.5'), encoding="utf-8")
    Trainings(plan, folder).ensure("gate", 0)
    assert (trained.folder / "record.json").stat().st_mtime_ns > written


def test_a_training_that_fails_is_not_finished_and_says_where_to_look(gate: tuple[Plan, Path, Path]) -> None:
    plan, evaluation, folder = gate
    evaluation.write_text("{}", encoding="utf-8")
    with pytest.raises(UniflError, match="quality_gate ended with code"):
        Trainings(plan, folder).ensure("gate", 0)
    assert not (folder / "gate" / "all" / "finished.json").exists()


def test_an_input_that_is_missing_is_named_before_anything_runs(gate: tuple[Plan, Path, Path]) -> None:
    plan, evaluation, folder = gate
    evaluation.unlink()
    with pytest.raises(SettingsError, match="missing"):
        Trainings(plan, folder).ensure("gate", 0)


# ------------------------------------------------------------------------------------------------ figures


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """Two models over twelve prompts and two seeds, found by real (tiny) examiners' shapes with known scores."""
    panel = Panel(*write_tiny_examiners(tmp_path_factory.mktemp("examiners")))
    rng = np.random.default_rng(0)
    names = [panel.concept_names[i % len(panel.concept_names)] for i in range(12)]
    styles = [panel.style_names[i % len(panel.style_names)] for i in range(12)]

    def findings(judges: float, objects: int) -> Findings:
        return Findings(
            embedding=rng.normal(size=(12, 1280)).astype(np.float32),
            judges=np.full((12, 4), judges, np.float32),
            styles=np.eye(len(panel.style_names), dtype=np.float32)[[i % len(panel.style_names) for i in range(12)]],
            concepts=rng.normal(size=(12, len(panel.concept_names))).astype(np.float32),
            vectors=panel.text_vectors([f"a {name}" for name in names]),
            objects=np.full((12, 1), objects, np.float32),
        )

    real = findings(0.0, 1)
    captions = Captions.__new__(Captions)
    captions.prompts = comparison.Prompts(
        [f"a {name}" for name in names], styles, [[name] for name in names], np.arange(12)
    )
    captions.reference = comparison.Reference.of(real, panel)
    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    found = {}
    for seed in (0, 1):
        for model, judges, objects in (("base", 1.0, 1), ("stage1", 2.0 if seed == 0 else 0.5, 2)):
            found[model, 20, seed] = CellFindings(
                Cell(model, 20, 1.5, "trailing", "d"), findings(judges, objects), pictures
            )
    return Figures(found, captions, panel, {"kid": {"value": 10.0}, "fid": {"value": 1.0}})


def test_points_are_won_minus_lost(figures: Figures) -> None:
    assert figures.points(("stage1", 20, 0), ("base", 20, 0)).value == 100
    assert figures.points(("stage1", 20, 1), ("base", 20, 1)).value == -100
    assert figures.wins(("stage1", 20, 1), ("base", 20, 1)).value == 0


def test_hits_are_percent_and_paired(figures: Figures) -> None:
    assert figures.row(("base", 20, 0)).drawn["object_count"].value == 100
    assert figures.difference("object_count", ("stage1", 20, 0), ("base", 20, 0)).value == -100
    assert figures.row(("base", 20, 0)).drawn["style_response"].value == 100


def test_a_relative_change_is_measured_above_the_floor(figures: Figures) -> None:
    ours, theirs = (figures.row((model, 20, 0)).drawn["kid"].value for model in ("stage1", "base"))
    change = figures.relative("kid", ("stage1", 20, 0), ("base", 20, 0))
    assert change.value == pytest.approx(100 * ((ours - 10) / (theirs - 10) - 1))


def test_a_pair_of_unequal_cells_is_compared_over_the_prompts_that_both_have(figures: Figures) -> None:
    found = dict(figures.found)
    found["stage1", 20, 0] = subset(found["stage1", 20, 0], 5)
    few = Figures(found, figures.captions, figures.panel, figures.floor)
    ours, theirs = few.paired(("stage1", 20, 0), ("base", 20, 0))
    assert ours.judges.shape == theirs.judges.shape == (4, 5)


def test_a_mark_is_met_when_every_seed_meets_it(figures: Figures) -> None:
    both = {one.question: one for one in marks(figures, [0, 1], 4, 20, {})}
    first = {one.question: one for one in marks(figures, [0], 4, 20, {})}
    assert first["… judge of color"].met
    assert not both["… judge of color"].met, "seed 1 is worse"
    assert not any("LCM" in question for question in both), "what was not measured is not answered"


def test_spreads_say_mean_and_range_or_one_interval() -> None:
    one = Estimate(2.0, 1.0, 3.0)
    assert Spread((one,)).text(1) == "2.0 [1.0, 3.0]"
    assert over_seeds([0, 1], lambda seed: Estimate(2.0 + seed, 1.0, 4.0)).text(1) == "2.5 (2.0 to 3.0)"
    assert Spread((one, Estimate(-1.0, -2.0, -0.5))).sure is False
    assert Spread((one, one)).sure is True


def test_overlap_of_masks() -> None:
    found = np.zeros((3, 4, 4), bool)
    truth = np.zeros((3, 4, 4), bool)
    found[0, :2], truth[0, :4] = True, True
    found[1, 0], truth[1, 1] = True, True
    assert overlap(found, truth).tolist() == [0.5, 0.0, 1.0]


def test_the_page_shows_marks_cells_and_costs(figures: Figures) -> None:
    models = {"base": {"title": "Base"}, "stage1": {"title": "Stage 1", "training": "second"}}
    plan = Plan.model_validate(
        plan_of(models=models, cells=[{"models": ["stage1"], "steps": [20], "size": "headline"}])
    )
    costs = [{"title": "second", "updates": 40, "cpu_minutes": 4.75, "teacher_parameters": 7_380_000}]
    facts = {"ablations": [], "collapses": [], "prompts": {}, "trainings": costs}
    page = results_page(plan, figures, [0, 1], list(marks(figures, [0, 1], 4, 20, {})), facts, "the command")
    assert "| … judge of color | up | +0.25 (-0.50 to +1.00) | **no** |" in page
    assert "| Stage 1 | DDIM, trailing, 1.5 |" in page
    assert "| second | 40 | 4.8 | 7.4 |" in page


def test_a_table_is_markdown() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
