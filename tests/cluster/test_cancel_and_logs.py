"""Canceling a run, once and again; a step's log from the server, else from Kubernetes, else the command for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import Ended
from tests.cluster.fake_server import FakeServer

pytestmark = pytest.mark.integration

Call = Callable[..., Ended]


@pytest.fixture
def kubeconfig(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeconfig whose cluster is the fake server."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "clusters": [{"name": "fake", "cluster": {"server": server.host}}],
        "users": [{"name": "fake", "user": {}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(file))
    # The library reads the variable once, when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))


def add_pod(server: FakeServer, run_id: str, name: str, node: str, log: str) -> None:
    server.pods.append(
        {
            "metadata": {
                "name": name,
                "labels": {"pipeline/runid": run_id},
                "annotations": {"workflows.argoproj.io/node-name": node},
                "creationTimestamp": f"2026-03-01T09:00:{len(server.pods):02d}Z",
            }
        }
    )
    server.pod_logs[name] = log


def test_a_run_is_canceled_and_canceling_again_changes_nothing(call: Call, server: FakeServer, started: str) -> None:
    first, second = call("cancel", started), call("cancel", started)
    assert (first.code, first.out) == (0, f"run {started} is being canceled\n")
    assert (second.code, second.out) == (0, f"run {started} is canceling already\n")
    assert [path for _, path in server.requests].count(f"/apis/v2beta1/runs/{started}:terminate") == 1
    server.runs[started].state = "CANCELED"
    assert call("cancel", started).out == f"run {started} is canceled already\n"


@pytest.mark.parametrize("failing", [set(), {"evaluation"}])
def test_a_run_that_has_ended_can_not_be_canceled(
    call: Call, server: FakeServer, started: str, failing: set[str]
) -> None:
    server.failing = failing
    server.finish(started)
    ended = call("cancel", started)
    assert ended.code == 12
    assert f"run {started} has ended already: {'FAILED' if failing else 'SUCCEEDED'}" in ended.err
    assert server.runs[started].state != "CANCELING"


def test_a_log_comes_from_the_server(call: Call, server: FakeServer, started: str) -> None:
    server.finish(started, 3)
    server.logs[started, "unifl-validate-data-1"] = "1540 images\nall good\n"
    ended = call("logs", started, "validate_data")
    assert (ended.code, ended.out, ended.err) == (0, "1540 images\nall good\n", "")


@pytest.mark.usefixtures("kubeconfig")
def test_a_log_comes_from_every_pod_of_the_step_when_the_server_has_none(
    call: Call, server: FakeServer, started: str
) -> None:
    server.finish(started)
    # The second reward model of the DAG is "reward-model-2" to the workflow.
    add_pod(server, started, "p0", "unifl-x.root.reward-model-2.executor(0)", "out of memory\n")
    add_pod(server, started, "p1", "unifl-x.root.reward-model-2.executor(1)", "done\n")
    add_pod(server, started, "p2", "unifl-x.root.reward-model-2-driver", "driver\n")
    add_pod(server, started, "p3", "unifl-x.root.reward-model.executor(0)", "color\n")
    add_pod(server, "another", "p4", "unifl-y.root.reward-model-2.executor(0)", "another run\n")
    ended = call("logs", started, "reward_model@layout")
    assert (ended.code, ended.out) == (0, "out of memory\ndone\n")


def test_without_server_log_and_kubernetes_the_kubectl_command_is_named(
    call: Call, server: FakeServer, started: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    server.finish(started)
    ended = call("logs", started, "evaluation")
    assert ended.code == 9
    assert f"kubectl logs -n kubeflow -l pipeline/runid={started} -c main --prefix --tail=-1" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.usefixtures("kubeconfig")
def test_pods_that_are_gone_leave_no_log(call: Call, server: FakeServer, started: str) -> None:
    server.finish(started)
    ended = call("logs", started, "evaluation")
    assert ended.code == 11
    assert "neither the server nor Kubernetes has a log of evaluation" in ended.err


def test_a_step_that_has_not_started_has_no_log(call: Call, started: str) -> None:
    ended = call("logs", started, "evaluation")
    assert ended.code == 12
    assert "evaluation has not started" in ended.err


def test_an_unknown_step_is_answered_with_the_nearest(call: Call, started: str) -> None:
    ended = call("logs", started, "evalution")
    assert ended.code == 11
    assert "no step evalution (did you mean evaluation?)" in ended.err
