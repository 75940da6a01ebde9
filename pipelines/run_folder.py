"""What a run leaves behind: `runs/<id>/` with summary.json, report.html, every step's record, and links to the outputs.

Written whatever happened, so that a failed run can be read too.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.task_watch import Task
from unifl.core.files import write_json_atomic

LATEST = "latest"
NOT_OUTPUTS = frozenset({"metrics", "record", "executor_output.json"})


def new_run_folder(runs: Path, preset: str) -> Path:
    """`runs/<UTC time>-<preset>`, made now; `runs/latest` points at it."""
    folder = runs / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{Path(preset).stem}"
    (folder / "records").mkdir(parents=True)
    latest = runs / LATEST
    latest.unlink(missing_ok=True)
    latest.symlink_to(folder.name)
    return folder


def collect(folder: Path, preset: str, started: datetime, tasks: Iterable[Task], error: str | None) -> dict[str, Any]:
    """Copy the records, link the outputs, write summary.json; returns the summary.

    Times are those of the step's own record, so a cached step shows what it once cost.
    """
    steps = [_collected(folder, task) for task in tasks if task.state not in ("waiting", "running")]
    summary = {
        "id": folder.name,
        "preset": preset,
        "started": started.isoformat(timespec="seconds"),
        "wall_seconds": round((datetime.now(UTC) - started).total_seconds(), 1),
        "error": error,
        "steps": steps,
    }
    write_json_atomic(folder / "summary.json", summary)
    return summary


def _collected(folder: Path, task: Task) -> dict[str, Any]:
    record = _copied_record(folder, task)
    details: Mapping[str, Any] = (
        json.loads((folder / record).read_text("utf-8"))["predicate"]["runDetails"] if record else {}
    )
    outputs = {}
    for name, path in task.outputs.items():
        if name in NOT_OUTPUTS or not path.exists():
            continue
        link = folder / "outputs" / task.name / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(path, link.parent))
        outputs[name] = link.relative_to(folder).as_posix()
    return {
        "name": task.name,
        "cached": task.state == "cached",
        "outcome": "failed" if task.state == "failed" else "succeeded",
        "wall_seconds": details.get("wall_seconds", round(task.seconds, 1)),
        "cpu_seconds": details.get("cpu_seconds"),
        "metrics": dict(details.get("metrics", {})),
        "outputs": outputs,
        "record": record,
    }


def _copied_record(folder: Path, task: Task) -> str | None:
    source = task.outputs.get("record")
    if source is None or not source.is_file():
        return None
    copy = folder / "records" / f"{task.name}.json"
    shutil.copyfile(source, copy)
    return copy.relative_to(folder).as_posix()
