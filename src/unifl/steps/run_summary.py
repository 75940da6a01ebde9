"""run_summary: the end of a run on a cluster, whatever happened: its summary, a webhook told, old leftovers removed.

Runs as the exit handler of the DAG. The scheduler says only whether the run succeeded; which step failed and why, and
the metrics, come from the notes that the tasks have left in the workspace (`unifl.core.notes`).
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from unifl.core.errors import SettingsError
from unifl.core.settings import StepSettings
from unifl.core.step import CHECKPOINT_DAYS, Metrics, Paths, StepContext, StepDefinition, checkpoint_folder

PARTIAL_DAYS = 1.0
"""A half-written file of a pod that is gone is this old at least: no step writes one file for a day."""

ENDED_FROM_OUTSIDE = "ended from outside: canceled, preempted, out of memory or out of time"


class RunSummarySettings(StepSettings):
    """Which run it is, and how hard to try to tell of it."""

    state: str = Field(default="", description="The scheduler's word on the run; the component fills it in.")
    error: str = Field(default="", description="Its word on why; the component fills it in.")
    pipeline: str = Field(default="", description="Name of the pipeline.")
    link: str = Field(default="", description="Where a browser shows the run; {run_id} stands for its id.")
    webhook_retries: int = Field(default=5, ge=0, le=20, description="Retries: with the wait below, half a minute.")
    webhook_wait_factor_seconds: float = Field(
        default=1.0, ge=0, description="Twice this is waited before the second retry, then ever twice as long."
    )


STEP = StepDefinition(
    name="run_summary",
    summary="End a run on a cluster: its summary, a webhook told, old leftovers removed.",
    inputs={},
    outputs={"summary": "JSON: run, state, failed step and its error, every step with its metrics, link"},
    settings=RunSummarySettings,
)


def run(inputs: Paths, outputs: Paths, settings: RunSummarySettings, context: StepContext) -> Metrics:
    """Write the summary, tell the webhook that $UNIFL_WEBHOOK_URL names, clean up.

    A webhook that fails is a line in the log, never an error. Without notes (a placement without a workspace) the
    summary has what the scheduler says, and no steps. Raises SettingsError when the environment names no run.
    """
    from unifl.cluster.webhook import post_to_webhook
    from unifl.core.files import write_json_atomic
    from unifl.core.notes import NOTES_VARIABLE, RUN_VARIABLE, notes_folder, read_notes

    run_id = os.environ.get(RUN_VARIABLE)
    if not run_id:
        raise SettingsError(
            "no run is named", expected=f"{RUN_VARIABLE} in the environment, as a cluster's pods have it"
        )
    folder = notes_folder()
    if folder is None:
        print(f"no notes of the steps: {NOTES_VARIABLE} is not set", file=sys.stderr, flush=True)
    summary = summary_of(run_id, settings, read_notes(folder) if folder else {})
    write_json_atomic(outputs["summary"], summary)
    message = message_of(summary)
    told = post_to_webhook(
        message, retries=settings.webhook_retries, wait_factor_seconds=settings.webhook_wait_factor_seconds
    )
    print(f"{message['text']} (webhook: {told})", file=sys.stderr, flush=True)
    removed = clean_up(folder.parent) if folder else 0
    return {"state": str(summary["state"]), "steps": len(summary["steps"]), "webhook": told, "removed": removed}


def summary_of(run_id: str, settings: RunSummarySettings, notes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The summary of a run; a task without a note was not reached, or came from the cache.

    A step that says itself why it failed goes before one that was ended from outside, as those beside it are.
    """
    from unifl.core.notes import FAILED, RUNNING

    succeeded = settings.state.upper() == "SUCCEEDED"
    steps, ended = [], []
    for task, note in notes.items():
        if task == STEP.name:
            continue
        if note["state"] == RUNNING and not succeeded:
            note = {**note, "state": FAILED, "error": ENDED_FROM_OUTSIDE}
            ended.append(note)
        steps.append(dict(note))
    told = [step for step in steps if step["state"] == FAILED and step not in ended]
    failed = None if succeeded else next(iter([*told, *ended]), None)
    return {
        "run": run_id,
        "pipeline": settings.pipeline,
        "state": settings.state.upper() or ("FAILED" if failed else "SUCCEEDED"),
        "failed_step": failed["task"] if failed else None,
        "error": (failed.get("error") if failed else None) or settings.error or None,
        "link": settings.link.replace("{run_id}", run_id) or None,
        "steps": steps,
    }


def message_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the webhook gets: a sentence for people in `text`, and the facts of the summary for machines."""
    text = f"{summary['pipeline'] or 'run'} {summary['run']}: {summary['state']}"
    if summary["failed_step"]:
        text += f" in {summary['failed_step']}"
    if summary["error"]:
        text += f": {summary['error']}"
    return {
        "text": text,
        "run": summary["run"],
        "status": summary["state"],
        "failed_step": summary["failed_step"],
        "error": summary["error"],
        "metrics": {step["task"]: step["metrics"] for step in summary["steps"] if step.get("metrics")},
        "link": summary["link"],
    }


def clean_up(notes: Path) -> int:
    """Remove what nobody comes back to: notes and checkpoints of CHECKPOINT_DAYS, and half-written files of pods that
    are gone. Returns how many files and folders went."""
    checkpoints = checkpoint_folder()
    old = [path for path in (*notes.glob("*"), *checkpoints.glob("*/*")) if _age_days(path) > CHECKPOINT_DAYS]
    for folder in (notes, checkpoints):
        for kind in (".partial-*", ".replaced-*"):
            old += [path for path in folder.rglob(kind) if _age_days(path) > PARTIAL_DAYS]
    for path in old:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(old)


def _age_days(path: Path) -> float:
    try:
        return (time.time() - path.stat().st_mtime) / 86400
    except FileNotFoundError:
        return 0.0
