"""preflight: everything that would fail a run later, found in a minute on a CPU and reported together, one line each.

First task of the DAG on a cluster: settings of all steps as they will arrive, data, secrets, images, quota, disk. A
submission checks settings and data too, but a run may also start from Kubeflow's page or by a schedule.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from unifl.cluster.quota import Demand, cluster_problems
from unifl.core.errors import NotFoundError, SettingsError, StorageError, UniflError
from unifl.core.settings import StepSettings, validated
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition, step_definition
from unifl.steps import step_of


class PreflightSettings(StepSettings):
    """What to check; a submission fills in what placement and compiled pipeline say."""

    steps: dict[str, str] = Field(default={}, description="Task -> its settings as JSON; the component fills it in.")
    data: bool = Field(
        default=True, description="Find the data of resolve_data, compare its digests and see that it can be fetched."
    )
    readable: tuple[str, ...] = Field(
        default=(), description="Addresses (gs://...) that the run takes; each is to be there and to be read."
    )
    images: dict[str, str] = Field(default={}, description="Image -> a task that runs it; each is to have a digest.")
    allow_tags: bool = Field(
        default=False, description="Let images without a digest pass (a cluster on one's own machine, docs/kind.md)."
    )
    secrets: dict[str, str] = Field(
        default={}, description="Environment variable -> SECRET/KEY that it comes from; each is to have a value."
    )
    namespace: str | None = Field(default=None, description="Namespace of the pods; none asks no Kubernetes.")
    demands: tuple[Demand, ...] = Field(default=(), description="What each task asks of the namespace's quota.")
    free_gib: dict[str, float] = Field(
        default={}, description="Folder to write to -> free space that it is to have, in GiB."
    )


STEP = StepDefinition(
    name="preflight",
    summary="Check settings, data, secrets, images, quota and disk of a run before its first GPU starts.",
    inputs={},
    outputs={"report": "JSON: passed, every problem with its remedy, and remarks"},
    settings=PreflightSettings,
)


def run(inputs: Paths, outputs: Paths, settings: PreflightSettings, context: StepContext) -> Metrics:
    """Check everything and write the report.

    Raises (report kept) the error of the only problem, or one that counts them; every problem has a line of its own in
    the log. Several of one kind keep that kind's exit code; problems of several kinds end with SettingsError's.
    """
    from unifl.core.files import write_json_atomic

    found, remarks = problems(settings)
    for line in (*map(str, found), *(f"remark: {remark}" for remark in remarks)):
        print(line, file=sys.stderr, flush=True)
    report = {"passed": not found, "problems": [str(problem) for problem in found], "remarks": remarks}
    write_json_atomic(outputs["report"], report)
    if len(found) == 1:
        found[0].keep_outputs = True
        raise found[0]
    if found:
        kinds = {type(problem) for problem in found}
        kind = kinds.pop() if len(kinds) == 1 else SettingsError
        raise kind(
            f"{len(found)} things are wrong, the first: {found[0].message}",
            remedy="the lines above, and this step's report, name all of them",
            keep_outputs=True,
        )
    return {"steps": len(settings.steps), "images": len(settings.images), "remarks": len(remarks)}


def problems(settings: PreflightSettings) -> tuple[list[UniflError], list[str]]:
    """All that is wrong, and remarks on what is not wrong but worth knowing."""
    found = _wrong_settings(settings)
    if settings.data and "resolve_data" in settings.steps:
        found += _wrong_data(settings.steps["resolve_data"])
    found += _unreadable(settings.readable)
    found += [
        NotFoundError(
            f"the secret {name} is missing: {variable} is empty",
            remedy=f"kubectl create secret generic {name.replace('/', ' --from-literal=')}=...",
        )
        for variable, name in settings.secrets.items()
        if not os.environ.get(variable, "").strip()
    ]
    if not settings.allow_tags:
        found += [
            SettingsError(
                f"the image {image} of {task} is not pinned by digest",
                remedy="`python -m images push` records the digests; then submit again (or set preflight.allow_tags)",
            )
            for image, task in settings.images.items()
            if "@sha256:" not in image
        ]
    found += _full_disks(settings)
    if settings.namespace is None:
        return found, []
    of_cluster, remarks = cluster_problems(settings.namespace, settings.demands)
    return [*found, *of_cluster], remarks


def _wrong_settings(settings: PreflightSettings) -> list[UniflError]:
    wrong: list[UniflError] = []
    for task, given in settings.steps.items():
        try:
            validated(step_definition(step_of(task)).settings, given, step=step_of(task))
        except SettingsError as error:
            error.step = task
            error.remedy = error.remedy or f"mend {task}_settings among the run's parameters"
            wrong.append(error)
    return wrong


def _wrong_data(given: str) -> list[UniflError]:
    from unifl.data.resolve import missing
    from unifl.steps.resolve_data import ResolveDataSettings

    try:
        data = validated(ResolveDataSettings, given)
    except SettingsError:
        return []  # told with the other settings
    try:
        return list(missing(data.repository, data.revision, data.paths, expected=data.expected, remote=data.remote))
    except UniflError as error:
        return [error]


def _unreadable(addresses: Iterable[str]) -> list[UniflError]:
    from unifl.data.store_bucket import check_readable

    wrong: list[UniflError] = []
    for address in addresses:
        try:
            check_readable(address)
        except UniflError as error:
            wrong.append(error)
    return wrong


def _full_disks(settings: PreflightSettings) -> list[UniflError]:
    full: list[UniflError] = []
    for folder, wanted in settings.free_gib.items():
        if not Path(folder).is_dir():
            full.append(
                StorageError("the folder is not mounted", file=folder, remedy="check the placement's workspace")
            )
            continue
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            full.append(
                StorageError(
                    f"user {os.getuid()} of group {os.getgid()} can't write there: {error.strerror}",
                    file=folder,
                    remedy="give the volume's root to that group by a pod with that fsGroup (docs/gke.md, section 5)",
                )
            )
        free = shutil.disk_usage(folder).free / 2**30
        if free < wanted:
            message = f"only {free:.1f} GiB are free"
            full.append(StorageError(message, file=folder, expected=f"{wanted:g} GiB", remedy="free some space"))
    return full
