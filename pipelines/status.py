"""What a run on the cluster does: the state of every step, its times, accelerator hours and an estimate of their cost.

The server knows tasks by the names of the compiled pipeline; here they have the names of the DAG.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.accelerator_cost import Accelerators, Prices, requested
from pipelines.cluster_client import Cluster
from pipelines.compiling import dag_tasks
from pipelines.settings import FLOW
from unifl.core.progress import duration

STYLES = {"SUCCEEDED": "green", "RUNNING": "bold cyan", "FAILED": "bold red", "CANCELED": "yellow", "PENDING": "dim"}
NEWEST_FIRST = "created_at desc"
NO_TIME_BEFORE = 2000
"""The server writes the year 1970 for a time that has not come."""


@dataclass(frozen=True)
class StepStatus:
    """One step of a run; `pods` are the workflow nodes that the server links to it."""

    name: str
    state: str
    started: datetime | None
    ended: datetime | None
    accelerators: Accelerators | None
    pods: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long the step has run, until now when it still does."""
        if self.started is None:
            return 0.0
        return max(0.0, ((self.ended or datetime.now(UTC)) - self.started).total_seconds())

    @property
    def accelerator_hours(self) -> float:
        return self.seconds / 3600 * self.accelerators.count if self.accelerators else 0.0

    def cost(self, prices: Prices) -> float | None:
        """The estimate, 0 without accelerators; None when the price is not known."""
        if self.accelerators is None:
            return 0.0
        price = prices.per_hour.get(self.accelerators.kind)
        return None if price is None else price * self.accelerator_hours


@dataclass(frozen=True)
class RunStatus:
    """A run and its steps, in the order of the flow. `error` is the server's own word on a failure."""

    run_id: str
    name: str
    state: str
    created: datetime | None
    ended: datetime | None
    error: str | None
    steps: tuple[StepStatus, ...]

    def progress(self) -> str:
        """One line: how many steps are done and which run."""
        done = sum(step.state in ("SUCCEEDED", "SKIPPED") for step in self.steps)
        running = [step.name for step in self.steps if step.state == "RUNNING"]
        doing = f", running {', '.join(running)}" if running else ""
        return f"{self.state}: {done}/{len(self.steps)} steps done{doing}"


def run_status(cluster: Cluster, run_id: str) -> RunStatus:
    """The state of one run. Raises NotFoundError."""
    run = cluster.run(run_id)
    spec, platform = compiled_pipeline(cluster, run)
    details = {detail.display_name: detail for detail in (run.run_details and run.run_details.task_details) or ()}
    steps = []
    for key, task in sorted(in_order(spec), key=_place_in_flow):
        name = task["taskInfo"]["name"]
        # Servers name a task by its key in the compiled pipeline; later ones by its name in the DAG.
        detail = details.get(key) or details.get(name)
        executor = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        steps.append(
            StepStatus(
                name,
                (detail and detail.state) or "PENDING",
                _time(detail and detail.start_time),
                _time(detail and detail.end_time),
                requested(executor, spec, platform),
                tuple(child.pod_name for child in (detail and detail.child_tasks) or () if child.pod_name)
                + ((detail.pod_name,) if detail and detail.pod_name else ()),
            )
        )
    return RunStatus(
        run_id,
        run.display_name,
        run.state or "PENDING",
        _time(run.created_at),
        _time(run.finished_at),
        run.error.message if run.error else None,
        tuple(steps),
    )


def compiled_pipeline(cluster: Cluster, run: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The compiled pipeline that a run executes, and what it says about Kubernetes (empty when nothing)."""
    spec = run.pipeline_spec
    reference = run.pipeline_version_reference
    if not spec and reference:
        with cluster.errors(f"pipeline version {reference.pipeline_version_id}"):
            spec = cluster.client.get_pipeline_version(
                reference.pipeline_id, reference.pipeline_version_id
            ).pipeline_spec
    spec = spec or {}
    if "pipeline_spec" in spec:
        return spec["pipeline_spec"], spec.get("platform_spec", {})
    return spec, {}


def in_order(spec: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tasks of a compiled pipeline, each after those that it waits for."""
    waiting = dag_tasks(spec)
    done: set[str] = set()
    while waiting:
        ready = [key for key, task in waiting.items() if done.issuperset(task.get("dependentTasks", ()))]
        for key in ready or list(waiting):
            done.add(key)
            yield key, waiting.pop(key)


def _place_in_flow(keyed_task: tuple[str, Mapping[str, Any]]) -> int:
    """By the table of tasks; what a rerun imports stands where the step stood that once made it."""
    step = keyed_task[1]["taskInfo"]["name"].partition(".")[0]
    return list(FLOW).index(step) if step in FLOW else len(FLOW) - 1


def print_run(status: RunStatus, prices: Prices, console: Console, link: str | None) -> None:
    """The table of a run's steps, and what is not in it."""
    table = Table(title=f"run {status.run_id}  {status.name}  {status.state}", title_justify="left", title_style="bold")
    for heading in ("step", "state", "started", "time", "GPU h", f"cost {prices.currency}"):
        right = heading in ("time", "GPU h") or heading.startswith("cost")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for step in status.steps:
        cost = step.cost(prices)
        table.add_row(
            step.name,
            f"[{STYLES.get(step.state, 'default')}]{step.state}",
            f"{step.started:%Y-%m-%d %H:%M:%S}" if step.started else "",
            duration(step.seconds) if step.started else "",
            f"{step.accelerator_hours:.2f}" if step.accelerators else "",
            "unknown" if cost is None else f"{cost:.2f}" if step.accelerators else "",
        )
    console.print(table)
    console.print(_totals(status, prices), markup=False, highlight=False, soft_wrap=True)
    if status.error:
        console.print(f"The server says: {status.error}", markup=False, highlight=False, soft_wrap=True)
    if link:
        console.print(link, markup=False, highlight=False, soft_wrap=True)


def _totals(status: RunStatus, prices: Prices) -> str:
    asked = [step for step in status.steps if step.accelerators]
    if not asked:
        return "No step asks for an accelerator; CPU and memory are not priced."
    hours = sum(step.accelerator_hours for step in asked)
    unknown = sorted({step.accelerators.kind for step in asked if step.accelerators and step.cost(prices) is None})
    if unknown:
        return (
            f"{hours:.2f} GPU hours; no estimate, because no price is known for {', '.join(unknown)}: "
            "give it with --prices FILE."
        )
    total = sum(step.cost(prices) or 0.0 for step in asked)
    return f"{hours:.2f} GPU hours, about {total:.2f} {prices.currency} for accelerators; an estimate from list prices."


def print_last_runs(cluster: Cluster, count: int, console: Console) -> None:
    """The last runs of the namespace, the newest first."""
    with cluster.errors():
        runs = cluster.client.list_runs(page_size=count, sort_by=NEWEST_FIRST, namespace=cluster.namespace).runs or []
    if not runs:
        console.print("There are no runs yet: `python -m pipelines submit` starts one.", highlight=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("run", "name", "state", "created (UTC)", "time"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "time" else "left")
    for run in runs:
        created, ended = _time(run.created_at), _time(run.finished_at)
        state = run.state or "PENDING"
        table.add_row(
            run.run_id,
            run.display_name,
            f"[{STYLES.get(state, 'default')}]{state}",
            f"{created:%Y-%m-%d %H:%M:%S}" if created else "",
            duration((ended - created).total_seconds()) if created and ended else "",
        )
    console.print(table)


def _time(value: datetime | None) -> datetime | None:
    if value is None or value.year < NO_TIME_BEFORE:
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
