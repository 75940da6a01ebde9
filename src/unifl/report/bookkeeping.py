"""The report's sections on what the run cost and where its model comes from: the table of steps, and the lineage by
SHA-256.

Both read the summary and the records that the hook around steps leaves (in-toto statements with SLSA provenance).
arXiv 2404.05595 §4.1 gives the cost of each stage in GPU hours; here it is CPU seconds and updates, measured.
"""

from __future__ import annotations

from typing import Any

from unifl.core.errors import LineageError
from unifl.core.progress import duration
from unifl.lineage.records import Record, Resource, read_record
from unifl.report.run_folder import Missing, RunFolder
from unifl.report.scores import number

MOST_METRICS = 6  # of a step, in its row; the record has all of them
LONGEST_WORD = 20  # of a metric in that row
SHOWN_TENTHS = 9.95  # seconds below which a time has a decimal
SHORT_DIGEST = 12  # hex digits shown; the whole digest is in the cell's title and in the record


def steps(run: RunFolder) -> dict[str, Any]:
    """A row a step: cached or ran, updates, CPU and wall time, its metrics and the link to its record; and the
    totals."""
    rows = []
    for step in run.steps:
        metrics = step.get("metrics") or {}
        record = step.get("record") or ""
        cpu = step.get("cpu_seconds")
        rows.append(
            {
                "name": step["name"],
                "status": status(step),
                "updates": f"{int(metrics['updates']):,}" if "updates" in metrics else "",
                "cpu": _seconds(cpu) if cpu is not None else "",
                "wall": _seconds(step["wall_seconds"]) if step.get("wall_seconds") is not None else "",
                "metrics": _shown_metrics(metrics),
                "record": run.relative(record) if record else "",
            }
        )
    return {
        "rows": rows,
        "cpu": _seconds(sum(float(step.get("cpu_seconds") or 0) for step in run.steps)),
        "wall": _seconds(sum(float(step.get("wall_seconds") or 0) for step in run.steps)),
        "updates": f"{sum(int((step.get('metrics') or {}).get('updates', 0)) for step in run.steps):,}",
        "cached": sum(1 for step in run.steps if step.get("cached")),
    }


def status(step: dict[str, Any]) -> str:
    """ "failed", "cached" or "ran"."""
    if step.get("outcome") == "failed":
        return "failed"
    return "cached" if step.get("cached") else "ran"


def lineage(run: RunFolder) -> dict[str, Any] | Missing:
    """What each step made from what, by SHA-256; what no step of the run made; the tuned model; the code."""
    entries: list[dict[str, Any]] = []
    records = []
    for step in run.steps:
        try:
            record = read_record(run.path / step["record"]) if step.get("record") else None
        except LineageError as error:
            entries.append({"name": step["name"], "missing": str(error)})
            continue
        if record is None:
            entries.append({"name": step["name"], "missing": "The step left no record."})
            continue
        records.append(record)
        made, taken = [_artifact(item) for item in record.subjects], [_artifact(item) for item in record.materials]
        entries.append({"name": step["name"], "made": made, "taken": taken, "seed": record.internal.get("seed")})
    if not records:
        return Missing("No step of this run left a record.")
    given = {
        (material.name, material.sha256): material
        for record in records
        for material in record.materials
        if not any(_made_by(other, material) for other in records if other is not record)
    }
    tuned = [subject for record in records for subject in record.subjects if subject.name == "tuned_model"]
    return {
        "entries": entries,
        "given": [_artifact(item) for item in sorted(given.values(), key=lambda item: item.name)],
        "model": _artifact(tuned[-1]) if tuned else None,
        "commits": sorted({str(record.internal.get("commit") or "unknown") for record in records}),
        "dirty": any(record.internal.get("dirty") for record in records),
    }


def _made_by(record: Record, material: Resource) -> bool:
    return any(subject.sha256 == material.sha256 for subject in record.subjects)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < SHOWN_TENTHS else duration(value)


def _artifact(resource: Resource) -> dict[str, str]:
    algorithm, digest = ("sha256", resource.sha256) if resource.sha256 else ("md5", resource.dvc.get("md5", ""))
    pointer = str(resource.dvc.get("pointer", ""))
    return {
        "name": resource.name,
        "algorithm": algorithm,
        "digest": digest,
        "short": digest[:SHORT_DIGEST],
        "uri": resource.uri,
        "dvc": f"{pointer} md5:{resource.dvc.get('md5', '')}" if pointer else "",
    }


def _shown_metrics(metrics: dict[str, Any]) -> str:
    """The first metrics that a person can read: no digests (the lineage has them), no updates (their own column)."""
    readable = {
        key: value
        for key, value in metrics.items()
        if key != "updates" and not (isinstance(value, str) and len(value) > LONGEST_WORD)
    }
    shown = [f"{key} {_shown(value)}" for key, value in list(readable.items())[:MOST_METRICS]]
    more = len(readable) - len(shown)
    return ", ".join(shown) + (f", and {more} more in the record" if more else "")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else str(value)
