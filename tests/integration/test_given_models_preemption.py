"""The steps that train segmenter and examiners, preempted with notice (SIGTERM) and without (SIGKILL): same result."""

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

from tests.tiny_icons import write_tiny_icons
from tests.tiny_images import write_tiny_images
from unifl.core.digest import sha256_path
from unifl.core.errors import INTERRUPTED_EXIT_CODE
from unifl.core.step import execute, step_definition

SEGMENTER: dict[str, Any] = {
    "scenes": 64, "updates": 200, "batch_size": 10, "width": 8, "held_out_scenes": 8, "painted": 0.0,
}  # fmt: skip
EXAMINERS: dict[str, Any] = {
    "scenes": 64, "captioned_scenes": 32, "pairs": 16, "held_out_pairs": 8, "projection_images": 10,
    "projection_dimensions": 4, "judge_passes": 20, "style_passes": 20, "concept_passes": 20, "scorer_passes": 20,
    "hidden": 8, "joint": 8,
}  # fmt: skip
OUTPUTS = {"segmentation_model": ["segmenter"], "judge_models": ["judges", "scorer"]}
OFTEN = 0.001  # seconds: a checkpoint an update
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("inputs")
    return {
        "icons": write_tiny_icons(home / "icons"),
        "images": write_tiny_images(home / "images", count=12, style="noto"),
    }


def taken(step: str, inputs: dict[str, Path]) -> dict[str, Path]:
    return {name: inputs[name] for name in step_definition(step).inputs}


class Attempt:
    """One process of the step, as a pod would run it; all attempts below `home` share the folder of checkpoints."""

    def __init__(self, step: str, home: Path, inputs: dict[str, Path], settings: dict[str, Any]) -> None:
        self.home, self.outputs, self.shared = home, OUTPUTS[step], home / "checkpoints"
        arguments = [f"--{name}={path}" for name, path in taken(step, inputs).items()]
        arguments += [f"--{name}={home / name}" for name in self.outputs]
        arguments += [f"--metrics={home / 'metrics.json'}", f"--settings-json={json.dumps(settings)}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unifl", step, *arguments],
            env={**os.environ, "UNIFL_CHECKPOINTS": str(self.shared), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def found(self, pattern: str) -> list[Path]:
        """What there is below the step's folder of checkpoints."""
        return sorted(self.shared.glob(f"*/*/{pattern}"))

    def wait_for(self, pattern: str) -> Path:
        while not (found := self.found(pattern)):
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.002)
        return found[-1]

    def saved(self) -> int:
        """The update of the newest checkpoint."""
        return max(int(folder.name.removeprefix("update-")) for folder in self.found("update-*"))

    def end(self, signal_number: int | None = None) -> tuple[int, str]:
        if signal_number is not None:
            self.process.send_signal(signal_number)
        _, errors = self.process.communicate(timeout=240)
        return self.process.returncode, errors

    def result(self) -> dict[str, Any]:
        """Metrics and digests, once the step has succeeded."""
        code, errors = self.end()
        assert code == 0, errors
        assert not self.found("*"), "checkpoints stay behind"
        digests = {name: sha256_path(self.home / name) for name in self.outputs}
        return {"metrics": json.loads((self.home / "metrics.json").read_text()), **digests}


def undisturbed(step: str, home: Path, inputs: dict[str, Path], settings: dict[str, Any]) -> dict[str, Any]:
    """The result in this process, with the default interval: it may not matter."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UNIFL_CHECKPOINTS", str(home / "checkpoints"))
        metrics = execute(step, taken(step, inputs), {name: home / name for name in OUTPUTS[step]}, settings)
    torch.set_num_threads(threads)
    return {"metrics": metrics, **{name: sha256_path(home / name) for name in OUTPUTS[step]}}


@pytest.fixture(scope="module")
def undisturbed_segmenter(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return undisturbed("segmentation_model", tmp_path_factory.mktemp("segmenter"), inputs, SEGMENTER)


@pytest.fixture(scope="module")
def undisturbed_examiners(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return undisturbed("judge_models", tmp_path_factory.mktemp("examiners"), inputs, EXAMINERS)


def test_a_killed_segmenter_training_goes_on_and_ends_the_same(
    tmp_path: Path, inputs: dict[str, Path], undisturbed_segmenter: dict[str, Any]
) -> None:
    settings = SEGMENTER | {"checkpoint_seconds": OFTEN}
    first = Attempt("segmentation_model", tmp_path, inputs, settings)
    first.wait_for("update-000001*")
    code, _ = first.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert 10 <= first.saved() < SEGMENTER["updates"]
    assert not (tmp_path / "segmenter").exists()
    assert Attempt("segmentation_model", tmp_path, inputs, settings).result() == undisturbed_segmenter


def test_a_notice_saves_the_segmenters_last_update_and_the_next_attempt_ends_the_same(
    tmp_path: Path, inputs: dict[str, Path], undisturbed_segmenter: dict[str, Any]
) -> None:
    settings = SEGMENTER | {"checkpoint_seconds": 0.3}
    first = Attempt("segmentation_model", tmp_path, inputs, settings)
    first.wait_for("update-*")
    before = first.saved()
    time.sleep(0.1)  # some updates, and less than the interval
    code, errors = first.end(signal.SIGTERM)
    assert code == INTERRUPTED_EXIT_CODE, errors
    assert "goes on from" in errors
    assert before < first.saved() < SEGMENTER["updates"]
    assert Attempt("segmentation_model", tmp_path, inputs, settings).result() == undisturbed_segmenter


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, INTERRUPTED_EXIT_CODE)],
    ids=["kill", "notice"],
)
def test_examiners_that_were_stopped_end_the_same_and_finished_ones_are_not_trained_again(
    tmp_path: Path, inputs: dict[str, Path], undisturbed_examiners: dict[str, Any], number: int, expected: int
) -> None:
    settings = EXAMINERS | {"checkpoint_seconds": OFTEN}
    first = Attempt("judge_models", tmp_path, inputs, settings)
    first.wait_for("*/layout")  # in training, or finished where this process was slow to look
    code, errors = first.end(number)
    assert code == expected, errors
    assert not (tmp_path / "judges").exists()
    (color,) = first.found("finished/color/made/model.safetensors")
    written = color.stat().st_mtime_ns

    second = Attempt("judge_models", tmp_path, inputs, settings)
    second.wait_for("*/lighting")
    assert color.stat().st_mtime_ns == written
    assert not second.found("training/color")
    assert second.result() == undisturbed_examiners
