"""What a step's processes agree on through a shared folder: the job they run, its results, and why they failed.

The process that the hook runs in (a Kubeflow task, or the command line) writes the job and reads the results; each
process that torchrun starts reads the job and does the step's work on its part of every batch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from unifl.core import errors
from unifl.core.errors import INTERRUPTED_EXIT_CODE, SettingsError, UniflError
from unifl.core.files import atomic_path, remove_path, write_json_atomic, write_text_atomic
from unifl.core.interruption import interruptible
from unifl.core.settings import StepSettings, settings_json, validated
from unifl.core.step import Metrics, Paths, StepContext, step_definition, step_function
from unifl.core.task import follow_parent

JOB_FILE = "job.json"
ORPHAN_SECONDS = 900.0
"""Processes whose job nobody has looked after for so long end themselves: longer than a retried task waits."""

WATCH_SECONDS = 2.0


class Job(BaseModel):
    """One step's work for several processes; every path is absolute and reachable by all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    inputs: dict[str, Path]
    outputs: dict[str, Path]
    settings: str = Field(description="The step's settings as JSON.")
    checkpoints: Path
    code_version: str


def job_folder(context: StepContext) -> Path:
    """Where the job lies: among the step's checkpoints, as lasting, as shared and as content-keyed as they."""
    return context.checkpoints.absolute() / "job"


def write_job(
    folder: Path, inputs: Paths, outputs: Paths, settings: StepSettings, context: StepContext, *, copy: bool
) -> Path:
    """Write the job file below ``folder`` and give its path.

    With ``copy`` the inputs are copied below ``folder`` first and the outputs shall be written there, because the
    processes run where only that folder is mounted. Inputs that an earlier attempt has copied are not copied again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given = {name: path.absolute() for name, path in inputs.items()}
    made = {name: path.absolute() for name, path in outputs.items()}
    if copy:
        given = {name: _copied(path, folder / "inputs" / name) for name, path in given.items()}
        made = {name: folder / "outputs" / name for name in made}
    job = Job(
        step=context.step,
        inputs=given,
        outputs=made,
        settings=settings_json(settings),
        checkpoints=context.checkpoints.absolute(),
        code_version=context.code_version,
    )
    write_text_atomic(folder / JOB_FILE, job.model_dump_json(indent=2) + "\n")
    return folder / JOB_FILE


def _copied(source: Path, place: Path) -> Path:
    if not place.exists():
        with atomic_path(place) as partial:
            if source.is_dir():
                shutil.copytree(source, partial)
            else:
                shutil.copyfile(source, partial)
    return place


def clear_results(folder: Path) -> None:
    """Remove what earlier processes have left; call it before new ones start, not when old ones are taken over."""
    for leftover in (*folder.glob("error-*.json"), folder / "metrics.json", folder / "outputs"):
        remove_path(leftover)
    (folder / "outputs").mkdir()


def take_results(folder: Path, outputs: Paths) -> Metrics:
    """Move outputs that lie below ``folder`` to where they belong, and give the metrics.

    Raises UniflError when the processes ended without results.
    """
    file = folder / "metrics.json"
    if not file.exists():
        raise UniflError("the processes ended without a result", file=folder, remedy="read their log")
    for name, path in outputs.items():
        made = folder / "outputs" / name
        if made.exists():
            shutil.move(made, path)
    metrics: Metrics = json.loads(file.read_text(encoding="utf-8"))
    return metrics


def raise_failure(folder: Path, otherwise: str) -> None:
    """Raise what the first failed process has left as this project's error; ``otherwise`` when none has left a line."""
    for file in sorted(folder.glob("error-*.json"), key=lambda path: path.stat().st_mtime):
        left = json.loads(file.read_text(encoding="utf-8"))
        if left["exit_code"] == INTERRUPTED_EXIT_CODE:
            continue
        raise _error_of(left["exit_code"])(left["error"])
    raise UniflError(otherwise, remedy="read the log above; the next attempt goes on from the last checkpoint")


def _error_of(exit_code: int) -> type[UniflError]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, UniflError)]
    return next((kind for kind in kinds if kind.exit_code == exit_code), UniflError)


def run_process(job_file: Path) -> None:
    """Do the step's work in one of the processes that torchrun has started; ends it with the error's exit code.

    The first process writes outputs and metrics. A process whose job file is removed, or not touched for
    ORPHAN_SECONDS, ends as by SIGTERM: checkpoint saved.
    """
    follow_parent()
    rank = int(os.environ.get("RANK", "0"))
    folder = job_file.parent
    try:
        with interruptible(), _watched(job_file):
            _work(Job.model_validate_json(job_file.read_text(encoding="utf-8")), folder, rank)
    except UniflError as error:
        error.step = None  # the hook in the process that reads the line names it
        _leave(folder, rank, str(error), error.exit_code)
    except Exception as error:
        traceback.print_exc()
        line = f"{type(error).__name__}: {error}; the traceback is in the log"
        _leave(folder, rank, line, UniflError.exit_code)
    except KeyboardInterrupt:
        _leave(folder, rank, "interrupted; the next attempt goes on from the last checkpoint", INTERRUPTED_EXIT_CODE)


def _work(job: Job, folder: Path, rank: int) -> None:
    from unifl.core.digest import code_version
    from unifl.feedback.ranks import current_ranks

    if job.code_version != code_version():
        raise SettingsError(
            f"the job was submitted with code {job.code_version[:12]}, this process runs {code_version()[:12]}",
            expected="the same source in both",
            remedy="give the training runtime the image of the submitted commit (manifests/images)",
        )
    settings = validated(step_definition(job.step).settings, job.settings, step=job.step)
    context = StepContext(job.step, job.checkpoints, job.code_version)
    metrics = step_function(job.step)(job.inputs, job.outputs, settings, context)
    if rank == 0:
        write_json_atomic(folder / "metrics.json", metrics)
    current_ranks().leave()


def _leave(folder: Path, rank: int, line: str, exit_code: int) -> None:
    line = " ".join(line.split())
    print(f"process {rank}: {line}", file=sys.stderr, flush=True)
    if folder.is_dir():
        write_json_atomic(folder / f"error-{rank}.json", {"error": line, "exit_code": exit_code})
    # The other processes may hang in a collective that this one will never join, and so may its library's own exit.
    sys.stdout.flush()
    os._exit(exit_code)


@contextmanager
def _watched(job_file: Path) -> Iterator[None]:
    """Inside, this process is sent SIGTERM when nobody wants its job any more."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(WATCH_SECONDS):
            try:
                unwanted = time.time() - job_file.stat().st_mtime > ORPHAN_SECONDS
            except FileNotFoundError:
                unwanted = True
            if unwanted:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, daemon=True, name="job-file").start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def looked_after(job_file: Path) -> Iterator[None]:
    """Inside, the job file is touched now and then; afterwards it is gone, which ends processes that are left."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(ORPHAN_SECONDS / 30):
            if job_file.exists():
                os.utime(job_file)

    threading.Thread(target=touch, daemon=True, name="look-after-job").start()
    try:
        yield
    finally:
        ended.set()
        job_file.unlink(missing_ok=True)


if __name__ == "__main__":
    run_process(Path(sys.argv[1]))
