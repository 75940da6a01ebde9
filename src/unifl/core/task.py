"""Runs a step inside a Kubeflow task: artifacts become paths, an error becomes one line and a documented exit code.

Components call `run_task`; it knows artifacts only by their `path` and `metadata`, so this package needs no kfp. The
scheduler may be a cluster or `kfp.local`, which hands no error on: the line also goes to the file that
$UNIFL_ERROR_FILE names (a run on this machine sets it; on Kubernetes it can be the container's termination log).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from unifl.core.digest import code_version as running_code_version
from unifl.core.errors import INTERRUPTED_EXIT_CODE, SettingsError, UniflError
from unifl.core.notes import FAILED, RUNNING, SUCCEEDED, leave_note

if TYPE_CHECKING:
    from unifl.core.step import Metrics, StepFunction

ERROR_FILE_VARIABLE = "UNIFL_ERROR_FILE"
PARENT_VARIABLE = "UNIFL_PARENT"
"""Process id of a local run; a task whose run was killed ends itself, so that it never races its successor."""

PARENT_POLL_SECONDS = 0.5

BEGIN_LINE, END_LINE = "unifl: the step begins", "unifl: the step has ended"
"""Printed around the step, so that a reader of the task's log can tell its lines from the scheduler's."""


class TaskArtifact(Protocol):
    """What a Kubeflow artifact looks like from here."""

    path: str
    metadata: dict[str, Any]


def run_task(
    step: str, arguments: Mapping[str, Any], function: Callable[[], StepFunction | None] | None = None
) -> None:
    """Run `step` with a component's arguments; ends the process with the error's exit code when the step fails.

    Args:
        step: the step's name.
        arguments: the component function's local names: an artifact for each input and output that the step defines,
            `metrics` and `record` (artifacts), `settings` (JSON), `code_version` (what the run was submitted with).
        function: gives what does the step's work in the place of the step's own function, or None for that.

    On success every output's metadata holds its `sha256`, and the metrics artifact holds the metrics, which is how
    Kubeflow shows them.
    """
    follow_parent()
    # kfp's executor logs at INFO for every library in the process; a step's log is its own.
    logging.getLogger().setLevel(logging.WARNING)
    print(BEGIN_LINE, file=sys.stderr, flush=True)
    leave_note(step, RUNNING)
    began = time.monotonic()
    try:
        metrics = _run(step, arguments, function)
        leave_note(step, SUCCEEDED, metrics=metrics, seconds=round(time.monotonic() - began, 1))
        print(END_LINE, file=sys.stderr, flush=True)
    except UniflError as error:
        error.step = error.step or step
        _end(step, str(error), error.exit_code)
    except KeyboardInterrupt:
        _end(step, f"{step}: interrupted; run again to go on from the last checkpoint", INTERRUPTED_EXIT_CODE)
    except Exception as error:
        traceback.print_exc()
        _end(step, f"{step}: {type(error).__name__}: {error}; the traceback is in the task's log", UniflError.exit_code)


def _run(step: str, arguments: Mapping[str, Any], function: Callable[[], StepFunction | None] | None) -> Metrics:
    from unifl.core.step import execute, step_definition

    submitted = arguments["code_version"]
    if submitted != running_code_version():
        raise SettingsError(
            f"the run was submitted with code {submitted[:12]}, this task runs {running_code_version()[:12]}",
            expected="the same source in both, because caches and lineage go by it",
            remedy="start the run again, or build the image from the submitted commit",
        )
    definition = step_definition(step)
    inputs = {name: Path(arguments[name].path) for name in definition.inputs if arguments.get(name) is not None}
    outputs = {name: Path(arguments[name].path) for name in definition.outputs}
    metrics, record = arguments["metrics"], arguments["record"]
    for artifact in (*outputs.values(), Path(metrics.path), Path(record.path)):
        artifact.parent.mkdir(parents=True, exist_ok=True)
    returned = execute(
        step,
        inputs,
        outputs,
        arguments["settings"],
        metrics=Path(metrics.path),
        record=Path(record.path),
        function=function() if function else None,
    )
    metrics.metadata.update(returned)
    for subject in json.loads(Path(record.path).read_text(encoding="utf-8"))["subject"]:
        arguments[subject["name"]].metadata["sha256"] = subject["digest"]["sha256"]
    return returned


def _end(step: str, line: str, exit_code: int) -> NoReturn:
    line = " ".join(line.split())
    leave_note(step, FAILED, error=line, exit_code=exit_code)
    print(line, END_LINE, sep="\n", file=sys.stderr, flush=True)
    if file := os.environ.get(ERROR_FILE_VARIABLE):
        Path(file).write_text(json.dumps({"step": step, "exit_code": exit_code, "error": line}), encoding="utf-8")
    raise SystemExit(exit_code)


def follow_parent() -> None:
    """End this process as Ctrl-C would when the one that $UNIFL_PARENT names is gone (even by SIGKILL)."""
    parent = os.environ.get(PARENT_VARIABLE)
    if not parent:
        return

    def watch() -> None:
        while True:
            try:
                os.kill(int(parent), 0)
            except ProcessLookupError:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(PARENT_POLL_SECONDS)

    threading.Thread(target=watch, daemon=True, name="follow-parent").start()
