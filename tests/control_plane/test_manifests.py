"""The overlays on a live API server: it takes them, keeps every field of them, and a second time changes nothing."""

import copy
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes.utils.quantity import parse_quantity

from tests.control_plane.conftest import NOT_IN_THIS_RELEASE, Cluster
from tests.control_plane.custom_kinds import FOLDER_VARIABLE
from tests.control_plane.plane import NAMESPACE
from tests.manifests.overlay import called, find

pytestmark = pytest.mark.control_plane


def stored(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """What the server holds of each applied resource."""
    done = cluster.plane.kubectl("get", "--output=json", given=cluster.resources)
    assert done.returncode == 0, done.stderr
    return {called(entry): entry for entry in json.loads(done.stdout)["items"]}


def differences(ours: Any, theirs: Any, where: str) -> Iterator[str]:
    """What the server does not hold as we say it; what it adds is its own business."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            # An empty object, a selector of everything, may be left out.
            if key in theirs or value not in ({}, None):
                yield from differences(value, theirs.get(key), f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (value, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(value, other, f"{where}.{number}")
    elif ours != theirs and not same_quantity(ours, theirs):
        yield f"{where}: {ours!r} is held as {theirs!r}"


def same_quantity(ours: Any, theirs: Any) -> bool:
    try:
        return bool(parse_quantity(ours) == parse_quantity(theirs))
    except (ValueError, TypeError):
        return False


def test_the_server_takes_every_resource_that_its_release_knows(either: Cluster) -> None:
    assert {entry["kind"] for entry in either.left_out} == NOT_IN_THIS_RELEASE
    assert len(either.resources) > 20
    assert [line.rpartition(" ")[2] for line in either.printed.splitlines()] == ["created"] * len(either.resources)


def test_the_server_keeps_every_field(either: Cluster) -> None:
    held = stored(either)
    assert len(held) == len(either.resources)
    for resource in either.resources:
        assert list(differences(resource, held[called(resource)], called(resource))) == []


def test_a_second_apply_changes_nothing(either: Cluster) -> None:
    before = {name: entry["metadata"]["resourceVersion"] for name, entry in stored(either).items()}
    said = dict(line.rsplit(" ", 1) for line in either.apply().splitlines())
    assert len(said) == len(either.resources)
    # Trainer's own definition fills in defaults inside a list: kubectl sends that again, and the server finds it equal.
    runtime = "clustertrainingruntime.trainer.kubeflow.org/unifl-torch"
    sent_again = {runtime} if os.environ.get(FOLDER_VARIABLE) else set()
    assert {name for name, word in said.items() if word != "unchanged"} <= sent_again
    after = {name: entry["metadata"]["resourceVersion"] for name, entry in stored(either).items()}
    # Controllers write the status of these meanwhile.
    moving = {"Deployment/reports", "PersistentVolumeClaim/unifl-work", "ResourceQuota/unifl"}
    assert {name for name in before if before[name] != after[name]} <= moving


def test_a_difference_is_found(gke: Cluster) -> None:
    changed = [entry for entry in gke.resources if called(entry) != "LimitRange/unifl"]
    limits = find(gke.resources, "LimitRange", "unifl")
    (container, claim) = limits["spec"]["limits"]
    changed.append({**limits, "spec": {"limits": [{**container, "default": {"cpu": "3"}}, claim]}})
    done = gke.plane.kubectl("diff", given=changed)
    assert done.returncode == 1, done.stderr
    assert '+      cpu: "3"' in done.stdout


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "complaint"),
    [
        ("Deployment", "reports", ("spec", "replcias"), 1, 'unknown field "replcias"'),
        ("ResourceQuota", "unifl", ("spec", "hard", "pods"), "many", "quantities must match"),
        ("NetworkPolicy", "allow-dns", ("spec", "policyTypes"), ["Outward"], "Unsupported value"),
        ("ClusterQueue", "unifl", ("spec", "queueingStrategy"), "FIFO", "Unsupported value"),
        ("ClusterTrainingRuntime", "unifl-torch", ("spec", "mlPolicy", "numNodes"), "two", 'expected "integer"'),
        ("Role", "unifl-pipeline", ("rules", 0, "verbs"), [], "verbs must contain at least one value"),
    ],
)
def test_the_server_refuses_a_broken_resource(
    gke: Cluster, kind: str, name: str, path: tuple[Any, ...], value: Any, complaint: str
) -> None:
    resource = copy.deepcopy(find(gke.resources, kind, name))
    place = resource
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    done = gke.plane.kubectl("apply", "--dry-run=server", given=[resource])
    assert done.returncode != 0
    assert complaint in done.stderr


def test_the_pod_of_the_report_server_is_admitted(either: Cluster) -> None:
    (pod,) = either.core().list_namespaced_pod(NAMESPACE, label_selector="app=reports").items
    assert pod.spec.service_account_name == "unifl-reports"
    assert not [volume for volume in pod.spec.volumes if volume.name.startswith("unifl-reports-token")]
