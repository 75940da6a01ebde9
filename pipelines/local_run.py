"""Runs the DAG on this machine: the function that compiles for a cluster, on kfp.local, each task a process, cached.

A run that was killed or failed goes on from its finished tasks (kfp.local's cache) and from the last checkpoint of the
unfinished one.
"""

import contextlib
import json
import os
import shutil
import signal
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

import unifl
from pipelines.local_cache import CACHE, alone
from pipelines.run_folder import collect, new_run_folder
from pipelines.settings import TASKS, parameters, require_effect, resolved, task_settings
from pipelines.summary_table import print_summary
from pipelines.task_watch import LineSink, TaskWatch, watched_tasks
from unifl.core.digest import code_version
from unifl.core.errors import INTERRUPTED_EXIT_CODE, UniflError
from unifl.core.files import atomic_path
from unifl.core.settings import StepSettings
from unifl.core.task import ERROR_FILE_VARIABLE, PARENT_VARIABLE

RUNS = Path("runs")
END_SECONDS = 30
"""How long an interrupted task may take to leave; its checkpoints are written between updates."""


def run(preset: str, overrides: Sequence[str], console: Console) -> int:
    """Run the DAG with the settings of `preset`; returns the exit code of the failed step, or 0.

    Raises SettingsError, DataContractError or StorageError before any task starts.
    """
    settings = task_settings(preset, overrides)
    require_effect(overrides, TASKS, on_cluster=False)
    settings = resolved(settings)
    with alone(CACHE), _terminable():
        folder = new_run_folder(RUNS, preset)
        watch = TaskWatch(list(TASKS), console)
        started = datetime.now(UTC)
        exit_code, error = _run_tasks(settings, folder, watch)
        summary = collect(folder, Path(preset).stem, started, watch.tasks.values(), error)
        from unifl.report import write_report

        report = write_report(folder)
    print_summary(summary, report, console)
    if error:
        Console(stderr=True).print(error, style="bold red", markup=False, highlight=False, soft_wrap=True)
    return exit_code


def _run_tasks(settings: dict[str, StepSettings], folder: Path, watch: TaskWatch) -> tuple[int, str | None]:
    from kfp import local

    from pipelines.feedback_learning import feedback_learning
    from pipelines.placement import THIS_MACHINE

    error_file = folder.absolute() / "error.json"
    scratch = (CACHE / "scratch").absolute()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    search_path = [str(source_snapshot(CACHE)), os.environ.get("PYTHONPATH", "")]
    os.environ.update(
        {
            ERROR_FILE_VARIABLE: str(error_file),
            PARENT_VARIABLE: str(os.getpid()),
            "PYTHONPATH": os.pathsep.join(filter(None, search_path)),
            "TMPDIR": str(scratch),  # every kfp task leaves a folder with its program behind
        }
    )
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(CACHE / "artifacts"),
        workspace_root=str((CACHE / "workspace").absolute()),
        enable_caching=True,
        cache_root=str(CACHE / "entries"),
    )
    with open(folder / "log.txt", "w", encoding="utf-8") as log, warnings.catch_warnings():
        # Display names have no effect on kfp.local; it says so for every task.
        warnings.filterwarnings("ignore", message=".*have no effect in the current local runner")
        try:
            with watch.shown(), watched_tasks(watch), contextlib.redirect_stdout(LineSink(log, watch)):
                feedback_learning(THIS_MACHINE)(**parameters(settings))
        except KeyboardInterrupt:
            _end_children()
            return INTERRUPTED_EXIT_CODE, "interrupted; the same command goes on from what was finished"
        except RuntimeError:
            failed = next((task for task in watch.tasks.values() if task.state == "failed"), None)
            if failed is None:
                raise
            return _failure(failed.name, error_file, folder)
    return 0, None


def source_snapshot(cache: Path) -> Path:
    """A copy of the library as this run was submitted with, for its tasks to import: editing goes on meanwhile."""
    package = Path(unifl.__file__).parent
    copies = cache.absolute() / "source"
    copy = copies / code_version()[:16]
    if not copy.is_dir():
        shutil.rmtree(copies, ignore_errors=True)
        with atomic_path(copy) as partial:
            shutil.copytree(package, partial / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def _failure(task: str, error_file: Path, folder: Path) -> tuple[int, str]:
    """Exit code and line of the failed task; kfp.local itself hands neither on."""
    try:
        left = json.loads(error_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        line = f"{task}: the task was ended from outside (out of memory?); its log is {folder / 'log.txt'}"
        return UniflError.exit_code, line
    return int(left["exit_code"]), str(left["error"])


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_children() -> None:
    """Ask the running task to end, and wait until it has written what it needs to go on."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    _, alive = psutil.wait_procs(children, timeout=END_SECONDS)
    for child in alive:
        child.kill()
