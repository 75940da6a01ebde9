"""Preflight: all that is wrong with a run is told at once, before the first GPU, each in one line with its remedy."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.compiling import specification
from pipelines.feedback_learning import feedback_learning
from pipelines.placement import read_placement
from pipelines.preflight import with_facts
from pipelines.settings import FLOW, task_settings
from tests.cluster.conftest import ROOT
from tests.cluster.fake_quota import NAMESPACE, FakeQuota, certificate
from unifl.cluster import quota
from unifl.core.errors import AccessError, ClusterError, DataContractError, SettingsError, StorageError, UniflError
from unifl.core.step import execute

pytestmark = pytest.mark.integration

PINNED = {"example.org/train@sha256:" + "0" * 64: "reward_model_color"}
ONE_H100 = {"task": "adversarial_feedback", "gpus": 16, "cpu": "1", "memory": "4G", "train_job": True}


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeQuota]:
    """A Kubernetes API, and this process as a pod of its cluster."""
    fake = FakeQuota(tmp_path / "serviceaccount")
    monkeypatch.setattr(quota, "SERVICE_ACCOUNT", fake.folder)
    monkeypatch.setenv(quota.HOST_VARIABLE, "127.0.0.1")
    monkeypatch.setenv(quota.PORT_VARIABLE, str(fake.port))
    yield fake
    fake.close()


def preflight(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    """The report of a preflight that passes."""
    execute("preflight", {}, {"report": tmp_path / "report.json"}, {"data": False, **settings})
    return json.loads((tmp_path / "report.json").read_text())


def refused(tmp_path: Path, kind: type[UniflError], **settings: Any) -> list[str]:
    """The problems of one that does not."""
    with pytest.raises(kind):
        preflight(tmp_path, **settings)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"] is False
    assert all(line.count("\n") == 0 and "; remedy: " in line for line in report["problems"])
    return report["problems"]


def test_all_that_is_wrong_is_told_together(tmp_path: Path, kubernetes: FakeQuota, capfd: Any) -> None:
    kubernetes.hard = {"requests.nvidia.com/gpu": "8"}
    told = refused(
        tmp_path,
        SettingsError,
        steps={"reward_model_color": '{"axis": "color", "epoch": 1}', "evaluation": "{"},
        images={"example.org/train:latest": "evaluation"},
        secrets={"UNIFL_NO_SUCH_VARIABLE": "unifl-webhook/url"},
        namespace=NAMESPACE,
        demands=[ONE_H100],
        free_gib={str(tmp_path): 10**9, str(tmp_path / "none"): 1},
    )
    printed = capfd.readouterr().err.splitlines()
    for words in (
        "reward_model_color: a setting is wrong: epoch is not a setting (did you mean epochs?)",
        "evaluation: the settings are not JSON",
        "the secret unifl-webhook/url is missing: UNIFL_NO_SUCH_VARIABLE is empty",
        "the image example.org/train:latest of evaluation is not pinned by digest",
        "GiB are free",
        "the folder is not mounted",
        "adversarial_feedback asks for 16 of requests.nvidia.com/gpu, quota unifl of unifl has 8 in all",
        "the cluster has no trainer.kubeflow.org, which adversarial_feedback needs",
    ):
        assert sum(words in line for line in told) == 1, words
        assert any(words in line for line in printed)
    assert len(told) == 8


def test_a_run_without_a_fault_passes(tmp_path: Path, kubernetes: FakeQuota, monkeypatch: pytest.MonkeyPatch) -> None:
    kubernetes.hard = {"requests.nvidia.com/gpu": "16", "requests.cpu": "64", "requests.memory": "1Ti"}
    kubernetes.groups.append("trainer.kubeflow.org")
    monkeypatch.setenv("UNIFL_WEBHOOK_URL", "https://example.org")
    report = preflight(
        tmp_path,
        steps={"quality_gate": "{}"},
        images=PINNED,
        secrets={"UNIFL_WEBHOOK_URL": "unifl-webhook/url"},
        namespace=NAMESPACE,
        demands=[ONE_H100],
        free_gib={str(tmp_path): 0.0},
    )
    assert report == {"passed": True, "problems": [], "remarks": []}


def test_a_quota_that_others_use_now_is_a_remark_and_no_fault(tmp_path: Path, kubernetes: FakeQuota) -> None:
    kubernetes.hard, kubernetes.used = {"requests.nvidia.com/gpu": "8"}, {"requests.nvidia.com/gpu": "7"}
    demand = {"task": "evaluation", "gpus": 2}
    (remark,) = preflight(tmp_path, namespace=NAMESPACE, demands=[demand])["remarks"]
    assert remark.endswith("has 1 left now: it will wait for other runs")


def test_memory_is_compared_by_amount_and_not_by_spelling(tmp_path: Path, kubernetes: FakeQuota) -> None:
    kubernetes.hard = {"requests.memory": "8Gi"}
    assert preflight(tmp_path, namespace=NAMESPACE, demands=[{"task": "evaluation", "memory": "8192Mi"}])["passed"]
    (told,) = refused(
        tmp_path, SettingsError, namespace=NAMESPACE, demands=[{"task": "evaluation", "memory": "8193Mi"}]
    )
    assert "asks for 8193Mi of requests.memory" in told


def test_a_workspace_that_can_t_be_written_is_told(tmp_path: Path) -> None:
    (told,) = refused(tmp_path, StorageError, free_gib={"/proc": 0.0})  # not even by root
    assert f"user {os.getuid()} of group {os.getgid()} can't write there" in told


@pytest.mark.parametrize(
    ("spelled", "amount"),
    [
        ("500m", "0.5"),
        ("2", "2"),
        ("1e3", "1000"),
        ("1E", "1e18"),
        ("8Gi", "8589934592"),
        ("1.5Ki", "1536"),
        (".5", "0.5"),
    ],
)
def test_quantities_are_read_as_kubernetes_client_reads_them(spelled: str, amount: str) -> None:
    from kubernetes.utils.quantity import parse_quantity

    assert quota.quantity(spelled) == parse_quantity(spelled.replace("E", "e18")) == Decimal(amount)


def test_what_is_no_quantity_is_refused() -> None:
    with pytest.raises(ClusterError, match="is no quantity"):
        quota.quantity("8 GB")


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (403, AccessError, "may not read resource quotas of namespace unifl"),
        (418, ClusterError, "answers 418"),
    ],
)
def test_a_cluster_that_refuses_is_one_line(
    tmp_path: Path, kubernetes: FakeQuota, status: int, kind: type[UniflError], words: str
) -> None:
    kubernetes.status = status
    (told,) = refused(tmp_path, kind, namespace=NAMESPACE)
    assert words in told


def test_an_expired_token_is_one_line(tmp_path: Path, kubernetes: FakeQuota) -> None:
    kubernetes.token = "another"
    assert "does not accept the pod's token (401)" in refused(tmp_path, AccessError, namespace=NAMESPACE)[0]


def test_another_namespace_than_the_submitted_one_is_told(tmp_path: Path, kubernetes: FakeQuota) -> None:
    (told,) = refused(tmp_path, SettingsError, namespace="others")
    assert "this pod runs in namespace unifl, the run was submitted for others" in told


def test_a_server_that_the_cluster_s_authority_did_not_sign_gets_no_token(
    tmp_path: Path, kubernetes: FakeQuota
) -> None:
    certificate(kubernetes.folder / "ca.crt", tmp_path / "another.key")
    (told,) = refused(tmp_path, ClusterError, namespace=NAMESPACE)
    assert "the Kubernetes API does not answer: SSLError" in told


def test_outside_a_cluster_is_one_line(tmp_path: Path) -> None:
    assert "this is no pod of a cluster" in refused(tmp_path, ClusterError, namespace=NAMESPACE)[0]


def test_a_pod_without_its_service_account_is_one_line(tmp_path: Path, kubernetes: FakeQuota) -> None:
    (kubernetes.folder / "token").unlink()
    assert "this pod has no identity" in refused(tmp_path, ClusterError, namespace=NAMESPACE)[0]


def test_what_the_data_image_lacks_is_not_imported() -> None:
    script = "import sys; import unifl.steps.preflight, unifl.steps.run_summary, unifl.cluster.quota; "
    script += "from pipelines.settings import TASKS; from unifl.core.step import step_definition; "
    script += "[step_definition(step) for step in {*TASKS.values(), 'preflight', 'run_summary'}]; "
    script += "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"kubernetes", "kubeflow", "torch", "scipy", "kfp"} & set(loaded.split())


def test_data_that_is_missing_or_another_is_named_all_of_it(tmp_path: Path, checkout: Path) -> None:
    data = {
        "repository": str(checkout),
        "paths": {"images": "data/images", "prompts": "data/none.parquet", "scorer": "data/scorer"},
        "expected": {"images": "0" * 32 + ".dir"},
    }
    told = refused(tmp_path, DataContractError, data=True, steps={"resolve_data": json.dumps(data)})
    assert len(told) == 2
    assert any("images has another digest" in line and "0" * 32 in line for line in told)
    assert any("data/none.parquet" in line for line in told)


def test_a_submission_tells_preflight_images_demands_and_places(tmp_path: Path) -> None:
    parallel = json.dumps({"nodes": 2, "processes_per_node": 8})
    tuning = {"cpu": "1", "memory": "4G", "environment": {"UNIFL_PARALLEL": parallel}}
    table = {
        "workspace": {"free_gib": 200},
        "webhook": {"required": True},
        "pools": {"gpu": {"gpu": "nvidia-l4", "gpus": 1, "cpu": "6", "memory": "24Gi"}, "tuning": tuning},
        "tasks": {"evaluation": {"pool": "gpu"}, "decoupled_feedback": {"pool": "tuning"}},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(table))
    where = read_placement(str(tmp_path / "mine.yaml"))
    spec = specification(feedback_learning(where))
    settings = with_facts(task_settings("demo"), spec, where, None, "https://kfp/#/{run_id}")
    told = settings["preflight"].model_dump()
    assert set(told["images"]) == {
        container["image"]
        for executor in spec["deploymentSpec"]["executors"].values()
        if (container := executor.get("container"))
    }
    demands = {demand["task"]: demand for demand in told["demands"]}
    assert set(demands) == set(FLOW)
    job = {"gpus": 16, "cpu": "96", "memory": "384Gi", "train_job": True}
    assert demands["decoupled_feedback"] == {"task": "decoupled_feedback", **job}
    assert (demands["evaluation"]["gpus"], demands["quality_gate"]["gpus"]) == (1, 0)
    assert (told["namespace"], told["free_gib"]) == ("unifl", {"/unifl": 200.0})
    assert told["secrets"] == {"UNIFL_WEBHOOK_URL": "unifl-webhook/url"}
    assert settings["run_summary"].model_dump()["link"] == "https://kfp/#/{run_id}"
