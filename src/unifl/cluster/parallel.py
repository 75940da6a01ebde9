"""On how many processes a tuning step runs, and where: one process, torchrun on this machine, or a TrainJob.

Placement says so by the variable UNIFL_PARALLEL; the steps know only their part of a batch (unifl.feedback.ranks). The
hook around steps stays in the process that was started, so outputs, record and checkpoints are as for one process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from unifl.cluster.job import clear_results, job_folder, looked_after, raise_failure, take_results, write_job
from unifl.core.errors import SettingsError
from unifl.core.settings import StepSettings, validated
from unifl.core.step import Metrics, Paths, StepContext, StepFunction
from unifl.core.task import PARENT_VARIABLE, run_task

PARALLEL_VARIABLE = "UNIFL_PARALLEL"
PARALLEL_STEPS = ("perceptual_feedback", "decoupled_feedback", "adversarial_feedback")
"""Steps whose processes share each batch."""

GRACE_SECONDS = 25.0
"""How long processes may take to save a checkpoint after SIGTERM; a spot node gives 30 s."""


class Parallel(StepSettings):
    """Processes of one step, as JSON in the variable UNIFL_PARALLEL."""

    nodes: int = Field(1, ge=1, description="Nodes; more than one takes a TrainJob.")
    processes_per_node: int = Field(1, ge=1, description="Processes on each node, one a GPU.")
    train_job: bool = Field(False, description="A TrainJob for one node too, say for a GPU pool behind Kueue.")
    runtime: str = Field("unifl-torch", description="ClusterTrainingRuntime, as in manifests/base.")
    namespace: str | None = Field(None, description="Namespace of the TrainJob; the pod's own by default.")
    queue: str | None = Field(None, description="LocalQueue of Kueue; none by default.")
    cpu_per_process: int = Field(6, ge=1, description="CPU cores a process, as the runtime of manifests/base.")
    memory_gib_per_process: int = Field(24, ge=1, description="Memory a process in GiB, as the runtime.")
    gpu: bool = Field(True, description="Each process has a GPU (nvidia.com/gpu).")
    deadline_hours: float = Field(96.0, gt=0, description="A TrainJob that runs longer is ended by the controller.")
    poll_seconds: float = Field(10.0, gt=0, description="Time between two looks at a TrainJob and its log.")

    @property
    def processes(self) -> int:
        """All processes together."""
        return self.nodes * self.processes_per_node


def parallel_of(environment: Mapping[str, str]) -> Parallel:
    """What the environment asks for; one process without the variable. Raises SettingsError for a wrong value."""
    return validated(Parallel, environment.get(PARALLEL_VARIABLE) or "{}", step=PARALLEL_VARIABLE)


def parallel_function(step: str) -> StepFunction | None:
    """How the step is to be run by the environment; None for in this process.

    Raises SettingsError when the variable is wrong, or the step can't be divided.
    """
    parallel = parallel_of(os.environ)
    if parallel.processes == 1 and not parallel.train_job:
        return None
    if step not in PARALLEL_STEPS:
        raise SettingsError(
            f"{step} can't be divided among processes",
            expected=f"{PARALLEL_VARIABLE} only for {', '.join(PARALLEL_STEPS)}",
            remedy=f"unset {PARALLEL_VARIABLE} for this step",
        )
    if parallel.nodes > 1 or parallel.train_job:
        from unifl.cluster.train_job import train_job_function

        return train_job_function(parallel)
    return torchrun_function(parallel)


def run_parallel_task(step: str, arguments: Mapping[str, Any]) -> None:
    """`unifl.core.task.run_task` on as many processes as the environment asks for."""
    run_task(step, arguments, lambda: parallel_function(step))


def torchrun_function(parallel: Parallel) -> StepFunction:
    """Run a step's work on several processes of this machine, through torchrun; they end when this process ends."""

    def run(inputs: Paths, outputs: Paths, settings: StepSettings, context: StepContext) -> Metrics:
        folder = job_folder(context)
        job_file = write_job(folder, inputs, outputs, settings, context, copy=False)
        clear_results(folder)
        with looked_after(job_file):
            code = _torchrun(parallel.processes_per_node, job_file)
        if code != 0:
            raise_failure(folder, f"torchrun ended with code {code}")
        return take_results(folder, outputs)

    return run


def _torchrun(processes: int, job_file: Path) -> int:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    torchrun = subprocess.Popen([*command, "-m", "unifl.cluster.job", str(job_file)], env=environment)
    try:
        return torchrun.wait()
    except BaseException:
        torchrun.send_signal(signal.SIGTERM)
        try:
            torchrun.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            torchrun.kill()
            torchrun.wait()
        raise
