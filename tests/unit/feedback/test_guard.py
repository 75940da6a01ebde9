"""The over-optimization guard: provoked, it stops and goes back; a kill in between changes nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_base import CAPTIONS
from tests.tiny_examiners import write_tiny_examiners
from tests.tiny_images import write_tiny_images
from tests.unit.feedback.test_engine import SETTINGS, Killed, KilledAt, Redness
from unifl.core.errors import DataContractError, SettingsError
from unifl.core.step import StepContext
from unifl.data.contracts import open_images
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.sampling import sample
from unifl.evaluation import metrics
from unifl.evaluation.metrics import Draws
from unifl.feedback import assembly
from unifl.feedback.batches import PromptBatches
from unifl.feedback.engine import FeedbackEngine, Term
from unifl.feedback.guard import Findings, Guard, Inspection, _worse
from unifl.feedback.guard_panel import panel_examiner
from unifl.feedback.objectives import Objective
from unifl.feedback.settings import EngineSettings

HACKING = SETTINGS.model_copy(update={"updates": 8, "learning_rate": 3e-4, "warmup_updates": 0, "checkpoint_every": 2})


def colours(adapter: DiffusionAdapter) -> np.ndarray:
    """The mean color of each of 24 pictures, [24, 3]: features that see a model turning red."""
    pictures = sample(adapter, [CAPTIONS[n % len(CAPTIONS)] for n in range(24)], steps=2, seeds=range(24))
    return pictures.mean((1, 2)).astype(np.float64) / 255


class ColourExaminer:
    """KID of mean colors to those of the untrained model, and a jury that looks away."""

    def __init__(self, base: Path) -> None:
        self.real = colours(DiffusionAdapter.load(base))
        self.looks = 0

    def __call__(self, adapter: DiffusionAdapter) -> Findings:
        self.looks += 1
        seen = colours(adapter)
        return Findings(metrics.kid(seen, self.real, 200), metrics.mean(np.ones(24), 200))


def engine(base: Path, folder: Path, settings: EngineSettings, objective: Objective, guard: Guard) -> FeedbackEngine:
    terms = [Term(objective, PromptBatches(CAPTIONS, settings.batch_size, settings.seed))]
    return FeedbackEngine(DiffusionAdapter.load(base), terms, settings, folder, guard=guard)


def test_a_hacked_reward_is_stopped_and_the_best_weights_come_back(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = Guard(ColourExaminer(base_folder), 2, tmp_path / "guard")
    run = engine(base_folder, tmp_path, HACKING, Redness(), guard)
    start = {name: value.clone() for name, value in run.parameters.state().items()}
    log = run.run()
    later = [line["red"] for line in log[1:]]
    assert sum(later) / len(later) > log[0]["red"], "the reward must rise for this to be over-optimization"
    found = guard.summary()
    assert found["stopped_at"] == len(log) < HACKING.updates
    assert found["kept_update"] == 0
    assert "KID rose by" in found["inspections"][-1]["worse"]
    assert all(torch.equal(value, start[name]) for name, value in run.parameters.state().items())
    assert f"stopped after update {len(log)} of 8: KID rose by" in capsys.readouterr().err


def test_a_training_that_harms_nothing_runs_to_its_end(base_folder: Path, tmp_path: Path) -> None:
    guard = Guard(ColourExaminer(base_folder), 2, tmp_path / "guard")
    gentle = HACKING.model_copy(update={"learning_rate": 1e-9, "updates": 5})
    log = engine(base_folder, tmp_path, gentle, Redness(), guard).run()
    assert [one.update for one in guard.inspections] == [0, 2, 4, 5]
    assert len(log) == 5
    assert guard.summary()["stopped_at"] is None
    assert guard.summary()["kept_update"] == 5


@pytest.mark.parametrize("killed_in_update", [1, 3])
def test_a_kill_changes_neither_the_stop_nor_the_weights(
    base_folder: Path, tmp_path: Path, killed_in_update: int
) -> None:
    def new(folder: Path, objective: Objective) -> tuple[FeedbackEngine, Guard]:
        guard = Guard(ColourExaminer(base_folder), 2, folder / "guard")
        return engine(base_folder, folder, HACKING, objective, guard), guard

    whole, expected = new(tmp_path / "whole", Redness())
    log = whole.run()
    with pytest.raises(Killed):
        new(tmp_path / "killed", KilledAt(killed_in_update))[0].run()
    resumed, guard = new(tmp_path / "killed", Redness())
    assert resumed.run() == log
    assert guard.summary() == expected.summary()
    again, guard = new(tmp_path / "killed", Redness())
    assert again.run() == log, "a stopped training does not go on when it is started again"
    assert guard.summary() == expected.summary()
    for name, value in whole.parameters.state().items():
        assert torch.equal(value, again.parameters.state()[name]), name


def test_what_was_inspected_before_a_kill_is_not_inspected_again(base_folder: Path, tmp_path: Path) -> None:
    gentle = HACKING.model_copy(update={"learning_rate": 1e-9, "updates": 4})
    engine(base_folder, tmp_path, gentle, Redness(), Guard(ColourExaminer(base_folder), 2, tmp_path / "guard")).run()
    examiner = ColourExaminer(base_folder)
    engine(base_folder, tmp_path, gentle, Redness(), Guard(examiner, 2, tmp_path / "guard")).run()
    assert examiner.looks == 0


def draws(value: float, spread: float) -> Draws:
    return Draws(value, value + spread * np.linspace(-1, 1, 101) ** 3)


def test_only_a_fall_beyond_the_interval_counts() -> None:
    best = Findings(draws(100, 0), draws(1, 0))
    assert _worse(Findings(draws(105, 10), draws(1, 0)), best) == ""
    assert _worse(Findings(draws(120, 10), draws(1, 0)), best).startswith("KID rose by 20")
    assert _worse(Findings(draws(90, 0), draws(0.5, 0.1)), best).startswith("the judges' mean fell by 0.50")
    assert " and " in _worse(Findings(draws(120, 10), draws(0.5, 0.1)), best)


def test_the_best_inspection_has_the_lowest_kid(tmp_path: Path) -> None:
    guard = Guard(lambda adapter: Findings(draws(0, 0), draws(0, 0)), 1, tmp_path)
    guard.inspections = [Inspection(n, Findings(draws(kid, 1), draws(0, 0))) for n, kid in enumerate([5, 3, 4])]
    assert guard.best.update == 1


@pytest.fixture(scope="module")
def examiners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("examiners")
    judges, scorer = write_tiny_examiners(home)
    return {"judges": judges, "scorer": scorer, "images": write_tiny_images(home / "images", validation=3)}


def test_the_panel_says_the_same_of_the_same_model(base_folder: Path, examiners: dict[str, Path]) -> None:
    settings = SETTINGS.model_copy(update={"guard_images": 6, "guard_steps": 2})
    examine = panel_examiner(examiners["judges"], examiners["scorer"], open_images(examiners["images"]), settings)
    adapter = DiffusionAdapter.load(base_folder)
    first, second = examine(adapter), examine(adapter)
    assert first.kid.value == second.kid.value > 0
    assert first.judges.estimate() == second.judges.estimate()


def test_a_split_without_images_is_refused(examiners: dict[str, Path], tmp_path: Path) -> None:
    images = open_images(write_tiny_images(tmp_path / "images"))
    with pytest.raises(DataContractError, match=r"the validation split holds 0 images.*guard_every to 0"):
        panel_examiner(examiners["judges"], examiners["scorer"], images, SETTINGS)


def test_a_guard_without_examiners_is_refused(examiners: dict[str, Path], tmp_path: Path) -> None:
    context = StepContext("perceptual_feedback", tmp_path, "0")
    images = open_images(examiners["images"])
    with pytest.raises(SettingsError, match=r"the guard has no judges and no scorer.*guard_every to 0"):
        assembly.open_guard(SETTINGS.model_copy(update={"guard_every": 2}), {}, images, context)
