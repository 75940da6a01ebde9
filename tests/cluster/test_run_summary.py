"""The end of a run: its summary from the tasks' notes, a webhook told by a real server, leftovers gone."""

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from unifl.core.errors import SettingsError
from unifl.core.notes import FAILED, RUNNING, SUCCEEDED, leave_note
from unifl.core.step import execute

pytestmark = pytest.mark.integration

SECRET_PATH = "/hooks/very-secret"


class Listener:
    """A web server that keeps what it was told; `answers` are its next status codes, then 200."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.told: list[Any] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = listener.answers.pop(0) if listener.answers else 200
                if status == 200:
                    listener.told.append((self.path, self.headers["Content-Type"], json.loads(body)))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}{SECRET_PATH}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    started = Listener()
    monkeypatch.setenv("UNIFL_WEBHOOK_URL", started.address)
    yield started
    started.close()


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace as placements give it to every task."""
    monkeypatch.setenv("UNIFL_NOTES", str(tmp_path / "work/notes"))
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "work/checkpoints"))
    monkeypatch.setenv("UNIFL_RUN_ID", "run-1")
    (tmp_path / "work/notes").mkdir(parents=True)
    return tmp_path / "work"


def note(monkeypatch: pytest.MonkeyPatch, task: str, state: str, **about: Any) -> None:
    monkeypatch.setenv("UNIFL_TASK", task)
    leave_note(task, state, **about)


def summary(tmp_path: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The step's metrics and its summary."""
    quick = {"webhook_wait_factor_seconds": 0.05, "pipeline": "unifl", "link": "https://kfp/#/{run_id}"}
    metrics = execute("run_summary", {}, {"summary": tmp_path / "summary.json"}, {**quick, **settings})
    return metrics, json.loads((tmp_path / "summary.json").read_text())


def test_a_failed_run_is_told_with_its_step_error_metrics_and_link(
    tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(monkeypatch, "reward_model_color", SUCCEEDED, metrics={"accuracy": 0.8})
    note(monkeypatch, "quality_gate", FAILED, error="quality_gate: 1 of 1 rules failed", exit_code=6)
    metrics, written = summary(tmp_path, state="FAILED")
    assert metrics["webhook"] == "sent"
    ((path, kind, told),) = listener.told
    assert (path, kind) == (SECRET_PATH, "application/json")
    assert told == {
        "text": "unifl run-1: FAILED in quality_gate: quality_gate: 1 of 1 rules failed",
        "run": "run-1",
        "status": "FAILED",
        "failed_step": "quality_gate",
        "error": "quality_gate: 1 of 1 rules failed",
        "metrics": {"reward_model_color": {"accuracy": 0.8}},
        "link": "https://kfp/#/run-1",
    }
    assert [step["task"] for step in written["steps"]] == ["quality_gate", "reward_model_color"]


def test_a_task_that_never_ended_was_ended_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(monkeypatch, "decoupled_feedback", RUNNING)
    _, written = summary(tmp_path, state="FAILED")
    assert written["failed_step"] == "decoupled_feedback"
    assert written["error"].startswith("ended from outside")


def test_a_later_attempt_takes_the_place_of_a_failed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(monkeypatch, "evaluation", FAILED, error="evaluation: no", exit_code=1)
    note(monkeypatch, "evaluation", SUCCEEDED, metrics={})
    assert summary(tmp_path, state="SUCCEEDED")[1]["failed_step"] is None


def test_a_step_that_says_why_goes_before_those_that_were_ended_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(monkeypatch, "decoupled_feedback", RUNNING)
    note(monkeypatch, "reward_model_color", FAILED, error="reward_model: no", exit_code=5)
    assert summary(tmp_path, state="FAILED")[1]["failed_step"] == "reward_model_color"


def test_without_a_workspace_the_summary_is_what_the_scheduler_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.delenv("UNIFL_NOTES")
    _, written = summary(tmp_path, state="FAILED", error="task resolve-data failed")
    assert (written["steps"], written["failed_step"], written["error"]) == ([], None, "task resolve-data failed")
    assert "no notes of the steps" in capfd.readouterr().err


@pytest.mark.parametrize("answer", [500, 404])
def test_a_webhook_that_fails_never_fails_the_run_but_is_logged(
    tmp_path: Path, listener: Listener, capfd: Any, answer: int
) -> None:
    listener.answers = [answer] * 9
    metrics, written = summary(tmp_path, state="SUCCEEDED", webhook_retries=1)
    assert metrics["webhook"].startswith("the webhook at 127.0.0.1 ")
    assert written["state"] == "SUCCEEDED"
    assert f"(webhook: {metrics['webhook']})" in capfd.readouterr().err


def test_the_address_of_the_webhook_is_written_nowhere(tmp_path: Path, listener: Listener, capfd: Any) -> None:
    listener.close()
    metrics, _ = summary(tmp_path, webhook_retries=1)
    assert metrics["webhook"].startswith("the webhook at 127.0.0.1 did not take the message")
    files = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any("very-secret" in text for text in (*files, *capfd.readouterr()))


def test_without_a_webhook_there_is_still_a_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNIFL_WEBHOOK_URL", raising=False)
    assert summary(tmp_path)[0]["webhook"] == "no webhook"


def test_old_notes_checkpoints_and_half_files_go_and_young_ones_stay(tmp_path: Path, workspace: Path) -> None:
    days = {
        "notes/run-0": 15,
        "notes/run-1": 1,
        "checkpoints/base_model/old": 15,
        "checkpoints/base_model/young": 13,
        "checkpoints/base_model/young/.partial-7-0-pod-a": 2,
    }
    for name in days:
        (workspace / name).mkdir(parents=True)
    for name, age in days.items():
        os.utime(workspace / name, (time.time() - age * 86400,) * 2)
    assert summary(tmp_path)[0]["removed"] == 3
    assert {name for name in days if (workspace / name).exists()} == {"notes/run-1", "checkpoints/base_model/young"}


def test_a_note_that_cant_be_written_fails_no_task(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("UNIFL_NOTES", "/proc/none")
    leave_note("evaluation", SUCCEEDED)
    assert "evaluation: no note for the run's summary could be written" in capfd.readouterr().err


def test_no_run_to_sum_up_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNIFL_RUN_ID")
    with pytest.raises(SettingsError, match="no run is named"):
        summary(tmp_path)
