"""A tuning step as a TrainJob: on the SDK's local processes, and on a Kubernetes API that runs what it is sent."""

import json
import os
import signal
import sys
import sysconfig
import threading
import time
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from kubeflow.common.types import KubernetesBackendConfig
from kubeflow.trainer import LocalProcessBackendConfig

from tests.cluster.fake_kubernetes import NAMESPACE, TRAINER, FakeKubernetes
from unifl.cluster.parallel import Parallel
from unifl.cluster.train_job import train_job_function
from unifl.cluster.train_job_errors import is_absence
from unifl.core.errors import AccessError, ClusterError, DataContractError, SettingsError, UniflError
from unifl.core.step import execute, step_definition
from unifl.feedback.collapse import VARIETY

STEP = "decoupled_feedback"
SETTINGS: dict[str, Any] = {
    "updates": 2, "batch_size": 2, "steps": 4, "aesthetic_last_stop": 1, "warmup_updates": 0, "mixed_precision": False,
    "diffusion_weight": 1.0, "lambda_aesthetic": 1e-6,  # as in test_processes: what leads must not round to bfloat16
}  # fmt: skip
TWO = Parallel(nodes=2, gpu=True, namespace=NAMESPACE, poll_seconds=0.2, queue="unifl")
ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.tiny_base import build_tiny_base
    from tests.tiny_world import build_world
    from unifl.feedback.parameters import save_untuned_model

    home = tmp_path_factory.mktemp("inputs")
    base = build_tiny_base(home / "base")
    save_untuned_model(home / "untuned", base_folder=base, stage="test")
    world = build_world(home, base) | {"model": home / "untuned"}
    needed = step_definition(STEP)
    return {name: world[name] for name in needed.inputs if name in world}


@pytest.fixture
def any_files(tmp_path: Path) -> dict[str, Path]:
    """Inputs for what never comes to training: the hook digests them, and nothing reads them."""
    definition = step_definition(STEP)
    files = {name: tmp_path / "inputs" / name for name in definition.inputs if name not in definition.optional_inputs}
    (tmp_path / "inputs").mkdir()
    for name, file in files.items():
        file.write_text(name)
    return files


@pytest.fixture(scope="module")
def one_process(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    home = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UNIFL_CHECKPOINTS", str(home / "checkpoints"))
        execute(STEP, inputs, {"tuned_model": home / "model"}, SETTINGS)
    return log_of(home / "model")


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeKubernetes]:
    (tmp_path / "cluster").mkdir()
    fake = FakeKubernetes(tmp_path / "cluster")
    yield fake
    fake.close()


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]


def run(
    inputs: dict[str, Path], output: Path, cluster: FakeKubernetes, parallel: Parallel = TWO, **settings: Any
) -> dict[str, Any]:
    backend = KubernetesBackendConfig(namespace=NAMESPACE, config_file=str(cluster.kubeconfig()))
    function = train_job_function(parallel, backend)
    return execute(STEP, inputs, {"tuned_model": output}, SETTINGS | settings, function=function)


def assert_close(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    """What leads agrees closely; the scores of perception models, which round to bfloat16, less so."""
    for ours, theirs in zip(found, expected, strict=True):
        tight = ("loss", "diffusion", "grad_norm", "lr")
        assert [ours[key] for key in tight] == pytest.approx([theirs[key] for key in tight], rel=1e-3)
        # The deviation over a batch is that of a process's own part of it, and of one picture there is none.
        whole, part = ({k: v for k, v in line.items() if not k.startswith(VARIETY)} for line in (theirs, ours))
        assert part == pytest.approx(whole, rel=0.05, abs=0.02)


def torchrun_wheel(folder: Path) -> Path:
    """A package that holds the command torchrun and a path file to the packages of this test's environment.

    The local back end makes an environment of its own for each job, and takes torchrun from there; torch itself, a
    gigabyte, is borrowed. The path file works only inside the new environment and only after pip has ended: pip must
    never see the packages that it could remove.
    """
    release = version("torch")  # libraries ask for it
    file, info = folder / f"torch-{release}-py3-none-any.whl", f"torch-{release}.dist-info"
    borrowed = f"{ROOT / 'src'}\n{sysconfig.get_paths()['purelib']}\n"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("borrowed.pth", borrowed)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {release}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\ntorchrun = torch.distributed.run:main\n")
        wheel.writestr(f"{info}/RECORD", "")
    return file


def local_environment() -> dict[str, str]:
    """Variables of a local job: nothing that leads pip to another environment, or to an index."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "VIRTUAL_ENV"))}
    return {**kept, "PET_NPROC_PER_NODE": "2", "PIP_NO_INDEX": "1", "PYTHONNOUSERSITE": "1"}


def test_two_local_processes_of_a_train_job_train_as_one_does(
    inputs: dict[str, Path], one_process: list[dict[str, float]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    function = train_job_function(
        Parallel(train_job=True, processes_per_node=2, gpu=False, poll_seconds=0.5),
        LocalProcessBackendConfig(),
        env=local_environment(),
        packages_to_install=[f"torch @ file://{torchrun_wheel(tmp_path)}"],
    )
    metrics = execute(STEP, inputs, {"tuned_model": tmp_path / "model"}, SETTINGS, function=function)
    assert metrics["updates"] == 2
    assert_close(log_of(tmp_path / "model"), one_process)
    shown = capfd.readouterr().out
    assert "Complete" in shown
    assert "Operating inside" in shown
    assert not list((tmp_path / "checkpoints").glob("*/*"))


def test_two_nodes_of_a_train_job_train_as_one_process_does(
    inputs: dict[str, Path],
    one_process: list[dict[str, float]],
    tmp_path: Path,
    cluster: FakeKubernetes,
    capfd: pytest.CaptureFixture[str],
) -> None:
    metrics = run(inputs, tmp_path / "model", cluster)
    assert metrics["updates"] == 2
    assert_close(log_of(tmp_path / "model"), one_process)
    (posted,) = cluster.posted
    assert posted["spec"]["runtimeRef"] == {"name": "unifl-torch", "kind": "ClusterTrainingRuntime"}
    assert posted["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "unifl"}
    assert posted["spec"]["activeDeadlineSeconds"] == 96 * 3600
    assert posted["spec"]["trainer"]["numNodes"] == 2
    limits = posted["spec"]["trainer"]["resourcesPerNode"]["limits"]
    assert limits == {"cpu": "6", "memory": "24Gi", "nvidia.com/gpu": "1"}
    assert cluster.jobs == {}
    assert "TrainJob unifl-decoupled-feedback-" in capfd.readouterr().out


def test_a_canceled_task_removes_its_train_job_and_the_next_one_goes_on(
    inputs: dict[str, Path], tmp_path: Path, cluster: FakeKubernetes
) -> None:
    def cancel() -> None:
        while not any(file.stat().st_size for file in tmp_path.glob("checkpoints/*/*/training.jsonl")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path / "model", cluster, updates=500)
    assert cluster.jobs == {}
    logged = sum(len(file.read_text().splitlines()) for file in tmp_path.glob("checkpoints/*/*/training.jsonl"))
    assert [int(folder.name[7:]) for folder in tmp_path.glob("checkpoints/*/*/update-*")] == [logged]
    assert not (tmp_path / "model").exists()


def test_an_error_in_a_node_is_the_error_of_the_step(
    inputs: dict[str, Path], tmp_path: Path, cluster: FakeKubernetes
) -> None:
    broken = tmp_path / "prompts.parquet"
    broken.write_bytes(b"no table")
    with pytest.raises(DataContractError, match=r"^decoupled_feedback: .*selected_prompts"):
        run(inputs | {"selected_prompts": broken}, tmp_path / "model", cluster)
    assert cluster.jobs == {}


@pytest.mark.parametrize("still", ["running", "complete"])
def test_a_train_job_of_an_earlier_attempt_is_taken_over(
    any_files: dict[str, Path], tmp_path: Path, cluster: FakeKubernetes, still: str
) -> None:
    # What a killed task leaves: its TrainJob. A refusal shows the name and the folder that the next task will look for.
    cluster.refuse = {f"POST {TRAINER}": FORBIDDEN}
    with pytest.raises(AccessError):
        run(any_files, tmp_path / "model", cluster)
    cluster.refuse = {}
    (folder,) = tmp_path.glob("checkpoints/*/*/job")
    name = f"unifl-decoupled-feedback-{folder.parent.name[:12]}"
    made = folder / "outputs" / "tuned_model"
    script = f"mkdir -p {made}; touch {made}/unet; echo '{{\"updates\": 7}}' > {folder}/metrics.json"
    trainer = {"numNodes": 1, "command": ["bash", "-c", f"{'sleep 2; ' if still == 'running' else ''}{script}"]}
    spec = {"runtimeRef": {"name": "unifl-torch"}, "trainer": trainer}
    left = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": {"name": name}, "spec": spec}
    assert cluster.handle("POST", f"{TRAINER}/namespaces/{NAMESPACE}/trainjobs", left)[0] == 201
    if still == "complete":
        cluster.nodes[name][0].process.wait()
    assert run(any_files, tmp_path / "model", cluster) == {"updates": 7}
    assert (tmp_path / "model" / "unet").exists()
    assert len(cluster.posted) == 1
    assert cluster.jobs == {}


MISSING_CRD = (404, "404 page not found\n")
CREATE = 'User "system:serviceaccount:unifl:unifl-pipeline" cannot create resource "trainjobs" in API group'
FORBIDDEN = (403, json.dumps({"message": f"trainjobs.trainer.kubeflow.org is forbidden: {CREATE}"}))


@pytest.mark.parametrize(
    ("refuse", "error", "message"),
    [
        ({f"{TRAINER}/namespaces": MISSING_CRD}, ClusterError, "CRD is missing.*remedy: install Kubeflow Trainer"),
        ({f"{TRAINER}/clustertrainingruntimes": (404, "{}")}, ClusterError, "no training runtime unifl-torch.*remedy"),
        ({f"POST {TRAINER}": FORBIDDEN}, AccessError, "403.*cannot create.*rights.yaml"),
        ({"resourcequotas": (401, "{}")}, AccessError, "token .401."),
    ],
)
def test_a_cluster_that_refuses_is_one_line_with_a_remedy(
    any_files: dict[str, Path],
    tmp_path: Path,
    cluster: FakeKubernetes,
    refuse: dict[str, tuple[int, str]],
    error: type[UniflError],
    message: str,
) -> None:
    cluster.refuse = refuse
    with pytest.raises(error, match=message) as raised:
        run(any_files, tmp_path / "model", cluster)
    assert "\n" not in str(raised.value)
    assert cluster.jobs == {}


def test_a_quota_that_is_too_small_is_said_before_anything_is_sent(
    any_files: dict[str, Path], tmp_path: Path, cluster: FakeKubernetes
) -> None:
    cluster.quotas = {"requests.nvidia.com/gpu": "1", "requests.memory": "6Ti", "pods": "200"}
    with pytest.raises(SettingsError, match=r"quota unifl \(requests.nvidia.com/gpu 1\).*remedy: take fewer nodes"):
        run(any_files, tmp_path / "model", cluster)
    assert not [request for request in cluster.requests if request.startswith("POST")]


def test_a_missing_runtime_is_no_missing_train_job() -> None:
    from kubernetes.client import ApiException

    absent = ApiException(status=404, reason="Not Found")
    for said, is_so in (("Failed to get TrainJob: unifl/a", True), ("Failed to get Runtime: unifl-torch", False)):
        error = RuntimeError(said)
        error.__cause__ = absent
        assert is_absence(error) is is_so


def test_no_cluster_is_one_line_with_a_remedy(
    any_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ClusterError, match=r"no Kubernetes cluster is configured.*remedy"):
        execute(STEP, any_files, {"tuned_model": tmp_path / "model"}, SETTINGS, function=train_job_function(TWO))


def test_a_cluster_that_does_not_answer_is_one_line_with_a_remedy(
    any_files: dict[str, Path], tmp_path: Path, cluster: FakeKubernetes
) -> None:
    cluster.close()
    with pytest.raises(ClusterError, match=r"no cluster answers.*remedy"):
        run(any_files, tmp_path / "model", cluster)
