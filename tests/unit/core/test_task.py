"""How a step ends inside a Kubeflow task: exit code, one line, and nothing on success but what the step wrote."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from unifl.core import task
from unifl.core.digest import code_version, sha256_path
from unifl.core.task import run_task


@dataclass
class Artifact:
    path: str
    metadata: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def error_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "error.json"
    monkeypatch.setenv(task.ERROR_FILE_VARIABLE, str(file))
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    return file


def arguments(tmp_path: Path, settings: str, version: str | None = None) -> dict[str, Any]:
    names = ("evaluation", "verdict", "metrics", "record")
    artifacts = {name: Artifact(str(tmp_path / "task" / name)) for name in names}
    return {**artifacts, "settings": settings, "code_version": version or code_version()}


def test_a_wrong_setting_ends_the_task_with_its_exit_code_and_one_line(tmp_path: Path, error_file: Path) -> None:
    with pytest.raises(SystemExit) as left:
        run_task("quality_gate", arguments(tmp_path, '{"no_such_setting": 1}'))
    told = json.loads(error_file.read_text())
    assert left.value.code == told["exit_code"] == 2
    assert told["error"].startswith("quality_gate: ")
    assert "no_such_setting" in told["error"]
    assert "\n" not in told["error"]


def test_a_missing_input_is_a_data_contract_error(tmp_path: Path, error_file: Path) -> None:
    with pytest.raises(SystemExit) as left:
        run_task("quality_gate", arguments(tmp_path, "{}"))
    assert left.value.code == 3
    assert "evaluation" in json.loads(error_file.read_text())["error"]


def test_code_other_than_the_submitted_one_is_refused(tmp_path: Path, error_file: Path) -> None:
    with pytest.raises(SystemExit) as left:
        run_task("quality_gate", arguments(tmp_path, "{}", version="0" * 64))
    assert left.value.code == 2
    assert "submitted with code 000000000000" in json.loads(error_file.read_text())["error"]


def test_outputs_carry_their_digest_and_metrics_their_values(tmp_path: Path, error_file: Path) -> None:
    prompts = tmp_path / "prompts.json"
    given = arguments(tmp_path, "{}")
    prompts.write_text("{}")
    given |= {"prompts": Artifact(str(tmp_path / "task" / "prompts.parquet"))}
    given["settings"] = json.dumps({"count": 300})
    run_task("embedded_prompts", given)
    assert not error_file.exists()
    assert given["prompts"].metadata["sha256"] == sha256_path(Path(given["prompts"].path))
    assert given["metrics"].metadata == json.loads(Path(given["metrics"].path).read_text())
    assert json.loads(Path(given["record"].path).read_text())["subject"][0]["name"] == "prompts"


def test_a_task_ends_when_the_run_that_started_it_is_gone() -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    program = "from unifl.core import task; import time; task.follow_parent(); time.sleep(30)"
    environment = {**os.environ, task.PARENT_VARIABLE: str(gone.pid)}
    orphan = subprocess.run([sys.executable, "-c", program], env=environment, timeout=20, check=False)
    assert orphan.returncode == -signal.SIGTERM
