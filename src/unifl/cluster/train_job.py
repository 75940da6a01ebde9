"""A tuning step on several nodes: submits a Kubeflow TrainJob (Trainer v2), shows its log in the task, and removes it.

The task that submits holds no GPU. Inputs, outputs, checkpoints and the job itself go through the volume that both
mount (`unifl-work`, manifests/base). A task that starts again takes over the TrainJob that its predecessor has left.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unifl.cluster.job import clear_results, job_folder, looked_after, raise_failure, take_results, write_job
from unifl.cluster.parallel import Parallel
from unifl.cluster.train_job_errors import is_absence, quota_too_small, sdk_errors
from unifl.core.errors import ClusterError, SettingsError, UniflError
from unifl.core.interruption import held_back
from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepFunction

ENDED = frozenset({"Complete", "Failed"})
LEFT_LINES = 20
"""Lines shown of the log of every other node when a job has failed."""


def train(arguments=None, **named):  # type: ignore[no-untyped-def]
    """Run one process of the job; what the SDK sends to each node as source, so it stands alone and uses no shell
    characters. A local process calls it with one dictionary, Kubernetes with keywords."""
    from pathlib import Path

    from unifl.cluster.job import run_process

    given = arguments if arguments is not None else named
    run_process(Path(given["job_file"]))


def train_job_function(parallel: Parallel, backend: Any = None, **trainer: Any) -> StepFunction:
    """Run a step's work as a TrainJob.

    Args:
        parallel: nodes, processes, and where.
        backend: configuration of the SDK's back end; by default the cluster that this pod is in, else the kubeconfig's.
        trainer: more arguments of the SDK's `CustomTrainer` (a local back end needs an environment).

    Raises (when run):
        ClusterError: no cluster answers, or it lacks Kubeflow Trainer or the runtime.
        AccessError: the cluster refuses this identity.
        SettingsError: the quota is smaller than the job.
    """

    def run(inputs: Paths, outputs: Paths, settings: StepSettings, context: StepContext) -> Metrics:
        folder = job_folder(context)
        job = TrainJob(parallel, _name(context), folder, backend, trainer)
        job.check_room()
        job_file = write_job(folder, inputs, outputs, settings, context, copy=True)
        _require_plain(job_file)
        with looked_after(job_file):
            succeeded = job.run()
        if not succeeded:
            raise_failure(folder, f"the TrainJob {job.name} failed")
        return take_results(folder, outputs)

    return run


def _name(context: StepContext) -> str:
    """The same for the same work, so that a second attempt finds the first one's TrainJob."""
    return f"unifl-{context.step.replace('_', '-')}-{context.checkpoints.name[:12]}"


def _require_plain(path: Path) -> None:
    """The SDK writes the function with its arguments into a shell script."""
    if set(str(path)) & set("$`\\\"'"):
        raise SettingsError("the path of the checkpoints has a quote, a $ or a backslash", file=path)


class TrainJob:
    """One TrainJob from its submission to its removal."""

    def __init__(self, parallel: Parallel, name: str, folder: Path, backend: Any, trainer: dict[str, Any]) -> None:
        with sdk_errors(parallel):
            from kubeflow.trainer import TrainerClient
            from kubeflow.trainer.backends.kubernetes.backend import KubernetesBackend

            self._client = TrainerClient(backend or _kubernetes(parallel))
            self._on_kubernetes = isinstance(self._client.backend, KubernetesBackend)
        self.parallel, self.name, self.folder, self._trainer = parallel, name, folder, trainer
        self._shown = 0

    def check_room(self) -> None:
        """Raises SettingsError when the namespace's quota could never hold the job."""
        if self._on_kubernetes:
            with sdk_errors(self.parallel):
                backend = self._client.backend
                quotas = backend.core_api.list_namespaced_resource_quota(backend.namespace).items
            for quota in quotas:
                quota_too_small(quota.metadata.name, quota.spec.hard or {}, self.parallel)

    def run(self) -> bool:
        """Submit (or take over), show the log until it ends, and remove it; whether it succeeded."""
        self._submit()
        try:
            return self._follow()
        except UniflError:
            raise
        except BaseException:
            print(f"the TrainJob {self.name} is removed; its processes save a checkpoint", file=sys.stderr, flush=True)
            raise
        finally:
            # A second signal may not leave it running.
            with held_back():
                self._remove()

    def _submit(self) -> None:
        left = self._left()
        if left is not None and left.status != "Failed":
            print(f"the TrainJob {self.name} of an earlier attempt is {left.status}: taken over", file=sys.stderr)
            return
        with sdk_errors(self.parallel):
            if left is not None:
                self._remove()
                while self._left() is not None:
                    time.sleep(self.parallel.poll_seconds)
            clear_results(self.folder)
            self._client.train(runtime=self._runtime(), trainer=self._custom_trainer(), options=self._options())
        print(f"TrainJob {self.name}: {self.parallel.nodes} x {self.parallel.processes_per_node} processes", flush=True)

    def _left(self) -> Any:
        """The TrainJob of this name, or None."""
        with sdk_errors(self.parallel):
            try:
                return self._client.get_job(self.name)
            except Exception as error:
                if not is_absence(error):
                    raise
                return None

    def _remove(self) -> None:
        with sdk_errors(self.parallel):
            try:
                self._client.delete_job(self.name)
            except Exception as error:
                if not is_absence(error):
                    raise

    def _runtime(self) -> str:
        return self.parallel.runtime if self._on_kubernetes else "torch-distributed"

    def _custom_trainer(self) -> Any:
        from kubeflow.trainer import CustomTrainer

        parallel, processes = self.parallel, self.parallel.processes_per_node
        resources: dict[str, Any] = {
            "cpu": str(parallel.cpu_per_process * processes),
            "memory": f"{parallel.memory_gib_per_process * processes}Gi",
        }
        if parallel.gpu:
            resources["gpu"] = str(processes)
        return CustomTrainer(
            func=train,
            func_args={"job_file": str(self.folder / "job.json")},
            num_nodes=parallel.nodes,
            resources_per_node=resources,
            **self._trainer,
        )

    def _options(self) -> list[Any]:
        from kubeflow.trainer.options import ActiveDeadlineSeconds, Labels, Name

        options: list[Any] = [Name(self.name)]
        if self._on_kubernetes:
            options.append(ActiveDeadlineSeconds(round(self.parallel.deadline_hours * 3600)))
            if self.parallel.queue:
                options.append(Labels({"kueue.x-k8s.io/queue-name": self.parallel.queue}))
        return options

    def _follow(self) -> bool:
        """Poll state and log, on every back end alike: a stream would break when a node is replaced."""
        state = ""
        while True:
            job = self._left()
            if job is None:
                raise ClusterError(
                    f"the TrainJob {self.name} was removed by somebody else",
                    remedy="start the step again; it goes on from the last checkpoint",
                )
            if job.status != state:
                state = job.status
                print(f"TrainJob {self.name}: {state}", flush=True)
            self._show_log("node-0")
            if state in ENDED:
                if state == "Failed":
                    for step in job.steps[1:]:
                        print(f"--- {step.name}", flush=True)
                        print(*list(self._log(step.name))[-LEFT_LINES:], sep="\n", flush=True)
                return bool(state == "Complete")
            time.sleep(self.parallel.poll_seconds)

    def _show_log(self, step: str) -> None:
        lines = list(self._log(step))
        if len(lines) < self._shown:  # a new pod, or a log that the node has cut
            self._shown = 0
        for line in lines[self._shown :]:
            print(line, flush=True)
        self._shown = len(lines)

    def _log(self, step: str) -> Iterator[str]:
        # A pod that is only just made, or already gone, has no log to read; the next look finds it.
        with contextlib.suppress(RuntimeError):
            yield from self._client.get_job_logs(self.name, step=step, follow=False)


def _kubernetes(parallel: Parallel) -> Any:
    from kubeflow.common.types import KubernetesBackendConfig

    return KubernetesBackendConfig(namespace=parallel.namespace)
