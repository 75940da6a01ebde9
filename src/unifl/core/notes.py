"""What the tasks of a run leave for the run's summary: one small file a task in a folder that all of them share.

Kubeflow's exit handler is told that a run has failed, not where or why. `unifl.core.task` writes a note when a task
begins and when it ends; the step `run_summary` reads them. Without the variables (on one machine) there are no notes.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unifl.core.errors import UniflError
from unifl.core.files import write_json_atomic

NOTES_VARIABLE, RUN_VARIABLE, TASK_VARIABLE = "UNIFL_NOTES", "UNIFL_RUN_ID", "UNIFL_TASK"
RUNNING, SUCCEEDED, FAILED = "running", "succeeded", "failed"


def notes_folder() -> Path | None:
    """Where this run's notes lie; None when the environment names no run or no shared folder."""
    folder, run = os.environ.get(NOTES_VARIABLE), os.environ.get(RUN_VARIABLE)
    return Path(folder, run) if folder and run else None


def leave_note(step: str, state: str, **about: Any) -> None:
    """Write this task's note in the place of an earlier attempt's. A note that can't be written never fails a task."""
    folder = notes_folder()
    if folder is None:
        return
    task = os.environ.get(TASK_VARIABLE) or step
    try:
        write_json_atomic(folder / f"{task}.json", {"task": task, "step": step, "state": state, **about})
    except (OSError, UniflError, ValueError) as error:
        print(f"{task}: no note for the run's summary could be written: {error}", file=sys.stderr, flush=True)


def read_notes(folder: Path) -> dict[str, Mapping[str, Any]]:
    """Task -> its note, of one run; a file that is no note is left out."""
    notes: dict[str, Mapping[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        try:
            note = json.loads(file.read_text(encoding="utf-8"))
            notes[str(note["task"])] = {**note, "state": str(note["state"])}
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return notes
