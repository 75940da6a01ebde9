"""Reptile's outer loop: its arithmetic, its resume, and the engine as its inner loop."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny_base import CAPTIONS
from unifl.core.errors import DivergenceError, SettingsError
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.feedback.batches import Batch
from unifl.feedback.engine import FeedbackEngine, Term
from unifl.feedback.objectives.diffusion import DiffusionObjective
from unifl.feedback.parameters import TrainableParameters
from unifl.feedback.ranks import WHOLE, Part
from unifl.feedback.reptile import LogLine, LoraTasks, OuterLoop, Reptile, outer_step, task_seed
from unifl.feedback.settings import EngineSettings

SETTINGS = EngineSettings(
    updates=3, batch_size=2, learning_rate=1e-2, warmup_updates=0, ema_decay=0, lora_rank=2, mixed_precision=False
)


class Killed(Exception):
    """Stands for a SIGKILL: nothing after it runs."""


class RandomPictures:
    """Pictures of noise with captions, the same ones for the same number."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def batch(self, number: int, part: Part = WHOLE) -> Batch:
        generator = torch.Generator().manual_seed(self.seed * 1000 + number)
        return Batch(CAPTIONS[:2], torch.rand(2, 3, 64, 64, generator=generator))


def terms_of(done: int, task: int) -> tuple[list[Term], LogLine]:
    return [Term(DiffusionObjective(), RandomPictures(10 * done + task))], {"style": f"style {task}"}


def to_the_task(start: dict[str, Tensor], done: int, task: int) -> tuple[dict[str, Tensor], LogLine]:
    """An inner loop that ends at 10 * (round + 1) + task wherever it begins."""
    return {"w": torch.full_like(start["w"], 10.0 * (done + 1) + task)}, {}


def test_the_outer_step_moves_a_share_of_the_way_to_the_mean() -> None:
    start = {"a": torch.tensor([0.0, 4.0]), "b": torch.tensor(1.0)}
    moved = outer_step(start, {"a": torch.tensor([2.0, 0.0]), "b": torch.tensor(1.0)}, 0.25)
    assert moved["a"].tolist() == [0.5, 3.0]
    assert float(moved["b"]) == 1.0


def test_rounds_give_the_hand_computed_weights(tmp_path: Path) -> None:
    reptile = Reptile({"w": torch.zeros(2)}, to_the_task, OuterLoop(2, 2, 0.5), tmp_path, {})
    log = reptile.run()
    # Round 1, rate 0.5: 0 + 0.5 * (mean(10, 11) - 0) = 5.25. Round 2, rate 0.25: 5.25 + 0.25 * (20.5 - 5.25) = 9.0625.
    assert reptile.start["w"].tolist() == [9.0625, 9.0625]
    assert [(line["round"], line["task"]) for line in log] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert [line["distance"] for line in log] == pytest.approx([2**0.5 * far for far in (10, 11, 14.75, 15.75)])


def test_on_two_lines_the_start_is_between_their_ends(tmp_path: Path) -> None:
    """Tasks that pull to -1 and +1 by gradient steps: the start ends where both are near, whatever it was."""

    def adapt(start: dict[str, Tensor], done: int, task: int) -> tuple[dict[str, Tensor], LogLine]:
        weight, goal = start["w"], -1.0 if task else 1.0
        for _ in range(3):
            weight = weight - 0.2 * (weight - goal)
        return {"w": weight}, {}

    reptile = Reptile({"w": torch.tensor([7.0])}, adapt, OuterLoop(60, 2, 0.5), tmp_path, {})
    reptile.run()
    assert abs(float(reptile.start["w"])) < 0.01


@pytest.mark.parametrize("killed_in", [1, 2, 4, 5])
def test_a_killed_run_ends_with_the_same_log_and_weights(base_folder: Path, tmp_path: Path, killed_in: int) -> None:
    calls = 0

    def killed(adapt: LoraTasks) -> Callable[..., tuple[dict[str, Tensor], LogLine]]:
        def inner(start: dict[str, Tensor], done: int, task: int) -> tuple[dict[str, Tensor], LogLine]:
            nonlocal calls
            calls += 1
            if calls == killed_in:
                raise Killed
            return adapt(start, done, task)

        return inner

    whole = lora_reptile(base_folder, tmp_path / "whole")
    expected = whole.run()
    assert len(expected) == 6
    first = lora_reptile(base_folder, tmp_path / "killed")
    first.adapt = killed(first.adapt)  # type: ignore[arg-type]
    with pytest.raises(Killed):
        first.run()
    again = lora_reptile(base_folder, tmp_path / "killed")
    assert again.run() == expected
    assert [json.loads(line) for line in again.log_file.read_text().splitlines()] == expected
    for name, value in whole.start.items():
        assert torch.equal(value, again.start[name]), name


def lora_reptile(base: Path, folder: Path) -> Reptile:
    adapter = DiffusionAdapter.load(base)
    torch.manual_seed(0)
    parameters = TrainableParameters(adapter, SETTINGS.lora_rank, ema_decay=0)
    tasks = LoraTasks(adapter, parameters, terms_of, SETTINGS, folder)
    return Reptile(parameters.current(), tasks, OuterLoop(3, 2, 0.5), folder, SETTINGS.model_dump(mode="json"))


def test_inner_updates_are_those_of_the_engine_alone(base_folder: Path, tmp_path: Path) -> None:
    reptile = lora_reptile(base_folder, tmp_path / "inner")
    start = {name: value.clone() for name, value in reptile.start.items()}
    adapted, logs = reptile.adapt(start, 1, 0)

    adapter = DiffusionAdapter.load(base_folder)
    parameters = TrainableParameters(adapter, SETTINGS.lora_rank, ema_decay=0)
    parameters.start_from(reptile.start)
    settings = SETTINGS.model_copy(update={"seed": task_seed(SETTINGS.seed, 1, 0)})
    terms, _ = terms_of(1, 0)
    log = FeedbackEngine(adapter, terms, settings, tmp_path / "alone", parameters=parameters).run()
    assert logs == {"style": "style 0", "loss_first": log[0]["loss"], "loss_last": log[-1]["loss"]}
    for name, value in parameters.current().items():
        assert torch.equal(value, adapted[name]), name
    assert any(not torch.equal(value, reptile.start[name]) for name, value in adapted.items())


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    Reptile({"w": torch.zeros(1)}, to_the_task, OuterLoop(1, 1, 0.5), tmp_path, {"rounds": 1}).run()
    with pytest.raises(SettingsError, match="other rounds"):
        Reptile({"w": torch.zeros(1)}, to_the_task, OuterLoop(2, 1, 0.5), tmp_path, {"rounds": 2}).run()


def test_weights_that_are_not_finite_end_the_run(tmp_path: Path) -> None:
    def adapt(start: dict[str, Tensor], done: int, task: int) -> tuple[dict[str, Tensor], LogLine]:
        return {"w": start["w"] / 0}, {}

    with pytest.raises(DivergenceError, match=r"w is not finite after the updates of round 1 of 2.*lower"):
        Reptile({"w": torch.ones(1)}, adapt, OuterLoop(2, 1, 1.0), tmp_path, {}).run()
