"""Runs that the cluster starts by itself, by cron: each pinned to one pipeline version and one set of parameters.

Pinned, because a schedule that follows the newest version runs code that nobody submitted. Missed times are not caught
up, and two runs of one schedule never run at once.
"""

import re
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.cluster_client import Cluster
from pipelines.submission import Place, Prepared, Version, experiment_id, upload
from unifl.core.errors import SettingsError

FIELDS = ("second", "minute", "hour", "day of month", "month", "day of week")
_NAMES = "SUN|MON|TUE|WED|THU|FRI|SAT|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC"
_FIELD = re.compile(rf"^([0-9*/,?\-]|{_NAMES})+$", re.IGNORECASE)
PAGE = 100


def six_fields(cron: str) -> str:
    """A cron expression as Kubeflow takes it, with seconds first; five fields get a 0 in front.

    Raises SettingsError for anything that isn't five or six fields.
    """
    fields = cron.split()
    if len(fields) not in (5, 6) or not all(_FIELD.match(field) for field in fields):
        raise SettingsError(
            f"{cron!r} is not a cron expression",
            expected=f"five or six fields ({', '.join(FIELDS)}; without the second it is 0)",
            remedy="for example --cron '0 3 * * 1' for Mondays at 3",
        )
    return " ".join(fields if len(fields) == 6 else ["0", *fields])


def create(cluster: Cluster, prepared: Prepared, place: Place, cron: str) -> tuple[str, Version]:
    """Start a schedule of `prepared`; returns its id and the version that it is pinned to."""
    expression = six_fields(cron)
    version = upload(cluster, prepared)
    experiment = experiment_id(cluster, place.experiment)
    with cluster.errors():
        recurring = cluster.client.create_recurring_run(
            experiment,
            prepared.run_name,
            cron_expression=expression,
            max_concurrency=1,
            no_catchup=True,
            params=prepared.parameters,
            pipeline_id=version.pipeline_id,
            version_id=version.version_id,
            pipeline_root=place.pipeline_root,
            service_account=place.service_account,
        )
    return str(recurring.recurring_run_id), version


def print_schedules(cluster: Cluster, console: Console) -> None:
    """All schedules of the namespace and the versions that they are pinned to."""
    schedules: list[Any] = []
    with cluster.errors():
        token = ""
        while True:
            page = cluster.client.list_recurring_runs(page_token=token, page_size=PAGE, namespace=cluster.namespace)
            schedules += page.recurring_runs or []
            token = page.next_page_token
            if not token:
                break
        names = {id(schedule): _version_name(cluster, schedule) for schedule in schedules}
    if not schedules:
        console.print("There are no schedules: `python -m pipelines schedule create --cron ...` makes one.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("schedule", "name", "state", "cron", "version", "created (UTC)"):
        table.add_column(heading, no_wrap=True)
    for schedule in schedules:
        created: datetime | None = schedule.created_at
        table.add_row(
            schedule.recurring_run_id,
            schedule.display_name,
            "paused" if schedule.status == "DISABLED" or schedule.mode == "DISABLE" else "active",
            schedule.trigger.cron_schedule.cron if schedule.trigger and schedule.trigger.cron_schedule else "",
            names[id(schedule)],
            f"{created:%Y-%m-%d %H:%M:%S}" if created else "",
        )
    console.print(table)


def pause(cluster: Cluster, schedule_id: str) -> None:
    """Stop starting runs; those that run go on. Raises NotFoundError."""
    with cluster.errors(f"schedule {schedule_id}"):
        cluster.client.disable_recurring_run(schedule_id)


def resume(cluster: Cluster, schedule_id: str) -> None:
    """Start runs again, from the next time on. Raises NotFoundError."""
    with cluster.errors(f"schedule {schedule_id}"):
        cluster.client.enable_recurring_run(schedule_id)


def delete(cluster: Cluster, schedule_id: str) -> None:
    """Forget the schedule; its runs stay. Raises NotFoundError."""
    with cluster.errors(f"schedule {schedule_id}"):
        cluster.client.delete_recurring_run(schedule_id)


def _version_name(cluster: Cluster, schedule: Any) -> str:
    reference = schedule.pipeline_version_reference
    if not reference:
        return ""
    version = cluster.client.get_pipeline_version(reference.pipeline_id, reference.pipeline_version_id)
    return str(version.display_name)
