"""A real tuning step that is preempted: with notice (SIGTERM) and without (SIGKILL). It goes on and ends the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_base import build_tiny_base
from tests.tiny_world import build_world
from unifl.core.digest import sha256_path
from unifl.core.errors import INTERRUPTED_EXIT_CODE
from unifl.core.step import execute, step_definition
from unifl.feedback.parameters import save_untuned_model

STEP = (
    "adversarial_feedback"  # it has the most state: weights, their average, moments, and a discriminator with its own
)
SETTINGS: dict[str, Any] = {
    "updates": 12,
    "batch_size": 2,
    "steps": 4,
    "aesthetic_last_stop": 1,
    "warmup_updates": 0,
    "learning_rate": 1e-3,
    "discriminator_blocks": 1,
    "checkpoint_every": 1000,
    "checkpoint_seconds": 0.01,
}
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("inputs")
    base = build_tiny_base(home / "base")
    save_untuned_model(home / "untuned", base_folder=base, stage="test")
    world = build_world(home, base) | {"model": home / "untuned"}
    return {name: world[name] for name in step_definition(STEP).inputs}


def weights(folder: Path) -> dict[str, str]:
    return {name: sha256_path(folder / name) for name in ("unet", "training.jsonl")}


@pytest.fixture(scope="module")
def undisturbed(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Metrics and digests by the checkpoints' interval; the interval may not matter to them."""
    home = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UNIFL_CHECKPOINTS", str(home / "checkpoints"))
        environment.setenv("OMP_NUM_THREADS", "1")
        metrics = execute(STEP, inputs, {"tuned_model": home / "model"}, SETTINGS | {"checkpoint_seconds": 1e6})
    return {"metrics": metrics, **weights(home / "model")}


class Attempt:
    """One process of the step, as a pod would run it; all attempts share the folder of checkpoints."""

    def __init__(self, home: Path, inputs: dict[str, Path], **settings: Any) -> None:
        self.model, self.metrics, self.shared = home / "model", home / "metrics.json", home / "work"
        arguments = [f"--{name}={path}" for name, path in inputs.items()]
        arguments += [f"--tuned_model={self.model}", f"--metrics={self.metrics}"]
        arguments.append(f"--settings-json={json.dumps(SETTINGS | settings)}")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unifl", STEP, *arguments],
            env={**os.environ, "UNIFL_CHECKPOINTS": str(self.shared), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def logged(self) -> int:
        """Updates in the log."""
        return sum(len(file.read_text().splitlines()) for file in self.shared.glob("*/*/training.jsonl"))

    def saved(self) -> int:
        """The update of the newest checkpoint, 0 without one."""
        return max((int(folder.name[7:]) for folder in self.shared.glob("*/*/update-*")), default=0)

    def wait_for(self, update: int) -> None:
        while self.logged() < update:
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.01)

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=240)
        return self.process.returncode, errors


def test_a_notice_saves_the_last_update_and_the_next_attempt_ends_the_same(
    tmp_path: Path, inputs: dict[str, Path], undisturbed: dict[str, Any]
) -> None:
    # The interval is longer than the run: only the signal can have saved.
    first = Attempt(tmp_path, inputs, checkpoint_seconds=3600)
    first.wait_for(3)
    first.process.send_signal(signal.SIGTERM)
    code, errors = first.end()
    assert code == INTERRUPTED_EXIT_CODE, errors
    assert "goes on from" in errors
    assert first.saved() == first.logged() >= 3
    assert not first.model.exists()
    second = Attempt(tmp_path, inputs, checkpoint_seconds=3600)
    code, errors = second.end()
    assert code == 0, errors
    assert json.loads(second.metrics.read_text()) == undisturbed["metrics"]
    assert weights(second.model) == {name: undisturbed[name] for name in weights(second.model)}
    assert not list(second.shared.glob("*/*/update-*"))


def test_a_kill_costs_no_more_than_the_interval_and_the_next_attempt_ends_the_same(
    tmp_path: Path, inputs: dict[str, Path], undisturbed: dict[str, Any]
) -> None:
    first = Attempt(tmp_path, inputs)
    first.wait_for(4)
    first.process.kill()
    code, _ = first.end()
    assert code == -signal.SIGKILL
    # checkpoint_seconds is shorter than an update, so at most the one that was being saved and the next are lost.
    assert first.saved() >= first.logged() - 2 > 0
    second = Attempt(tmp_path, inputs)
    code, errors = second.end()
    assert code == 0, errors
    assert json.loads(second.metrics.read_text()) == undisturbed["metrics"]
    assert weights(second.model) == {name: undisturbed[name] for name in weights(second.model)}
