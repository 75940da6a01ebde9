"""Where the scheduler puts the pods of each placement and queue flavor, among the pools that docs/gke.md makes."""

import copy
from collections import Counter
from typing import Any

import pytest

from pipelines.compiling import documents
from tests.control_plane.conftest import TEST_LABEL, Cluster
from tests.control_plane.plane import NAMESPACE, eventually
from tests.control_plane.pools import DEFAULT_POOL
from tests.control_plane.task_pods import IMAGE, compiled_for, task_pods
from tests.manifests.overlay import find, of_kind

pytestmark = [pytest.mark.control_plane, pytest.mark.usefixtures("nodes")]

POOLS = {"cpu": None, "gke-l4-spot": "l4-spot", "gke-a100": "a100", "gke-h100-flex": "h100-flex"}
FLAVORS = {"unifl-l4-spot": "l4-spot", "unifl-l4": "l4", "unifl-a100": "a100", "unifl-h100": "h100"}
GPU = "nvidia.com/gpu"


def gpus(pod: dict[str, Any]) -> int:
    return sum(int(entry.get("resources", {}).get("limits", {}).get(GPU, 0)) for entry in pod["spec"]["containers"])


def create(cluster: Cluster, pod: dict[str, Any]) -> str:
    return str(cluster.core().create_namespaced_pod(NAMESPACE, pod).metadata.name)


def node_of(cluster: Cluster, name: str) -> str:
    """The Node that a pod is bound to; an error with the scheduler's reason when it says that there is none."""
    core = cluster.core()

    def bound() -> str | None:
        pod = core.read_namespaced_pod(name, NAMESPACE)
        for condition in pod.status.conditions or []:
            assert condition.reason != "Unschedulable", f"{name}: {condition.message}"
        return pod.spec.node_name

    return eventually(bound, f"node for {name}")


def pool_of(cluster: Cluster, name: str) -> str:
    return node_of(cluster, name).rpartition("-")[0]


def reason_for_waiting(cluster: Cluster, name: str) -> str:
    """What the scheduler says of a pod that finds no Node."""
    core = cluster.core()

    def said() -> str | None:
        pod = core.read_namespaced_pod(name, NAMESPACE)
        assert pod.spec.node_name is None, f"{name} is on {pod.spec.node_name}"
        return next((entry.message for entry in pod.status.conditions or [] if entry.reason == "Unschedulable"), None)

    return eventually(said, f"word of the scheduler on {name}")


def close(cluster: Cluster, nodes: list[str], closed: bool) -> None:
    """Cordon Nodes, or take it back."""
    for name in nodes:
        cluster.core().patch_node(name, {"spec": {"unschedulable": closed}})


def one_gpu_pod(placement: str) -> dict[str, Any]:
    return next(pod for pod in task_pods(documents(compiled_for(placement))).values() if gpus(pod))


@pytest.mark.parametrize("placement", POOLS)
def test_all_tasks_of_a_run_land_where_their_placement_says(cleared: Cluster, placement: str) -> None:
    pods = task_pods(documents(compiled_for(placement)))
    assert any(gpus(pod) for pod in pods.values()) is (POOLS[placement] is not None)
    landed = {}
    for task, pod in pods.items():
        name = create(cleared, pod)
        landed[task] = pool_of(cleared, name)
        cleared.core().delete_namespaced_pod(
            name, NAMESPACE, grace_period_seconds=0
        )  # a run has them one after another
    assert landed == {task: POOLS[placement] if gpus(pod) else DEFAULT_POOL for task, pod in pods.items()}


@pytest.mark.parametrize(("placement", "pool"), [("gke-a100", "a100"), ("gke-h100-flex", "h100-flex")])
def test_one_machine_with_eight_gpus_holds_eight_tasks_and_no_ninth(
    cleared: Cluster, placement: str, pool: str
) -> None:
    pod = one_gpu_pod(placement)
    nodes = Counter(node_of(cleared, create(cleared, pod)) for _ in range(8))
    assert nodes == {f"{pool}-0": 8}
    assert f"1 Insufficient {GPU}" in reason_for_waiting(cleared, create(cleared, pod))


@pytest.mark.parametrize(("placement", "pool"), [(name, pool) for name, pool in POOLS.items() if pool])
def test_a_gpu_task_waits_when_its_own_pool_is_closed(
    cleared: Cluster, nodes: dict[str, list[str]], placement: str, pool: str
) -> None:
    close(cleared, nodes[pool], True)
    try:
        name = create(cleared, one_gpu_pod(placement))
        assert "node(s) were unschedulable" in reason_for_waiting(cleared, name)
    finally:
        close(cleared, nodes[pool], False)
    assert eventually(lambda: cleared.core().read_namespaced_pod(name, NAMESPACE).spec.node_name, "node") in nodes[pool]


def test_a_task_without_a_gpu_waits_rather_than_take_a_gpu_node(cleared: Cluster, nodes: dict[str, list[str]]) -> None:
    pod = next(pod for pod in task_pods(documents(compiled_for("gke-l4-spot"))).values() if not gpus(pod))
    # Even where somebody has taken the taint of the GPU pools away.
    core = cleared.core()
    taints = core.read_node("l4-0").spec.taints
    close(cleared, nodes[DEFAULT_POOL], True)
    core.patch_node("l4-0", {"spec": {"taints": None}})
    try:
        reason = reason_for_waiting(cleared, create(cleared, pod))
        assert "didn't match Pod's node affinity" in reason or "didn't match node selector" in reason
        # Without the placement's word it would have been taken.
        free = copy.deepcopy(pod)
        del free["spec"]["affinity"]
        assert node_of(cleared, create(cleared, free)) == "l4-0"
    finally:
        core.patch_node("l4-0", {"spec": {"taints": taints}})
        close(cleared, nodes[DEFAULT_POOL], False)


def test_spot_nodes_take_no_pod_that_does_not_accept_them(cleared: Cluster, nodes: dict[str, list[str]]) -> None:
    pod = one_gpu_pod("gke-l4-spot")
    del pod["spec"]["tolerations"]
    assert "{cloud.google.com/gke-spot: true}" in reason_for_waiting(cleared, create(cleared, pod))


def flavored(cluster: Cluster, flavor: str) -> dict[str, Any]:
    """A pod of the training runtime as Kueue starts it when it gives it a flavor."""
    runtime = find(cluster.resources, "ClusterTrainingRuntime", "unifl-torch")
    template = copy.deepcopy(runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"])
    given = find(cluster.resources, "ResourceFlavor", flavor)["spec"]
    template["spec"]["nodeSelector"] = given["nodeLabels"]
    template["spec"]["tolerations"] = given["tolerations"]
    template["spec"]["containers"][0]["image"] = IMAGE
    metadata = {"generateName": "node-", "labels": {TEST_LABEL: "flavor"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def test_every_flavor_of_the_queue_is_looked_at(gke: Cluster) -> None:
    assert {entry["metadata"]["name"] for entry in of_kind(gke.resources, "ResourceFlavor")} == set(FLAVORS)


@pytest.mark.parametrize(("flavor", "pool"), FLAVORS.items())
def test_a_train_job_of_a_flavor_runs_in_its_pool_and_in_no_other(
    cleared: Cluster, nodes: dict[str, list[str]], flavor: str, pool: str
) -> None:
    assert pool_of(cleared, create(cleared, flavored(cleared, flavor))) == pool
    close(cleared, nodes[pool], True)
    try:
        reason_for_waiting(cleared, create(cleared, flavored(cleared, flavor)))
    finally:
        close(cleared, nodes[pool], False)
