"""A tuning step on two processes: the same updates as on one, one writer, and nothing left when it is interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_base import build_tiny_base
from tests.tiny_world import build_world
from unifl.cluster.parallel import PARALLEL_VARIABLE, Parallel, parallel_function, torchrun_function
from unifl.core.errors import INTERRUPTED_EXIT_CODE, DataContractError, SettingsError
from unifl.core.step import execute, step_definition
from unifl.feedback.parameters import save_untuned_model

STEP = "adversarial_feedback"  # its discriminator learns as well, so two sets of gradients are averaged
SETTINGS: dict[str, Any] = {
    "updates": 3, "batch_size": 4, "accumulate": 2, "steps": 4, "aesthetic_last_stop": 1, "warmup_updates": 0,
    "learning_rate": 1e-4, "discriminator_blocks": 1, "mixed_precision": False,
    # The diffusion loss leads: perception models round to bfloat16, by half a batch otherwise than by a whole one, and
    # Adam makes whole steps of it where a gradient is near 0. Without them two processes and one agree closely.
    "diffusion_weight": 1.0, "adversarial_weight": 1e-6, "lambda_aesthetic": 1e-6,
}  # fmt: skip
TWO = Parallel(processes_per_node=2, gpu=False)
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("inputs")
    base = build_tiny_base(home / "base")
    save_untuned_model(home / "untuned", base_folder=base, stage="test")
    world = build_world(home, base) | {"model": home / "untuned"}
    return {name: world[name] for name in step_definition(STEP).inputs}


@pytest.fixture(scope="module")
def one_process(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UNIFL_CHECKPOINTS", str(home / "checkpoints"))
        execute(STEP, inputs, {"tuned_model": home / "model"}, SETTINGS)
    return home / "model"


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]


def weights(folder: Path) -> torch.Tensor:
    tensors = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    return torch.cat([tensors[name].flatten().double() for name in sorted(tensors)])


def assert_same_training(found: Path, expected: Path, start: Path) -> None:
    """Half a batch's gradient alone differs from the whole one's by half of its norm: what is not averaged shows."""
    for ours, theirs in zip(log_of(found), log_of(expected), strict=True):
        tight = ("loss", "diffusion", "grad_norm", "lr")
        assert [ours[key] for key in tight] == pytest.approx([theirs[key] for key in tight], rel=1e-4)
        # Each process takes the deviation over its own half of the batch.
        same = [key for key in theirs if not key.startswith("variety_")]
        assert [ours[key] for key in same] == pytest.approx([theirs[key] for key in same], rel=0.05, abs=0.02)
    moved = (weights(expected) - weights(start)).norm()
    assert (weights(found) - weights(expected)).norm() < 0.01 * moved


def test_two_processes_train_as_one_does(inputs: dict[str, Path], one_process: Path, tmp_path: Path) -> None:
    metrics = execute(STEP, inputs, {"tuned_model": tmp_path / "two"}, SETTINGS, function=torchrun_function(TWO))
    assert_same_training(tmp_path / "two", one_process, inputs["base_model"])
    assert metrics["updates"] == 3
    assert metrics["images"] == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "two", "two.record.json"]
    assert not list((tmp_path / "checkpoints").glob("*/*"))


def test_two_processes_that_are_preempted_go_on_as_one(
    inputs: dict[str, Path], one_process: Path, tmp_path: Path
) -> None:
    arguments = [f"--{name}={path}" for name, path in inputs.items()] + [f"--tuned_model={tmp_path / 'two'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "unifl", STEP, *arguments, f"--settings-json={json.dumps(SETTINGS)}"],
        env={**os.environ, PARALLEL_VARIABLE: TWO.model_dump_json()},
        stderr=subprocess.PIPE,
        text=True,
    )
    shared = tmp_path / "checkpoints"
    while not any(file.stat().st_size for file in shared.glob("*/*/training.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == INTERRUPTED_EXIT_CODE, errors
    assert not (tmp_path / "two").exists()
    assert not list(shared.glob("*/*/job/job.json"))
    logged = sum(len(file.read_text().splitlines()) for file in shared.glob("*/*/training.jsonl"))
    assert [int(folder.name[7:]) for folder in shared.glob("*/*/update-*")] == [logged]
    execute(STEP, inputs, {"tuned_model": tmp_path / "two"}, SETTINGS)
    assert_same_training(tmp_path / "two", one_process, inputs["base_model"])


def test_an_error_in_a_process_is_the_error_of_the_step(inputs: dict[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "prompts.parquet"
    empty.write_bytes(b"no table")
    with pytest.raises(DataContractError, match=r"^adversarial_feedback: .*prompts\.parquet"):
        execute(
            STEP,
            inputs | {"selected_prompts": empty},
            {"tuned_model": tmp_path / "two"},
            SETTINGS,
            function=torchrun_function(TWO),
        )


@pytest.mark.parametrize(
    ("step", "value", "message"),
    [
        ("decoupled_feedback", '{"nods": 2}', "nods is not a setting .did you mean nodes"),
        ("decoupled_feedback", '{"nodes": 0}', "nodes"),
        ("evaluation", '{"processes_per_node": 2}', "evaluation can't be divided"),
    ],
)
def test_a_wrong_wish_for_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, step: str, value: str, message: str
) -> None:
    monkeypatch.setenv(PARALLEL_VARIABLE, value)
    with pytest.raises(SettingsError, match=message):
        parallel_function(step)


def test_without_a_wish_a_step_runs_in_its_own_process() -> None:
    assert parallel_function("decoupled_feedback") is None


def test_a_step_under_torchrun_is_refused_with_the_way_to_do_it(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=r"started by torchrun.*UNIFL_PARALLEL"):
        execute(STEP, inputs, {"tuned_model": tmp_path / "two"}, SETTINGS)
