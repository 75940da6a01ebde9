"""A tuning step as a TrainJob on a live API server, as the service account of the pipeline.

Kubeflow Trainer itself is not there; its part is played by hand.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kubeflow.common.types import KubernetesBackendConfig
from kubernetes import client

from tests.control_plane.conftest import Cluster
from tests.control_plane.kubelet import Kubelet
from tests.control_plane.plane import NAMESPACE, eventually
from tests.control_plane.trainer import PLACE, Trainer
from unifl.cluster.parallel import Parallel
from unifl.cluster.train_job import TrainJob, train_job_function
from unifl.core.errors import AccessError, ClusterError, SettingsError, UniflError
from unifl.core.step import execute, step_definition

pytestmark = pytest.mark.control_plane

STEP = "decoupled_feedback"
TWO = Parallel(nodes=2, namespace=NAMESPACE, poll_seconds=0.1, queue="unifl")
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def kubelet(gke: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    kubelet = Kubelet(tmp_path_factory.mktemp("kubelet"))
    gke.core().create_node(kubelet.node())
    yield kubelet
    kubelet.close()


@pytest.fixture
def trainer(cleared: Cluster, kubelet: Kubelet) -> Iterator[Trainer]:
    trainer = Trainer(cleared, kubelet)
    yield trainer
    trainer.remove_all()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the step as a service account of a cluster; inputs are any files, because nothing reads them."""
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    definition = step_definition(STEP)
    inputs = {name: tmp_path / "inputs" / name for name in definition.inputs if name not in definition.optional_inputs}
    (tmp_path / "inputs").mkdir()
    for name, file in inputs.items():
        file.write_text(name)

    def start(cluster: Cluster, account: str = "unifl-pipeline", parallel: Parallel = TWO) -> dict[str, Any]:
        file = cluster.plane.kubeconfig(cluster.plane.token(account), f"{account}-{time.monotonic_ns()}")
        backend = KubernetesBackendConfig(namespace=parallel.namespace, config_file=str(file))
        function = train_job_function(parallel, backend)
        return dict(execute(STEP, inputs, {"tuned_model": tmp_path / "model"}, {"updates": 2}, function=function))

    return start


@pytest.fixture
def in_background(trainer: Trainer) -> Iterator[Callable[..., Future[Any]]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit
        trainer.remove_all()  # ends what still follows one


def test_a_train_job_is_submitted_followed_with_its_log_and_removed(
    trainer: Trainer, kubelet: Kubelet, run: Run, tmp_path: Path, in_background: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    running = in_background(run, trainer.cluster)
    job = trainer.posted()
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "unifl"}
    spec = job["spec"]
    assert spec["runtimeRef"] == {"name": "unifl-torch", "kind": "ClusterTrainingRuntime"} | spec["runtimeRef"]
    assert (spec["activeDeadlineSeconds"], spec["trainer"]["numNodes"]) == (96 * 3600, 2)
    assert spec["trainer"]["resourcesPerNode"]["limits"] == {"cpu": "6", "memory": "24Gi", "nvidia.com/gpu": "1"}
    first, _ = trainer.start_pods(job)
    kubelet.asked.clear()
    # At the second look from here the pods were running when the job was read.
    eventually(lambda: len([path for path in kubelet.asked if f"/{first}/node" in path]) > 1, "looks at the log")
    kubelet.logs[first] += "Operating inside\n"
    trainer.leave_results(job, {"updates": 2})
    trainer.end(job, "Complete")
    assert running.result(60) == {"updates": 2}
    assert (tmp_path / "model" / "unet").read_text() == "weights"
    assert trainer.jobs() == []
    shown = capfd.readouterr().out.splitlines()
    name = job["metadata"]["name"]
    assert [line for line in shown if line.startswith("TrainJob")] == [
        f"TrainJob {name}: 2 x 1 processes",
        f"TrainJob {name}: Created",
        f"TrainJob {name}: Running",
        f"TrainJob {name}: Complete",
    ]
    assert shown.count("node 0 has started") == shown.count("Operating inside") == 1


def test_a_failed_train_job_shows_every_nodes_log_and_is_removed(
    trainer: Trainer, run: Run, in_background: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    running = in_background(run, trainer.cluster)
    job = trainer.posted()
    _, second = trainer.start_pods(job)
    trainer.kubelet.logs[second] += "out of memory\n"
    trainer.end(job, "Failed")
    with pytest.raises(UniflError, match=r"the TrainJob unifl-decoupled-feedback-\w+ failed; remedy"):
        running.result(60)
    assert trainer.jobs() == []
    assert "--- node-1\nnode 1 has started\nout of memory\n" in capfd.readouterr().out


def test_a_failed_train_job_of_an_earlier_attempt_makes_way_when_its_last_holder_lets_go(
    trainer: Trainer, run: Run, in_background: Any
) -> None:
    running = in_background(run, trainer.cluster)
    old = trainer.posted()
    name = old["metadata"]["name"]
    # A killed task leaves a failed job behind, and a controller still holds it when the next task comes.
    held = {"metadata": {"finalizers": ["example.org/cleanup"]}}
    trainer.api.patch_namespaced_custom_object(*PLACE, name, held)
    trainer.end(old, "Failed")
    with pytest.raises(UniflError, match="failed"):
        running.result(60)
    assert trainer.jobs()[0]["metadata"]["deletionTimestamp"]

    running = in_background(run, trainer.cluster)
    time.sleep(1.0)
    assert [job["metadata"]["uid"] for job in trainer.jobs()] == [old["metadata"]["uid"]]
    trainer.api.patch_namespaced_custom_object(*PLACE, name, {"metadata": {"finalizers": None}})
    new = eventually(
        lambda: next((job for job in trainer.jobs() if job["metadata"]["uid"] != old["metadata"]["uid"]), None),
        "new job",
    )
    assert new["metadata"]["name"] == name
    trainer.leave_results(new, {"updates": 2})
    trainer.end(new, "Complete")
    assert running.result(60) == {"updates": 2}


def test_a_train_job_that_runs_already_is_taken_over(trainer: Trainer, run: Run, in_background: Any) -> None:
    running = in_background(run, trainer.cluster)
    job = trainer.posted()
    trainer.leave_results(job, {"updates": 7})
    trainer.end(job, "Complete")
    assert running.result(60) == {"updates": 7}
    # What a task that is killed leaves is the job that it has submitted.
    again = {key: job[key] for key in ("apiVersion", "kind", "spec")}
    again["metadata"] = {"name": job["metadata"]["name"], "labels": job["metadata"]["labels"]}
    left = trainer.api.create_namespaced_custom_object(*PLACE, again)
    running = in_background(run, trainer.cluster)
    time.sleep(1.0)
    assert [entry["metadata"]["uid"] for entry in trainer.jobs()] == [left["metadata"]["uid"]]
    trainer.leave_results(left, {"updates": 8})
    trainer.end(left, "Complete")
    assert running.result(60) == {"updates": 8}
    assert trainer.jobs() == []


def test_a_train_job_that_somebody_removes_is_one_line(trainer: Trainer, run: Run, in_background: Any) -> None:
    running = in_background(run, trainer.cluster)
    job = trainer.posted()
    trainer.api.delete_namespaced_custom_object(*PLACE, job["metadata"]["name"])
    with pytest.raises(ClusterError, match=r"removed by somebody else.*remedy") as raised:
        running.result(60)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("account", "parallel", "error", "message"),
    [
        ("unifl-publisher", TWO, AccessError, r"in namespace unifl \(403\): resourcequotas is forbidden.*rights.yaml"),
        ("unifl-pipeline", TWO.model_copy(update={"namespace": "others"}), AccessError, r"in namespace others \(403\)"),
        (
            "unifl-pipeline",
            TWO.model_copy(update={"nodes": 40}),
            SettingsError,
            r"40 x 1 processes never fit into the quota unifl \(requests.nvidia.com/gpu 36\)",
        ),
        ("unifl-pipeline", TWO.model_copy(update={"runtime": "another"}), AccessError, r"403.*\"another\""),
    ],
)
def test_what_the_cluster_refuses_is_one_line_and_leaves_nothing(
    trainer: Trainer, run: Run, account: str, parallel: Parallel, error: type[UniflError], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        run(trainer.cluster, account, parallel)
    assert "\n" not in str(raised.value)
    assert trainer.jobs() == []


def test_a_cluster_without_trainer_is_one_line(bare: Cluster, run: Run) -> None:
    with pytest.raises(ClusterError, match=r"no TrainJob \(its CRD is missing\).*remedy: install Kubeflow Trainer"):
        run(bare)


def test_a_missing_runtime_is_one_line(trainer: Trainer, run: Run) -> None:
    api = client.CustomObjectsApi(trainer.cluster.plane.client())
    api.delete_cluster_custom_object("trainer.kubeflow.org", "v1alpha1", "clustertrainingruntimes", "unifl-torch")
    try:
        with pytest.raises(ClusterError, match=r"there is no training runtime unifl-torch.*remedy"):
            run(trainer.cluster)
    finally:
        trainer.cluster.apply()


def test_a_token_that_is_no_longer_good_is_one_line(trainer: Trainer, run: Run) -> None:
    core = trainer.core
    core.create_namespaced_service_account(NAMESPACE, {"metadata": {"name": "leaver"}})
    token = trainer.cluster.plane.token("leaver")
    core.delete_namespaced_service_account("leaver", NAMESPACE)
    file = trainer.cluster.plane.kubeconfig(token, "leaver")
    backend = KubernetesBackendConfig(namespace=NAMESPACE, config_file=str(file))
    job = TrainJob(TWO, "unifl-test", Path("/nowhere"), backend, {})
    with pytest.raises(AccessError, match=r"does not accept the token \(401\)"):
        job.check_room()


def test_a_canceled_task_removes_its_train_job(trainer: Trainer, run: Run) -> None:
    def cancel() -> None:
        trainer.posted()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(trainer.cluster)
    assert trainer.jobs() == []
