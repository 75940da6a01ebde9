"""A tuning killed with SIGKILL at random points has the loss curve of an undisturbed one, to the last digit.

Real processes on one thread, with all that has a state at work: discriminator, average, warm-up, accumulation, views.
`test_kills.py` does the same to whole runs of the pipeline.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_base import build_tiny_base
from tests.tiny_world import build_world
from unifl.core.step import step_definition
from unifl.feedback.parameters import save_untuned_model

STEP = "adversarial_feedback"
UPDATES, KILLS = 12, 3
SETTINGS: dict[str, Any] = {
    "updates": UPDATES, "batch_size": 2, "accumulate": 2, "steps": 4, "aesthetic_last_stop": 1, "warmup_updates": 6,
    "learning_rate": 1e-3, "discriminator_blocks": 1, "views": 1, "checkpoint_every": 3,
}  # fmt: skip
pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], subprocess.Popen[str]]:
    """Starts the step in a process of its own, with its output and checkpoints below the given folder."""
    home = tmp_path_factory.mktemp("inputs")
    base = build_tiny_base(home / "base")
    save_untuned_model(home / "untuned", base_folder=base, stage="test")
    world = build_world(home, base) | {"model": home / "untuned"}
    inputs = [f"--{name}={world[name]}" for name in step_definition(STEP).inputs]

    def start(folder: Path) -> subprocess.Popen[str]:
        surroundings = {"UNIFL_CHECKPOINTS": str(folder / "checkpoints"), "OMP_NUM_THREADS": "1"}
        arguments = [*inputs, f"--tuned_model={folder / 'model'}", f"--settings-json={json.dumps(SETTINGS)}"]
        return subprocess.Popen(
            [sys.executable, "-m", "unifl", STEP, *arguments],
            env={**os.environ, **surroundings},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def updates_logged(folder: Path) -> int:
    return sum(len(file.read_text().splitlines()) for file in (folder / "checkpoints").glob("*/*/training.jsonl"))


def ended(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def test_three_kills_at_random_points_change_no_digit_of_the_loss_curve(
    command: Callable[[Path], subprocess.Popen[str]], tmp_path: Path
) -> None:
    whole, struck = tmp_path / "whole", tmp_path / "struck"
    for folder in (whole, struck):
        folder.mkdir()
    ended(command(whole))
    moments = random.Random(time.time_ns())
    for point in sorted(moments.sample(range(1, UPDATES - 1), KILLS)):
        process = command(struck)
        while updates_logged(struck) < point:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.5))  # in the middle of an update, as a rule
        process.kill()
        process.communicate()
        print(f"killed after update {updates_logged(struck)}")
        assert not (struck / "model").exists()
    ended(command(struck))
    curves = [(folder / "model" / "training.jsonl").read_text() for folder in (whole, struck)]
    assert len(curves[0].splitlines()) == UPDATES
    assert curves[0] == curves[1]
    for name in ("unet/diffusion_pytorch_model.safetensors", "base.json"):
        assert (whole / "model" / name).read_bytes() == (struck / "model" / name).read_bytes()
