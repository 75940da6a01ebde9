"""Pipelines as compiled for a cluster, loaded from their YAML and executed: preflight, steps, exit handler, webhook."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.integration.checkout import ROOT, TINY

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

SCRIPT = """
import json, sys
from kfp import components, local
from pipelines.compiling import compiled, specification
from pipelines.feedback_learning import feedback_learning
from pipelines.partial import PARTS, given_inputs, part
from pipelines.placement import read_placement
from pipelines.preflight import with_facts
from pipelines.settings import FLOW, TASKS, parameters, resolved, task_settings

name, placement, preset, folder, inputs, overrides = json.loads(sys.argv[1])
where = read_placement(placement)
pipeline = part(name, where) if name in PARTS else feedback_learning(where)
open(f"{folder}/pipeline.yaml", "w").write(compiled(pipeline))
settings = task_settings(preset, overrides)
run = PARTS.get(name, TASKS)
settings = resolved({task: settings[task] for task in FLOW if task in run or task not in TASKS})
settings = with_facts(settings, specification(pipeline), where, None, "https://kfp/#/{run_id}")
# There is no Kubernetes here; its part of preflight has tests of its own.
settings["preflight"] = settings["preflight"].model_copy(update={"namespace": None})
runner = local.SubprocessRunner(use_venv=False)
local.init(runner, pipeline_root=f"{folder}/out", workspace_root=f"{folder}/workspace")
loaded = components.load_component_from_file(f"{folder}/pipeline.yaml")
loaded(**parameters(settings), **given_inputs(name, inputs))
"""


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("UNIFL_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/hook")
    yield told
    server.shutdown()
    server.server_close()


@dataclass(frozen=True)
class Executed:
    """How a compiled pipeline ended: exit code, output, and the run's summary."""

    code: int
    output: str
    summary: dict[str, Any]


def executed(folder: Path, name: str, *overrides: str, inputs: tuple[str, ...] = ()) -> Executed:
    """Execute the compiled pipeline `name` on the tiny preset, as tasks of a cluster without a shared volume."""
    placement = folder / "here.yaml"
    placement.write_text("webhook: {required: true}\n")
    for scratch in ("notes", "tmp"):
        (folder / scratch).mkdir()
    call = [name, str(placement), TINY, str(folder), inputs, overrides]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "UNIFL_RUN_ID": "run-1",
        "UNIFL_NOTES": str(folder / "notes"),
        "UNIFL_CHECKPOINTS": str(folder / "checkpoints"),
        "TMPDIR": str(folder / "tmp"),
        "DVC_NO_ANALYTICS": "1",
    }
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(call)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    output = ended.stdout + ended.stderr
    summaries = list(folder.glob("out/*/run-summary/summary"))
    assert len(summaries) == 1, output[-3000:]
    return Executed(ended.returncode, output, json.loads(summaries[0].read_text()))


def test_preflight_stops_the_dag_before_any_step_and_the_end_is_told(
    tmp_path: Path, webhook: list[dict[str, Any]]
) -> None:
    ended = executed(tmp_path, "feedback_learning")
    assert ended.code != 0
    assert "is not pinned by digest" in ended.output
    assert (ended.summary["state"], ended.summary["failed_step"]) == ("FAILED", "preflight")
    assert [step["task"] for step in ended.summary["steps"]] == ["preflight"]
    (told,) = webhook
    assert (told["run"], told["status"], told["failed_step"]) == ("run-1", "FAILED", "preflight")


def test_a_single_step_runs_on_a_past_artifact_and_its_metrics_are_told(
    tmp_path: Path, webhook: list[dict[str, Any]]
) -> None:
    row = {"model": "stage2", "steps": 4, "metrics": {"kid": {"value": 8.0, "low": 7.0, "high": 9.0}}}
    past = tmp_path / "evaluation.json"
    info = {"kid": {"title": "KID", "better": "lower"}}
    past.write_text(json.dumps({"few_steps": 4, "full_steps": 20, "results": [row], "metric_info": info}))
    ended = executed(tmp_path, "step_quality_gate", "preflight.allow_tags=true", inputs=(f"evaluation={past}",))
    assert ended.code == 0, ended.output[-3000:]
    assert (ended.summary["state"], ended.summary["failed_step"]) == ("SUCCEEDED", None)
    assert [step["task"] for step in ended.summary["steps"]] == ["preflight", "quality_gate"]
    (told,) = webhook
    assert (told["status"], told["link"]) == ("SUCCEEDED", "https://kfp/#/run-1")
    assert "quality_gate" in told["metrics"]


@pytest.mark.slow
def test_the_whole_dag_runs_and_tells_its_end(tmp_path: Path, webhook: list[dict[str, Any]]) -> None:
    ended = executed(tmp_path, "feedback_learning", "preflight.allow_tags=true")
    assert ended.code == 0, ended.output[-3000:]
    assert (ended.summary["state"], ended.summary["failed_step"]) == ("SUCCEEDED", None)
    assert {step["step"] for step in ended.summary["steps"]} >= {"preflight", "reward_model", "evaluation"}
    (told,) = webhook
    assert told["metrics"]["adversarial_feedback"]["updates"] == 2
