"""Rerunning a step: only it and what follows, on the past run's artifacts; edge by edge, and once for real."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.compiling import dag_tasks
from pipelines.past_artifacts import MetadataStore, by_dag_names
from pipelines.rerun import plan
from pipelines.settings import FLOW, TASKS
from tests.cluster.conftest import Ended
from tests.cluster.fake_metadata import address
from tests.cluster.fake_server import FakeServer
from tests.cluster.graph import edges
from unifl.core.digest import code_version

pytestmark = pytest.mark.integration

Call = Callable[..., Ended]
TAIL = ("decoupled_feedback", "adversarial_feedback", "evaluation", "quality_gate")
REWARDS = [f"reward_model_{axis}" for axis in ("color", "layout", "lighting", "detail")]


def importers(spec: dict[str, Any]) -> dict[str, str]:
    """Name of each importer node -> the address that it imports."""
    executors, found = spec["deploymentSpec"]["executors"], {}
    for task in dag_tasks(spec).values():
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        if "importer" in executors[label]:
            found[task["taskInfo"]["name"]] = executors[label]["importer"]["artifactUri"]["constant"]
    return found


@pytest.fixture
def finished(server: FakeServer, started: str) -> str:
    server.finish(started)
    return started


def rerun_of(call: Call, server: FakeServer, *arguments: str) -> tuple[Ended, dict[str, Any], Any]:
    ended = call("rerun", *arguments)
    assert ended.code == 0, ended.err
    run = server.runs[ended.run_id]
    return ended, server.spec(run), run


@pytest.mark.parametrize("first", list(TASKS))
def test_a_rerun_has_the_dag_s_edges_into_the_steps_that_run_again(compiled_dag: dict[str, Any], first: str) -> None:
    from pipelines.compiling import specification
    from pipelines.feedback_learning import feedback_learning
    from pipelines.placement import read_placement
    from pipelines.rerun import without

    again, needed = plan(compiled_dag, [first])
    whole = edges(compiled_dag)
    assert {(step, output) for step, output, into, _ in whole if into in again and step not in again} == {
        (step, output) for step, outputs in needed.items() for output in outputs
    }
    addresses = {step: {output: f"gs://x/{step}/{output}" for output in outputs} for step, outputs in needed.items()}
    spec = specification(feedback_learning(read_placement("cpu"), without(again, addresses)))
    assert edges(spec) == {edge for edge in whole if edge[2] in again}
    assert importers(spec) == {
        f"{step}.{output}": uri for step, outputs in addresses.items() for output, uri in outputs.items()
    }
    ran = {task["taskInfo"]["name"] for task in dag_tasks(spec).values()}
    assert ran == {"preflight", *again, *importers(spec), "run_summary"}


def test_only_the_step_and_what_follows_run_again(
    call: Call, checkout: Path, server: FakeServer, finished: str
) -> None:
    ended, spec, run = rerun_of(call, server, finished, "--from", "decoupled_feedback")
    assert ended.out.splitlines()[0] == f"runs again: {', '.join(TAIL)}"
    assert {name for _, _, name, _ in edges(spec)} == set(TAIL)
    imported = importers(spec)
    assert imported["perceptual_feedback.tuned_model"] == address(finished, "perceptual-feedback", "tuned_model")
    # The fourth reward model of the DAG is reward-model-4 to the compiler.
    assert imported["reward_model_detail.reward_model"] == address(finished, "reward-model-4", "reward_model")
    assert run.experiment_id in server.experiments
    assert run.pipeline_spec is not None


def test_settings_are_the_past_run_s_but_for_the_override(
    call: Call, checkout: Path, server: FakeServer, finished: str
) -> None:
    _, _, run = rerun_of(call, server, finished, "--from", "evaluation", "--set", "evaluation.images=8")
    past, new = server.runs[finished].runtime_config.parameters, run.runtime_config.parameters
    assert json.loads(new["evaluation_settings"]) == {**json.loads(past["evaluation_settings"]), "images": 8}
    told_anew = {"preflight_settings", "run_summary_settings"}
    assert {key for key in past if past[key] != new[key]} - told_anew == {"evaluation_settings"}
    told = json.loads(new["preflight_settings"])
    assert {demand["task"] for demand in told["demands"]} == {"preflight", "evaluation", "quality_gate", "run_summary"}
    assert new["code_version"] == code_version()


def test_one_reward_model_runs_again_beside_the_others(
    call: Call, checkout: Path, server: FakeServer, finished: str
) -> None:
    ended, spec, _ = rerun_of(call, server, finished, "--from", "reward_model@layout")
    assert ended.out.splitlines()[0] == f"runs again: reward_model_layout, {', '.join(TAIL)}"
    assert "reward_model_color.reward_model" in importers(spec)
    assert "reward_model_layout.reward_model" not in importers(spec)


def test_a_step_of_several_tasks_runs_again_in_all_of_them(
    call: Call, checkout: Path, server: FakeServer, finished: str
) -> None:
    ended, _, run = rerun_of(call, server, finished, "--from", "reward_model", "--set", "reward_model.epochs=2")
    assert ended.out.splitlines()[0] == f"runs again: {', '.join([*REWARDS, *TAIL])}"
    epochs = [json.loads(run.runtime_config.parameters[f"{task}_settings"])["epochs"] for task in REWARDS]
    assert epochs == [2, 2, 2, 2]


def test_cached_steps_and_a_failed_end_can_be_reused(
    call: Call, checkout: Path, server: FakeServer, started: str
) -> None:
    server.cached, server.failing = {"resolve_data"}, {"quality_gate"}
    server.finish(started)
    _, spec, _ = rerun_of(call, server, started, "--from", "quality_gate")
    assert importers(spec) == {"evaluation.evaluation": address(started, "evaluation", "evaluation")}


def test_a_rerun_can_be_rerun(call: Call, checkout: Path, server: FakeServer, finished: str) -> None:
    _, _, first = rerun_of(call, server, finished, "--from", "evaluation")
    server.finish(first.run_id)
    _, spec, _ = rerun_of(call, server, first.run_id, "--from", "evaluation")
    assert importers(spec)["decoupled_feedback.tuned_model"] == address(finished, "decoupled-feedback", "tuned_model")


def test_an_unfinished_upstream_step_is_named_and_nothing_is_started(
    call: Call, checkout: Path, server: FakeServer, started: str
) -> None:
    server.finish(started, 2)
    ended = call("rerun", started, "--from", "decoupled_feedback")
    assert ended.code == 11
    assert "has no artifact" in ended.err
    assert "perceptual_feedback.tuned_model" in ended.err
    assert ended.err.count("\n") == 1
    assert list(server.runs) == [started]


def test_a_setting_of_a_step_that_is_not_run_again_is_refused(
    call: Call, checkout: Path, server: FakeServer, finished: str
) -> None:
    ended = call("rerun", finished, "--from", "evaluation", "--set", "perceptual_feedback.updates=9")
    assert ended.code == 2
    assert "a step that is not run takes no settings: perceptual_feedback.updates=9" in ended.err
    assert list(server.runs) == [finished]


def test_a_typo_in_step_or_setting_is_answered_with_the_nearest(call: Call, checkout: Path, finished: str) -> None:
    step = call("rerun", finished, "--from", "evalution")
    assert (step.code, "did you mean evaluation?" in step.err) == (2, True)
    setting = call("rerun", finished, "--from", "evaluation", "--set", "evaluation.imagse=8")
    assert (setting.code, "imagse is not a setting (did you mean images?)" in setting.err) == (2, True)


def test_a_run_of_another_pipeline_is_refused(
    call: Call, checkout: Path, server: FakeServer, compiled_dag: dict[str, Any]
) -> None:
    other = {**compiled_dag, "root": {**compiled_dag["root"], "inputDefinitions": {"parameters": {}}}}
    run = server.start(other)
    ended = call("rerun", run, "--from", "evaluation")
    assert ended.code == 2
    assert f"run {run} is no run of this pipeline" in ended.err


def test_without_a_metadata_store_the_addresses_come_from_a_file(
    call: Call, checkout: Path, server: FakeServer, finished: str, tmp_path: Path
) -> None:
    server.metadata_store = False
    refused = call("rerun", finished, "--from", "quality_gate")
    assert refused.code == 9
    assert "no metadata store answers at this address" in refused.err
    assert "--artifacts FILE" in refused.err
    file = tmp_path / "addresses.yaml"
    file.write_text("evaluation: {evaluation: 'gs://elsewhere/evaluation.json'}\n")
    _, spec, _ = rerun_of(call, server, finished, "--from", "quality_gate", "--artifacts", str(file))
    assert importers(spec) == {"evaluation.evaluation": "gs://elsewhere/evaluation.json"}
    file.write_text("evaluation: [gs://x]\n")
    broken = call("rerun", finished, "--from", "quality_gate", "--artifacts", str(file))
    assert (broken.code, "these are no addresses" in broken.err) == (2, True)


def test_the_store_knows_every_output_by_the_names_of_the_dag(
    server: FakeServer, finished: str, compiled_dag: dict[str, Any]
) -> None:
    from pipelines.cluster_client import Cluster

    found = by_dag_names(MetadataStore(Cluster(server.host)).outputs(finished), compiled_dag)
    assert set(found) == set(FLOW)
    assert found["quality_gate"] == {
        output: address(finished, "quality-gate", output) for output in ("metrics", "record", "verdict")
    }


@pytest.mark.filterwarnings("ignore:.*have no effect in the current local runner")
def test_a_rerun_executes_on_the_past_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_parameters: dict[str, str]
) -> None:
    """The gate of a past evaluation again, with another rule, on kfp.local."""
    from kfp import local

    from pipelines.feedback_learning import feedback_learning
    from pipelines.placement import THIS_MACHINE
    from pipelines.rerun import without

    row = {"model": "stage2", "steps": 4, "metrics": {"kid": {"value": 8.0, "low": 7.0, "high": 9.0}}}
    past = tmp_path / "past_evaluation.json"
    info = {"kid": {"title": "KID", "better": "lower"}}
    past.write_text(json.dumps({"few_steps": 4, "full_steps": 20, "results": [row], "metric_info": info}))
    monkeypatch.chdir(tmp_path)
    source = str(Path(__file__).resolve().parents[2] / "src")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([source, os.environ.get("PYTHONPATH", "")]))
    local.init(
        local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "out"), workspace_root=str(tmp_path / "ws")
    )
    rules = {"rules": [{"metric": "kid", "at_most": 8.5}]}
    pipeline = feedback_learning(THIS_MACHINE, without(["quality_gate"], {"evaluation": {"evaluation": str(past)}}))
    pipeline(**{**demo_parameters, "code_version": code_version(), "quality_gate_settings": json.dumps(rules)})
    (verdict,) = (tmp_path / "out").rglob("verdict")
    written = json.loads(verdict.read_text())
    assert written["passed"] is True
    assert [rule["value"] for rule in written["rules"]] == [8.0]
