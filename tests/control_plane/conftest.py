"""Control planes with the manifests in them, started once for all tests; skipped where a program is missing."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from tests.control_plane.custom_kinds import definitions
from tests.control_plane.plane import NAMESPACE, ControlPlane, MissingProgramError, eventually, programs
from tests.control_plane.pools import pools
from tests.manifests.overlay import Resource, built

REQUIRED_VARIABLE = "UNIFL_REQUIRE_CONTROL_PLANE"
"""Set by `make test-control-plane`: what is missing is a failure there."""

NOT_IN_THIS_RELEASE = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
TEST_LABEL = "unifl-test"
"""On whatever a test makes, so that it is gone before the next one."""


@dataclass
class Cluster:
    """A control plane and the resources of an overlay that it was given; `printed` is kubectl's output."""

    plane: ControlPlane
    resources: list[Resource]
    left_out: list[Resource]
    printed: str = ""
    at_rest: dict[str, str] = field(default_factory=dict)

    def apply(self) -> str:
        """`kubectl apply` of all that the release knows; what kubectl prints."""
        done = self.plane.kubectl("apply", given=self.resources)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def core(self, token: str | None = None) -> client.CoreV1Api:
        return client.CoreV1Api(self.plane.client(token))

    def clear(self) -> None:
        """Remove what tests have made, and wait until the quota has it back."""
        core = self.core()
        for kind in ("pod", "persistent_volume_claim"):
            given = {"label_selector": TEST_LABEL, "grace_period_seconds": 0}
            getattr(core, f"delete_collection_namespaced_{kind}")(NAMESPACE, **given)
        eventually(lambda: self.used() == self.at_rest, "quota that is given back")

    def settle(self) -> None:
        """Wait for what the manifests themselves start: one pod of the report server."""
        eventually(lambda: self.used().get("pods") == "1", "pod of the report server")
        self.at_rest = self.used()

    def used(self) -> dict[str, str]:
        """What the quota says is used."""
        return dict(self.core().read_namespaced_resource_quota("unifl", NAMESPACE).status.used or {})


def missing(reason: str) -> None:
    """Skip, or fail where the control plane is what is tested."""
    (pytest.fail if os.environ.get(REQUIRED_VARIABLE) else pytest.skip)(reason)


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ControlPlane]]:
    """Starts control planes; all are stopped at the end."""
    try:
        programs()
    except MissingProgramError as error:
        missing(str(error))
    planes: list[ControlPlane] = []

    def start(**given: Any) -> ControlPlane:
        planes.append(ControlPlane(tmp_path_factory.mktemp("plane"), **given))
        return planes[-1]

    yield start
    for plane in planes:
        plane.close()


@pytest.fixture(scope="session")
def gke(started: Callable[..., ControlPlane]) -> Cluster:
    return _cluster(started(), "gke")


@pytest.fixture(scope="session")
def kind(started: Callable[..., ControlPlane]) -> Cluster:
    return _cluster(started(), "kind")


@pytest.fixture(scope="session")
def bare(started: Callable[..., ControlPlane]) -> Cluster:
    """A cluster on which nobody has installed Kueue, Trainer and the Prometheus operator, without controllers."""
    cluster = _with_what_it_knows(started(controllers=False), "gke")
    cluster.printed = cluster.apply()
    return cluster


@pytest.fixture(params=["gke", "kind"])
def either(request: pytest.FixtureRequest) -> Cluster:
    """Each overlay in its own cluster."""
    cluster: Cluster = request.getfixturevalue(request.param)
    return cluster


def _cluster(plane: ControlPlane, overlay: str) -> Cluster:
    kinds = definitions()
    done = plane.kubectl("create", given=list(kinds.values()))
    assert done.returncode == 0, done.stderr
    for kind, definition in kinds.items():
        version = f"{definition['spec']['group']}/{definition['spec']['versions'][0]['name']}"
        eventually(lambda kind=kind, version=version: kind in _served(plane, version), f"kind {kind} that is served")
    cluster = _with_what_it_knows(plane, overlay)
    cluster.printed = cluster.apply()
    cluster.settle()
    return cluster


def _with_what_it_knows(plane: ControlPlane, overlay: str) -> Cluster:
    resources = built(overlay)
    served = {version: _served(plane, version) for version in {entry["apiVersion"] for entry in resources}}
    known = [entry for entry in resources if entry["kind"] in served[entry["apiVersion"]]]
    return Cluster(plane, known, [entry for entry in resources if entry not in known])


def _served(plane: ControlPlane, api_version: str) -> set[str]:
    prefix = "/apis/" if "/" in api_version else "/api/"
    try:
        answer = plane.client().call_api(
            prefix + api_version,
            "GET",
            response_type="object",
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
        )
    except client.ApiException as error:
        if error.status != 404:
            raise
        return set()
    return {entry["kind"] for entry in answer["resources"]}


@pytest.fixture(scope="session")
def nodes(gke: Cluster) -> dict[str, list[str]]:
    """Pool -> its Nodes, as many as docs/gke.md lets it have; and the volume that Filestore would give."""
    core = gke.core()
    found = {}
    for name, pool in pools().items():
        found[name] = [f"{name}-{number}" for number in range(pool.nodes)]
        for number in range(pool.nodes):
            core.create_node(pool.node(number))
    core.create_persistent_volume(
        client.V1PersistentVolume(
            metadata=client.V1ObjectMeta(name="filestore"),
            spec=client.V1PersistentVolumeSpec(
                capacity={"storage": "1Ti"},
                access_modes=["ReadWriteMany"],
                storage_class_name="standard-rwx",
                nfs=client.V1NFSVolumeSource(server="192.0.2.1", path="/unifl"),
            ),
        )
    )
    eventually(
        lambda: core.read_namespaced_persistent_volume_claim("unifl-work", NAMESPACE).status.phase == "Bound",
        "volume for unifl-work",
    )
    return found


@pytest.fixture
def cleared(gke: Cluster) -> Iterator[Cluster]:
    """The cluster of gke, free of what the test makes in it when the test has ended."""
    yield gke
    gke.clear()


@pytest.fixture
def service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Gives this process what a pod finds of its service account; another token in its place when one is given."""
    from unifl.cluster import quota

    def give(cluster: Cluster, account: str, token: str | None = None) -> Path:
        folder = tmp_path / "serviceaccount"
        folder.mkdir(exist_ok=True)
        (folder / "namespace").write_text(NAMESPACE)
        (folder / "token").write_text(token or cluster.plane.token(account))
        (folder / "ca.crt").write_bytes(cluster.plane.ca.read_bytes())
        monkeypatch.setattr(quota, "SERVICE_ACCOUNT", folder)
        monkeypatch.setenv(quota.HOST_VARIABLE, "127.0.0.1")
        monkeypatch.setenv(quota.PORT_VARIABLE, str(cluster.plane.port))
        return folder

    return give
