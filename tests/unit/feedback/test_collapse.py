"""Collapse detection: what it measures, when it speaks, and that a provoked collapse ends a real tuning."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny_base import CAPTIONS
from unifl.core.errors import DivergenceError
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.evaluation.metrics import Draws
from unifl.feedback.batches import Batch, PromptBatches
from unifl.feedback.collapse import collapse, picture_statistics
from unifl.feedback.engine import FeedbackEngine, Term
from unifl.feedback.guard import Findings, Guard
from unifl.feedback.objectives import Logs, Objective
from unifl.feedback.settings import EngineSettings
from unifl.feedback.trajectory import Trajectory, denoise_with_gradient, start_from_noise

SETTINGS = EngineSettings(updates=30, batch_size=4, learning_rate=1e-4, warmup_updates=0, steps=4, ema_decay=0.0)
RUINOUS = SETTINGS.model_copy(update={"learning_rate": 0.1})


def line(**values: float) -> dict[str, float]:
    return {"grad_norm": 1.0, "variety_x": 0.2, "contrast_x": 0.3} | values


def found(log: list[dict[str, float]]) -> str:
    return collapse(log, SETTINGS.collapse_share, SETTINGS.collapse_gradient)


def test_the_statistics_are_the_standard_deviations_of_numpy() -> None:
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    logs, array = picture_statistics("x", images), images.numpy()
    assert logs["variety_x"] == pytest.approx(np.std(array, axis=0, ddof=1).mean(), rel=1e-5)
    assert logs["contrast_x"] == pytest.approx(np.std(array.reshape(5, 3, -1), axis=2, ddof=1).mean(), rel=1e-5)
    assert picture_statistics("x", images[:1]).keys() == {"contrast_x"}


def test_equal_pictures_have_no_variety_and_blank_ones_no_contrast() -> None:
    equal = torch.rand(1, 3, 8, 8).expand(4, -1, -1, -1)
    blank = torch.rand(4, 3, 1, 1).expand(-1, -1, 8, 8)
    assert picture_statistics("x", equal)["variety_x"] == pytest.approx(0, abs=1e-6)
    assert picture_statistics("x", blank)["contrast_x"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("key", ["variety_x", "contrast_x"])
def test_pictures_far_below_where_they_started_are_a_collapse(key: str) -> None:
    start = line()[key]
    sound = [line() for _ in range(10)]
    assert found([*sound, *(line(**{key: 0.11 * start}) for _ in range(5))]) == ""
    assert found([*sound, *(line(**{key: 0.09 * start}) for _ in range(2))]) == "", "two batches may look alike"
    words = found([*sound, *(line(**{key: 0.09 * start}) for _ in range(3))])
    assert words.startswith(key)
    assert "below collapse_share 0.1" in words


def test_a_gradient_far_above_its_running_median_is_a_collapse() -> None:
    sound = [line() for _ in range(10)]
    assert found([*sound, *(line(grad_norm=19.0) for _ in range(5))]) == ""
    assert found([*sound, line(grad_norm=1e6)]) == "", "one steep gradient is clipped"
    assert "collapse_gradient 20 times" in found([*sound, *(line(grad_norm=21.0) for _ in range(5))])
    growing = [line(grad_norm=1.02**update) for update in range(300)]
    assert not any(found(growing[:update]) for update in range(300)), "slow growth is the guard's to judge"


def test_both_can_be_switched_off() -> None:
    log = [line() for _ in range(10)] + [line(variety_x=0.0, contrast_x=0.0, grad_norm=1e6) for _ in range(5)]
    assert collapse(log, 0.1, 0.0)
    assert collapse(log, 0.0, 20.0)
    assert collapse(log, 0.0, 0.0) == ""


class Brightness(Objective):
    """Pull pixels towards white, from noise: blank pictures are what it likes best."""

    name = "brightness"

    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Logs]:
        trajectory = Trajectory(4, 0, 2)
        start = start_from_noise(adapter, len(batch), 4, generator)
        stops = trajectory.draw_stops(len(batch), generator)
        condition = adapter.encode_text(batch.captions)
        images = adapter.decode(denoise_with_gradient(adapter, start, stops, condition, trajectory))
        return (1 - images).mean(), picture_statistics(self.name, images)


def engine(base: Path, home: Path, settings: EngineSettings, guard: Guard | None = None) -> FeedbackEngine:
    terms = [Term(Brightness(), PromptBatches(CAPTIONS, settings.batch_size, settings.seed))]
    return FeedbackEngine(DiffusionAdapter.load(base), terms, settings, home / "checkpoints", guard=guard)


def test_a_sound_tuning_goes_to_its_end(base_folder: Path, tmp_path: Path) -> None:
    assert len(engine(base_folder, tmp_path, SETTINGS).run()) == 30


def test_a_learning_rate_that_ruins_the_pictures_ends_the_tuning(base_folder: Path, tmp_path: Path) -> None:
    expected = r"training diverged: \w+_brightness, the deviation of .* below collapse_share 0.1 .* at update \d+ of 30"
    with pytest.raises(DivergenceError, match=expected) as first:
        engine(base_folder, tmp_path, RUINOUS).run()
    assert "lower learning_rate (now 0.1)" in str(first.value)
    lines = (tmp_path / "checkpoints" / "training.jsonl").read_text().splitlines()
    assert f"at update {json.loads(lines[-1])['update']} of 30" in str(first.value)
    with pytest.raises(DivergenceError) as again:
        engine(base_folder, tmp_path, RUINOUS).run()
    assert str(again.value) == str(first.value), "a run that goes on from a checkpoint ends where the first one did"


def test_a_guard_is_asked_at_once_and_brings_the_best_weights_back(base_folder: Path, tmp_path: Path) -> None:
    def examine(adapter: DiffusionAdapter) -> Findings:
        moved = float((adapter.unet.conv_in.weight.detach() - start).abs().mean())
        return Findings(Draws(moved, moved + np.linspace(-1e-6, 1e-6, 99)), Draws(0.0, np.zeros(99)))

    start = DiffusionAdapter.load(base_folder).unet.conv_in.weight.detach().clone()
    guard = Guard(examine, 1000, tmp_path / "guard")
    tuning = engine(base_folder, tmp_path, RUINOUS, guard)
    log = tuning.run()
    assert 5 < len(log) < 30
    assert [look.update for look in guard.inspections] == [0, len(log)]
    assert torch.equal(tuning.adapter.unet.conv_in.weight, start)
    resumed = engine(base_folder, tmp_path, RUINOUS, Guard(examine, 1000, tmp_path / "guard"))
    assert resumed.run() == log, "it does not go on when it is started again"
    assert torch.equal(resumed.adapter.unet.conv_in.weight, start)
