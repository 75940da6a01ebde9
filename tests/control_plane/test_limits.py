"""What the quota and the limit range of the manifests refuse and add, and what preflight says of it beforehand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from pipelines.compiling import documents
from pipelines.placement import read_placement
from pipelines.preflight import with_facts
from pipelines.settings import task_settings
from tests.control_plane.conftest import TEST_LABEL, Cluster
from tests.control_plane.plane import NAMESPACE, eventually
from tests.control_plane.task_pods import IMAGE, compiled_for
from unifl.core.errors import AccessError, ClusterError, SettingsError, UniflError
from unifl.core.step import execute

pytestmark = pytest.mark.control_plane

GiveAccount = Callable[..., Path]
GPU = "nvidia.com/gpu"


def pod(name: str, **resources: dict[str, str]) -> dict[str, Any]:
    container = {"name": "main", "image": IMAGE, "resources": resources}
    metadata = {"name": name, "labels": {TEST_LABEL: "limits"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}


def claim(name: str, size: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": size}}, "storageClassName": "none"}
    return {"metadata": {"name": name, "labels": {TEST_LABEL: "limits"}}, "spec": spec}


def refusal(call: Callable[..., Any], body: dict[str, Any]) -> str:
    """Why the server refuses to make something. While a quota changes it fails (500) and is asked again."""

    def answer() -> client.ApiException | None:
        with pytest.raises(client.ApiException) as refused:
            call(NAMESPACE, body)
        return refused.value if refused.value.status < 500 else None

    refused = eventually(answer, "answer about the quota")
    assert refused.status == 403
    return str(json.loads(refused.body)["message"])


def test_a_container_that_says_nothing_gets_the_defaults_and_no_gpu(gke: Cluster) -> None:
    made = gke.core().create_namespaced_pod(NAMESPACE, pod("plain"), dry_run="All")
    (container,) = made.spec.containers
    assert container.resources.requests == {"cpu": "100m", "memory": "256Mi"}
    assert container.resources.limits == {"cpu": "1", "memory": "2Gi"}


def test_a_pod_with_more_gpus_than_the_quota_is_refused(gke: Cluster) -> None:
    message = refusal(gke.core().create_namespaced_pod, pod("large", limits={GPU: "40"}))
    assert message == (
        'pods "large" is forbidden: exceeded quota: unifl, requested: requests.nvidia.com/gpu=40, '
        "used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=36"
    )


def test_on_kind_no_pod_gets_a_gpu(kind: Cluster) -> None:
    assert "exceeded quota: unifl" in refusal(kind.core().create_namespaced_pod, pod("one", limits={GPU: "1"}))


def test_what_one_pod_holds_another_can_not_have(cleared: Cluster) -> None:
    core = cleared.core()
    core.create_namespaced_pod(NAMESPACE, pod("first", limits={GPU: "30"}))
    assert "used: requests.nvidia.com/gpu=30" in refusal(core.create_namespaced_pod, pod("second", limits={GPU: "8"}))
    core.create_namespaced_pod(NAMESPACE, pod("third", limits={GPU: "6"}))


def test_a_claim_larger_than_one_may_be_is_refused(gke: Cluster) -> None:
    message = refusal(gke.core().create_namespaced_persistent_volume_claim, claim("large", "3Ti"))
    assert "maximum storage usage per PersistentVolumeClaim is 2Ti, but request is 3Ti" in message


def test_all_claims_together_stay_within_the_quota(cleared: Cluster) -> None:
    create = cleared.core().create_namespaced_persistent_volume_claim
    create(NAMESPACE, claim("second", "2Ti"))
    message = refusal(create, claim("third", "1Gi"))
    assert "exceeded quota: unifl, requested: requests.storage=1Gi, used: requests.storage=3Ti" in message


def test_no_service_gets_an_address_of_its_own(gke: Cluster) -> None:
    service = {"metadata": {"name": "open"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}
    assert "services.loadbalancers=1" in refusal(gke.core().create_namespaced_service, service)


def preflight(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    """The report of a preflight that passes."""
    file = tmp_path / "report.json"
    execute("preflight", {}, {"report": file}, {"data": False, "namespace": NAMESPACE, **settings})
    report: dict[str, Any] = json.loads(file.read_text())
    return report


def problem(tmp_path: Path, kind: type[UniflError], **settings: Any) -> str:
    """The only problem of one that does not."""
    with pytest.raises(kind):
        preflight(tmp_path, **settings)
    (told,) = json.loads((tmp_path / "report.json").read_text())["problems"]
    assert "\n" not in told
    return str(told)


@pytest.mark.parametrize("placement", ["cpu", "gke-l4-spot", "gke-a100", "gke-h100-flex"])
def test_preflight_lets_every_placement_pass(
    gke: Cluster, service_account: GiveAccount, tmp_path: Path, placement: str
) -> None:
    service_account(gke, "unifl-pipeline")
    where = read_placement(placement)
    spec = documents(compiled_for(placement))[0]
    told = with_facts(task_settings("demo"), spec, where, None, None)["preflight"].model_dump()
    assert len(told["demands"]) > 10
    assert preflight(tmp_path, demands=told["demands"]) == {"passed": True, "problems": [], "remarks": []}


def test_preflight_tells_of_a_quota_that_is_too_small(
    gke: Cluster, service_account: GiveAccount, tmp_path: Path
) -> None:
    service_account(gke, "unifl-pipeline")
    told = problem(tmp_path, SettingsError, demands=[{"task": "evaluation", "gpus": 37}])
    assert "evaluation asks for 37 of requests.nvidia.com/gpu, quota unifl of unifl has 36 in all" in told
    told = problem(tmp_path, SettingsError, demands=[{"task": "evaluation", "memory": "6145Gi"}])
    assert "asks for 6145Gi of requests.memory, quota unifl of unifl has 6Ti in all" in told


def test_preflight_remarks_on_what_others_use_now(
    cleared: Cluster, service_account: GiveAccount, tmp_path: Path
) -> None:
    service_account(cleared, "unifl-pipeline")
    cleared.core().create_namespaced_pod(NAMESPACE, pod("other", limits={GPU: "30"}))
    eventually(lambda: cleared.used()["requests.nvidia.com/gpu"] == "30", "use of the quota")
    (remark,) = preflight(tmp_path, demands=[{"task": "evaluation", "gpus": 8}])["remarks"]
    assert remark.endswith("quota unifl of unifl has 6 left now: it will wait for other runs")


def test_preflight_finds_trainer_where_it_is(gke: Cluster, service_account: GiveAccount, tmp_path: Path) -> None:
    service_account(gke, "unifl-pipeline")
    assert preflight(tmp_path, demands=[{"task": "evaluation", "gpus": 16, "train_job": True}])["passed"]


def test_preflight_tells_of_a_missing_trainer(bare: Cluster, service_account: GiveAccount, tmp_path: Path) -> None:
    # No controller has written this quota's status yet, so this also reads a quota by its spec.
    service_account(bare, "unifl-pipeline")
    told = problem(tmp_path, ClusterError, demands=[{"task": "evaluation", "gpus": 36, "train_job": True}])
    assert "the cluster has no trainer.kubeflow.org, which evaluation needs; remedy: install Kubeflow Trainer" in told


def test_preflight_tells_of_an_account_without_the_right(
    gke: Cluster, service_account: GiveAccount, tmp_path: Path
) -> None:
    service_account(gke, "unifl-publisher")
    told = problem(tmp_path, AccessError)
    assert "this identity may not read resource quotas of namespace unifl (403)" in told


def test_preflight_tells_of_a_token_that_is_no_longer_good(
    gke: Cluster, service_account: GiveAccount, tmp_path: Path
) -> None:
    core = gke.core()
    core.create_namespaced_service_account(NAMESPACE, {"metadata": {"name": "leaver"}})
    service_account(gke, "leaver")
    core.delete_namespaced_service_account("leaver", NAMESPACE)
    assert "does not accept the pod's token (401)" in problem(tmp_path, AccessError)


def test_preflight_tells_of_another_namespace(gke: Cluster, service_account: GiveAccount, tmp_path: Path) -> None:
    service_account(gke, "unifl-pipeline")
    told = problem(tmp_path, SettingsError, namespace="others")
    assert "this pod runs in namespace unifl, the run was submitted for others" in told


def test_preflight_gives_no_token_to_another_server(
    gke: Cluster, bare: Cluster, service_account: GiveAccount, tmp_path: Path
) -> None:
    folder = service_account(gke, "unifl-pipeline")
    (folder / "ca.crt").write_bytes(bare.plane.ca.read_bytes())
    assert "the Kubernetes API does not answer: SSLError" in problem(tmp_path, ClusterError)
