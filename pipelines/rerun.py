"""Runs a step of a past run again, and all that depends on it; every other step's artifacts are taken as they are.

The pipeline is compiled for this one run: importer nodes stand for the steps that are not run again. Settings and data
are those of the past run, but for what is overridden; the code is that of this checkout.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cluster_client import Cluster
from pipelines.compiling import DEFAULT_PLACEMENT, compiled, dag_tasks, specification
from pipelines.dag import Addresses
from pipelines.past_artifacts import AddressFile, MetadataStore, PastArtifacts, by_dag_names
from pipelines.settings import FLOW, TASKS, overridden, parameters, require_effect, tasks_named
from pipelines.status import compiled_pipeline
from pipelines.submission import Place, experiment_id, run_name, source_commit
from unifl.core.errors import NotFoundError, SettingsError

Needed = dict[str, set[str]]
"""Step that is not run again -> the outputs of it that others take."""


@dataclass(frozen=True)
class Rerun:
    """What is sent, and what of the past run it takes."""

    past_run: str
    package: str
    run_name: str
    parameters: dict[str, str]
    again: tuple[str, ...]
    imported: dict[str, dict[str, str]]


def prepare_rerun(
    cluster: Cluster,
    run_id: str,
    first: str,
    overrides: Iterable[str],
    artifacts: Path | None,
    name: str | None,
    allow_dirty: bool,
    *,
    placement: str = DEFAULT_PLACEMENT,
    only: bool = False,
) -> Rerun:
    """Find settings and artifacts of the past run and compile what is left to do; nothing is sent.

    Args:
        cluster: where the past run is.
        run_id: the past run.
        first: the step from which on to run (a task of the DAG, or a step that several tasks run).
        overrides: settings of the steps that run again.
        artifacts: a file with addresses, for a server that does not tell them.
        name: the new run's name.
        allow_dirty: whether the checkout may differ from its commit.
        placement: name or file of the table that says where tasks run; the past run's does not count.
        only: whether what depends on the step stays as it is.

    Raises SettingsError for wrong settings or those of a step that is not run again, NotFoundError for an unknown run
    and for artifacts without an address.
    """
    from pipelines.feedback_learning import feedback_learning
    from pipelines.placement import cluster_placement
    from pipelines.preflight import LINKED, with_facts

    overrides, table = tuple(overrides), cluster_placement(placement)
    chosen = tasks_named(first)
    source_commit(allow_dirty)
    again, needed = plan(specification(feedback_learning(table)), chosen, only=only)
    require_effect(overrides, again)
    run = cluster.run(run_id)
    settings = overridden(_past_settings(run), overrides)
    sources: list[PastArtifacts] = [AddressFile(artifacts)] if artifacts else [MetadataStore(cluster)]
    imported = past_addresses(sources[0], run_id, compiled_pipeline(cluster, run)[0], needed, artifacts)
    built = feedback_learning(table, without(again, imported))
    spec = specification(built)
    package = compiled(built, spec)
    taken = [address for outputs in imported.values() for address in outputs.values()]
    settings = with_facts(settings, spec, table, cluster.namespace, cluster.link(LINKED), taken)
    return Rerun(
        run_id,
        package,
        name or run_name(f"rerun-{first.replace('@', '_')}"),
        parameters(settings),
        tuple(again),
        imported,
    )


def plan(spec: Mapping[str, Any], first: Iterable[str], *, only: bool = False) -> tuple[list[str], Needed]:
    """The steps that run again (`first` and, unless `only` it, what depends on it, in the order of the flow), and what
    they take from the others, by the compiled pipeline `spec`."""
    tasks = dag_tasks(spec)
    named = {key: task["taskInfo"]["name"] for key, task in tasks.items()}
    upstream = {named[key]: {named[other] for other in task.get("dependentTasks", ())} for key, task in tasks.items()}
    again = set(first)
    while not only and (more := {step for step, others in upstream.items() if others & again} - again):
        again |= more
    return [step for step in TASKS if step in again], inputs_from_others(spec, again)


def inputs_from_others(spec: Mapping[str, Any], run: set[str]) -> Needed:
    """What the steps `run` take from all others, by the compiled pipeline `spec`."""
    tasks = dag_tasks(spec)
    named = {key: task["taskInfo"]["name"] for key, task in tasks.items()}
    needed: Needed = {}
    for key, task in tasks.items():
        if named[key] not in run:
            continue
        for source in task.get("inputs", {}).get("artifacts", {}).values():
            producer = named[source["taskOutputArtifact"]["producerTask"]]
            if producer not in run:
                needed.setdefault(producer, set()).add(source["taskOutputArtifact"]["outputArtifactKey"])
    return needed


def past_addresses(
    source: PastArtifacts, run_id: str, spec: Mapping[str, Any], needed: Needed, file: Path | None
) -> dict[str, dict[str, str]]:
    """The addresses of everything in `needed`. Raises NotFoundError that names all that are missing."""
    known = by_dag_names(source.outputs(run_id), {} if file else spec)
    missing = sorted(
        f"{step}.{output}" for step, outputs in needed.items() for output in outputs - known.get(step, {}).keys()
    )
    if missing:
        raise NotFoundError(
            f"run {run_id} has no artifact {', '.join(missing)}",
            file=file,
            remedy="wait until these steps have finished, rerun from an earlier step, or name a file with --artifacts",
        )
    return {step: {output: known[step][output] for output in sorted(outputs)} for step, outputs in needed.items()}


def without(again: Iterable[str], imported: Addresses) -> Addresses:
    """What the pipeline is built with: an entry for every step that is not run again."""
    run = set(again)
    return {step: imported.get(step, {}) for step in TASKS if step not in run}


def submit_rerun(cluster: Cluster, rerun: Rerun, place: Place, package: Path) -> str:
    """Start the run and return its id. `package` is where the compiled pipeline is written to."""
    package.write_text(rerun.package, encoding="utf-8")
    experiment = experiment_id(cluster, place.experiment)
    with cluster.errors():
        run = cluster.client.run_pipeline(
            experiment,
            rerun.run_name,
            pipeline_package_path=str(package),
            params=rerun.parameters,
            pipeline_root=place.pipeline_root,
            service_account=place.service_account,
        )
    return str(run.run_id)


def _past_settings(run: Any) -> dict[str, str]:
    given = (run.runtime_config and run.runtime_config.parameters) or {}
    missing = [task for task in TASKS if f"{task}_settings" not in given]
    if missing:
        raise SettingsError(
            f"run {run.run_id} is no run of this pipeline: it has no settings of {', '.join(missing)}",
            remedy="name a run that `python -m pipelines submit` started",
        )
    return {task: given[f"{task}_settings"] for task in FLOW if f"{task}_settings" in given}
