"""Submitting: checked and pinned before anything is sent, one version a commit and pipeline, one run."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.settings import FLOW
from tests.cluster.conftest import ORIGIN, ROOT, Ended, git
from tests.cluster.fake_server import FakeServer
from unifl.core.digest import code_version

pytestmark = pytest.mark.integration

Call = Callable[..., Ended]


def data_settings(run: Any) -> dict[str, Any]:
    return json.loads(run.runtime_config.parameters["resolve_data_settings"])


def test_a_run_is_started_and_its_id_and_link_are_printed(call: Call, checkout: Path, server: FakeServer) -> None:
    ended = call("submit", "--preset", "demo", "--name", "first")
    assert (ended.code, ended.err) == (0, "")
    (run,) = server.runs.values()
    link = f"{server.host}/#/runs/details/{run.run_id}"
    assert ended.out.splitlines()[1:] == ["placement cpu", f"run {run.run_id}", link]
    assert run.display_name == "first"
    assert [experiment.display_name for experiment in server.experiments.values()] == ["unifl"]


def test_settings_data_and_code_are_parameters_of_the_run(call: Call, checkout: Path, server: FakeServer) -> None:
    assert call("submit", "--set", "evaluation.images=8", "--set", "reward_model_color.epochs=2").code == 0
    (run,) = server.runs.values()
    parameters = run.runtime_config.parameters
    assert set(parameters) == {"code_version", *(f"{task}_settings" for task in FLOW)}
    assert parameters["code_version"] == code_version()
    assert json.loads(parameters["evaluation_settings"])["images"] == 8
    assert json.loads(parameters["reward_model_color_settings"])["epochs"] == 2
    assert json.loads(parameters["reward_model_detail_settings"])["epochs"] == 6
    assert json.loads(parameters["validate_data_settings"])["expectations_sha256"]
    data = data_settings(run)
    assert (data["repository"], data["revision"]) == (ORIGIN, git(checkout, "rev-parse", "HEAD"))
    locked = yaml.safe_load((checkout / "data/dvc.lock").read_text())["stages"]["images"]["outs"][0]
    assert data["expected"]["images"] == locked["md5"]


def test_a_version_is_named_by_commit_and_pipeline_and_uploaded_once(
    call: Call, checkout: Path, server: FakeServer
) -> None:
    first, second = call("submit"), call("submit", "--set", "evaluation.images=8")
    commit = git(checkout, "rev-parse", "--short=12", "HEAD")
    named = re.fullmatch(rf"version ({commit}-[0-9a-f]{{12}}) \(uploaded\)", first.out.splitlines()[0])
    assert named
    assert second.out.splitlines()[0] == f"version {named[1]} (was there)"
    (version,) = server.versions.values()
    assert version.display_name == named[1]
    assert {run.pipeline_version_reference.pipeline_version_id for run in server.runs.values()} == {
        version.pipeline_version_id
    }
    assert [pipeline.display_name for pipeline in server.pipelines.values()] == ["unifl-feedback-learning"]


def test_another_commit_is_another_version(call: Call, checkout: Path, server: FakeServer) -> None:
    call("submit")
    (checkout / "note").write_text("x")
    git(checkout, "add", "note")
    git(checkout, "commit", "--quiet", "--message", "A note")
    assert call("submit").code == 0
    assert len(server.versions) == 2
    assert len(server.pipelines) == 1


def test_a_dirty_work_tree_is_refused_before_anything_is_sent(call: Call, checkout: Path, server: FakeServer) -> None:
    (checkout / "note").write_text("x")
    ended = call("submit")
    assert ended.code == 2
    assert "the work tree is dirty: 1 files differ" in ended.err
    assert "the first is note" in ended.err
    assert ended.err.count("\n") == 1
    assert server.requests == []


def test_a_dirty_work_tree_can_be_allowed_and_shows_in_the_version(
    call: Call, checkout: Path, server: FakeServer
) -> None:
    (checkout / "note").write_text("x")
    assert call("submit", "--allow-dirty").code == 0
    (version,) = server.versions.values()
    assert "-dirty-" in version.display_name


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("decoupled_feedback.updatse=1", "updatse is not a setting (did you mean updates?)"),
        ("decuopled_feedback.updates=1", "no step of this pipeline (did you mean decoupled_feedback?)"),
        ("evaluation.images=-1", "images: Input should be greater than"),
        ("quality_gate.rules=[{metrik: kid, at_most: 1}]", "rules.0.metrik is not a setting (did you mean metric?)"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_right_one_and_nothing_is_sent(
    call: Call, checkout: Path, server: FakeServer, override: str, words: str
) -> None:
    ended = call("submit", "--set", override)
    assert ended.code == 2
    assert words in ended.err
    assert ended.err.count("\n") == 1
    assert server.requests == []


def test_data_that_is_not_pushed_is_refused(call: Call, checkout: Path, server: FakeServer) -> None:
    pointers = checkout / "data/dvc.lock"
    pointers.write_text(pointers.read_text() + "\n")
    assert "not committed" in call("submit", "--allow-dirty").err
    git(checkout, "commit", "--quiet", "--all", "--message", "New data")
    ended = call("submit")
    assert (ended.code, server.requests) == (2, [])
    assert f"is not pushed to {ORIGIN}" in ended.err


def test_a_checkout_without_an_address_is_refused(call: Call, checkout: Path, server: FakeServer) -> None:
    git(checkout, "remote", "set-url", "origin", str(checkout))
    try:
        ended = call("submit")
    finally:
        git(checkout, "remote", "set-url", "origin", ORIGIN)
    assert (ended.code, server.requests) == (2, [])
    assert "a folder of this machine" in ended.err


def test_waiting_follows_the_run_to_its_end(call: Call, checkout: Path, server: FakeServer) -> None:
    server.tasks_per_look = 5
    ended = call("submit", "--wait", "--poll", 0.05)
    assert ended.code == 0
    lines = [line.partition(", after ")[0] for line in ended.err.splitlines()]
    assert lines == ["RUNNING: 5/14 steps done", "RUNNING: 10/14 steps done", "SUCCEEDED: 14/14 steps done"]


def test_waiting_for_a_run_that_fails_ends_with_13_and_names_the_step(
    call: Call, checkout: Path, server: FakeServer
) -> None:
    server.tasks_per_look, server.failing = 20, {"decoupled_feedback"}
    ended = call("submit", "--wait", "--poll", 0.05)
    assert ended.code == 13
    last = ended.err.splitlines()[-1]
    assert f"run {ended.run_id} ended FAILED in decoupled_feedback" in last
    assert f"python -m pipelines logs {ended.run_id} decoupled_feedback" in last


@pytest.mark.parametrize("override", ["preflight.allow_tags=true", "run_summary.webhook_retries=0"])
def test_a_setting_of_a_task_that_only_a_cluster_has_is_refused_on_this_machine(
    call: Call, checkout: Path, server: FakeServer, override: str
) -> None:
    task = override.partition(".")[0]
    ended = call("run", "--set", override)
    assert (ended.code, server.requests) == (2, [])
    assert ended.err == (
        f"{task} runs on a cluster only, so it takes no settings here: {override}; "
        f"remedy: leave it out, or `python -m pipelines submit --set {override}`\n"
    )
    assert not (checkout / "runs").exists()
    assert call("submit", "--set", override).code == 0


def test_ctrl_c_while_a_run_is_followed_leaves_the_run_alone_and_says_so(
    checkout: Path, server: FakeServer, tmp_path: Path
) -> None:
    # A shell starts background jobs with SIGINT ignored, and the tests may be one.
    started = (
        "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('pipelines', run_name='__main__', alter_sys=True)"
    )
    environment = {**os.environ, "KF_PIPELINES_ENDPOINT": server.host, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    environment["TMPDIR"] = str(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", started, "submit", "--wait", "--poll", "0.1"],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("RUNNING: 0/")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    (run,) = server.runs.values()
    (line,) = [line for line in err.splitlines() if line]
    assert line == (
        f"no longer followed; run {run.run_id} goes on; remedy: `python -m pipelines status {run.run_id}` shows it, "
        f"`python -m pipelines cancel {run.run_id}` ends it"
    )
    assert f"run {run.run_id}" in out
    assert run.state == "RUNNING"
    assert not list(tmp_path.iterdir())
