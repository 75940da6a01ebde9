"""Submits the DAG to a cluster: everything checked and pinned here first, then one pipeline version and one run.

A version is named by commit and by the digest of the compiled pipeline, and is uploaded only once. The run's parameters
hold all settings, the data's revision and digests, and the digest of the code.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipelines.cluster_client import Cluster
from pipelines.compiling import DEFAULT_PLACEMENT, compiled, normalised, specification
from pipelines.settings import FLOW, TASKS, parameters, require_effect, resolved, task_settings
from unifl.core.errors import RunFailedError, SettingsError
from unifl.core.progress import duration
from unifl.core.settings import StepSettings, validated
from unifl.steps.resolve_data import ResolveDataSettings

EXPERIMENT = "unifl"
ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})
EQUALS = "EQUALS"


@dataclass(frozen=True)
class Place:
    """Where on the cluster a run goes: its experiment, the root of its artifacts, the identity of its pods."""

    experiment: str = EXPERIMENT
    pipeline_root: str | None = None
    service_account: str | None = None


@dataclass(frozen=True)
class Prepared:
    """What is sent: the compiled pipeline and its name, the version's name, the run's name and parameters."""

    pipeline: str
    package: str
    version: str
    run_name: str
    parameters: dict[str, str]


@dataclass(frozen=True)
class Version:
    """A pipeline version on the cluster; `uploaded` is False when it was there before."""

    name: str
    pipeline_id: str
    version_id: str
    uploaded: bool


def prepare(
    cluster: Cluster,
    preset: str,
    overrides: Iterable[str],
    name: str | None,
    allow_dirty: bool,
    *,
    placement: str = DEFAULT_PLACEMENT,
    pipeline: str = "feedback_learning",
    inputs: Iterable[str] = (),
) -> Prepared:
    """Check and pin everything that a run is made of; nothing is sent.

    Args:
        cluster: where it will run; not asked.
        preset, overrides: the settings of all steps.
        name: the run's name; by default preset and time.
        allow_dirty: whether the checkout may differ from its commit.
        placement: name or file of the table that says where tasks run.
        pipeline: one of `pipelines.partial.PIPELINES`.
        inputs: NAME=ADDRESS for what steps that are not part of the pipeline would have given.

    Raises SettingsError (all mistakes of the settings at once; a wrong table; inputs that are not the pipeline's; a
    dirty work tree; data that a cluster can't fetch) or DataContractError (data that isn't there).
    """
    from pipelines.feedback_learning import feedback_learning
    from pipelines.partial import PARTS, given_inputs, part, pipeline_name
    from pipelines.placement import cluster_placement
    from pipelines.preflight import LINKED, with_facts

    overrides, table = tuple(overrides), cluster_placement(placement)
    settings = task_settings(preset, overrides)
    addresses = given_inputs(pipeline, inputs)
    run = PARTS.get(pipeline, tuple(TASKS))
    require_effect(overrides, run)
    commit = source_commit(allow_dirty)
    settings = {task: settings[task] for task in FLOW if task in run or task not in TASKS}
    settings = resolved(settings)
    if "resolve_data" in run:
        settings = fetchable(settings)
    built = part(pipeline, table) if pipeline in PARTS else feedback_learning(table)
    spec = specification(built)
    package = compiled(built, spec)
    settings = with_facts(settings, spec, table, cluster.namespace, cluster.link(LINKED), addresses.values())
    version = f"{commit}-{sha256(normalised(package).encode()).hexdigest()[:12]}"
    given = {**parameters(settings), **addresses}
    return Prepared(pipeline_name(pipeline), package, version, name or run_name(Path(preset).stem), given)


def run_name(of: str) -> str:
    return f"{of}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def source_commit(allow_dirty: bool) -> str:
    """The checkout's commit, 12 digits, with `-dirty` when files differ from it.

    Raises SettingsError outside a checkout, and for a dirty work tree unless that is allowed.
    """
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain").splitlines()
    if not changed:
        return commit
    if not allow_dirty:
        raise SettingsError(
            f"the work tree is dirty: {len(changed)} files differ from commit {commit}, the first is {changed[0][3:]}",
            remedy="commit them, or give --allow-dirty (the run can't be traced to a commit then)",
        )
    return f"{commit}-dirty"


def fetchable(settings: Mapping[str, StepSettings]) -> dict[str, StepSettings]:
    """`settings` with the data's repository as a pod can reach it: a checkout becomes the address it was cloned from.

    Raises SettingsError when there is no such address, or when it lacks the data's commit.
    """
    data = validated(ResolveDataSettings, settings["resolve_data"])
    if not Path(data.repository).is_dir():
        return dict(settings)
    if data.revision is None:
        raise SettingsError(
            "the data's pointers are not committed, so a cluster can't fetch them",
            step="resolve_data",
            remedy="commit and push them, or name a revision",
        )
    checkout = ["-C", data.repository]
    origin = _git(*checkout, "remote", "get-url", "origin", required=False)
    if not origin or Path(origin).exists():
        raise SettingsError(
            f"the data's repository is a folder of this machine ({data.repository}), which a cluster can't fetch",
            step="resolve_data",
            remedy="--set resolve_data.repository=ADDRESS, or give the checkout an origin",
        )
    if not _git(*checkout, "branch", "--remotes", "--contains", data.revision, required=False):
        raise SettingsError(
            f"the data's commit {data.revision[:12]} is not pushed to {origin}",
            step="resolve_data",
            remedy="git push, or name a pushed revision with --set resolve_data.revision=REVISION",
        )
    return {**settings, "resolve_data": data.model_copy(update={"repository": origin})}


def upload(cluster: Cluster, prepared: Prepared) -> Version:
    """The pipeline version of `prepared` on the cluster, uploaded unless it is there."""
    import kfp_server_api

    client = cluster.client
    with cluster.errors():
        found = client.list_pipelines(filter=named(prepared.pipeline), namespace=cluster.namespace).pipelines
        if found:
            pipeline = found[0]
        else:
            pipeline = client.pipelines.pipeline_service_create_pipeline(
                pipeline=kfp_server_api.V2beta1Pipeline(
                    name=prepared.pipeline, display_name=prepared.pipeline, namespace=cluster.namespace
                )
            )
        versions = client.list_pipeline_versions(pipeline.pipeline_id, filter=named(prepared.version))
        if versions.pipeline_versions:
            version = versions.pipeline_versions[0]
        else:
            with tempfile.TemporaryDirectory() as scratch:
                package = Path(scratch, "pipeline.yaml")
                package.write_text(prepared.package, encoding="utf-8")
                version = client.upload_pipeline_version(
                    str(package), prepared.version, pipeline_id=pipeline.pipeline_id
                )
    uploaded = not versions.pipeline_versions
    return Version(prepared.version, pipeline.pipeline_id, version.pipeline_version_id, uploaded)


def experiment_id(cluster: Cluster, name: str) -> str:
    """The experiment `name`, made when it isn't there."""
    with cluster.errors():
        return str(cluster.client.create_experiment(name, namespace=cluster.namespace).experiment_id)


def submit(cluster: Cluster, prepared: Prepared, place: Place) -> tuple[str, Version]:
    """Start a run of `prepared`; returns its id and the version that it runs."""
    version = upload(cluster, prepared)
    experiment = experiment_id(cluster, place.experiment)
    with cluster.errors():
        run = cluster.client.run_pipeline(
            experiment,
            prepared.run_name,
            pipeline_id=version.pipeline_id,
            version_id=version.version_id,
            params=prepared.parameters,
            pipeline_root=place.pipeline_root,
            service_account=place.service_account,
        )
    return str(run.run_id), version


def follow(cluster: Cluster, run_id: str, poll_seconds: float) -> None:
    """Wait for the end of a run with a progress line: redrawn on a terminal, else a line whenever something changes.

    Raises RunFailedError when the run does not succeed. An interruption leaves the run alone, and says so.
    """
    try:
        _follow(cluster, run_id, poll_seconds)
    except KeyboardInterrupt:
        print(
            f"\nno longer followed; run {run_id} goes on; remedy: `python -m pipelines status {run_id}` shows it, "
            f"`python -m pipelines cancel {run_id}` ends it",
            file=sys.stderr,
        )
        raise


def _follow(cluster: Cluster, run_id: str, poll_seconds: float) -> None:
    from pipelines.status import run_status

    began, shown, terminal = time.monotonic(), "", sys.stderr.isatty()
    while True:
        status = run_status(cluster, run_id)
        line = status.progress()
        if terminal:
            print(f"\r\x1b[K{line}, {duration(time.monotonic() - began)}", end="", file=sys.stderr, flush=True)
        elif line != shown:
            print(f"{line}, after {duration(time.monotonic() - began)}", file=sys.stderr, flush=True)
            shown = line
        if status.state in ENDED:
            break
        time.sleep(poll_seconds)
    if terminal:
        print(file=sys.stderr)
    if status.state != "SUCCEEDED":
        failed = [step.name for step in status.steps if step.state == "FAILED"]
        raise RunFailedError(
            f"run {run_id} ended {status.state}" + (f" in {', '.join(failed)}" if failed else ""),
            remedy=f"python -m pipelines logs {run_id} {failed[0] if failed else 'STEP'}",
        )


def named(display_name: str) -> str:
    """The server's filter for one display name."""
    return json.dumps(
        {"predicates": [{"operation": EQUALS, "key": "display_name", "stringValue": display_name}]},
    )


def _git(*arguments: str, required: bool = True) -> str:
    answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        if required:
            raise SettingsError(
                f"git can't read this checkout: {answer.stderr.strip()}",
                file=Path.cwd(),
                remedy="submit from a checkout with a commit",
            )
        return ""
    return answer.stdout.rstrip()


def submitted_lines(cluster: Cluster, run_id: str, about: Sequence[str]) -> list[str]:
    """What a person sees after a submission."""
    link: Any = cluster.link(run_id)
    return [*about, f"run {run_id}", *([link] if link else [])]
