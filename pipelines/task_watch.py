"""What a person sees of a run on this machine: each task's state as it changes, and its own progress line.

On a terminal a table redraws itself; in a log, one line when a task starts, moves on or ends. kfp.local tells nobody
about its tasks, so `watched_tasks` wraps the one function through which all of them go.
"""

import contextlib
import io
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from unifl.core.task import BEGIN_LINE, END_LINE

STATES = {"waiting": "dim", "running": "bold cyan", "cached": "green", "ran": "green", "failed": "bold red"}
KFP_LOG = "[KFP Executor"
_CONTROL = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Task:
    """A task of the DAG in this run. `outputs` maps an output's name (also metrics and record) to where it lies."""

    name: str
    state: str = "waiting"
    line: str = ""
    started: float = 0.0
    seconds: float = 0.0
    outputs: dict[str, Path] = field(default_factory=dict)


class TaskWatch:
    """Keeps the tasks' states and shows them on `console`."""

    def __init__(self, names: Sequence[str], console: Console) -> None:
        self.tasks = {name: Task(name) for name in names}
        self._console = console
        self._in_step = False
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=2, transient=True)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        with self._live if self._console.is_terminal else contextlib.nullcontext():
            yield

    @property
    def running(self) -> Task | None:
        return next((task for task in self.tasks.values() if task.state == "running"), None)

    def started(self, name: str) -> None:
        self.tasks[name].state, self.tasks[name].started = "running", time.monotonic()
        self.log(f"{self._place(name)} {name} ...")

    def line(self, text: str) -> None:
        """A line that the running task printed; those around the step itself are kfp's and stay in the log."""
        text, task = _CONTROL.sub("", text).strip(), self.running
        if BEGIN_LINE in text or END_LINE in text:
            self._in_step = BEGIN_LINE in text
        elif task and text and self._in_step and not text.startswith(KFP_LOG):
            task.line = text
            self.log(f"    {text}")

    def ended(self, name: str, state: str, outputs: dict[str, Path]) -> None:
        task = self.tasks[name]
        task.state, task.outputs, task.line, self._in_step = state, outputs, "", False
        task.seconds = time.monotonic() - task.started
        self.log(f"{self._place(name)} {name} {state}" + ("" if state == "cached" else f", {task.seconds:.0f} s"))

    def log(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _place(self, name: str) -> str:
        return f"[{list(self.tasks).index(name) + 1}/{len(self.tasks)}]"

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("step", "state", "time", ""):
            table.add_column(heading, justify="right" if heading == "time" else "left", no_wrap=True)
        for task in self.tasks.values():
            seconds = time.monotonic() - task.started if task.state == "running" else task.seconds
            elapsed = f"{seconds:.0f} s" if seconds >= 0.5 else ""
            table.add_row(task.name, f"[{STATES[task.state]}]{task.state}", elapsed, task.line)
        return table


class LineSink(io.TextIOBase):
    """A text stream that keeps everything in a log file and hands whole lines to a watch."""

    def __init__(self, log: TextIO, watch: TaskWatch) -> None:
        self._log, self._watch, self._rest = log, watch, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._log.write(_CONTROL.sub("", text))
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._watch.line(line)
        return len(text)

    def flush(self) -> None:
        self._log.flush()


@contextlib.contextmanager
def watched_tasks(watch: TaskWatch) -> Iterator[None]:
    """Report every task that kfp.local executes inside this context to `watch`."""
    from kfp.local import status
    from kfp.local.orchestrator import task_executor

    execute = task_executor.execute_single_task

    def execute_and_report(*, task_spec, pipeline_resource_name, pipeline_root, **others):
        name = task_spec.task_info.name
        root = Path(pipeline_root, pipeline_resource_name)
        watch.started(name)
        outputs, outcome = execute(
            task_spec=task_spec, pipeline_resource_name=pipeline_resource_name, pipeline_root=pipeline_root, **others
        )
        if outcome == status.Status.SUCCESS:
            paths = {key: Path(artifact.path) for key, artifact in outputs.items()}
            cached = not any(path.is_relative_to(root) for path in paths.values())
            watch.ended(name, "cached" if cached else "ran", paths)
        else:
            folder = root / task_spec.component_ref.name.removeprefix("comp-")
            written = folder.iterdir() if folder.is_dir() else ()
            watch.ended(name, "failed", {path.name: path for path in written if not path.name.startswith(".")})
        return outputs, outcome

    task_executor.execute_single_task = execute_and_report
    try:
        yield
    finally:
        task_executor.execute_single_task = execute
