"""What a submission tells preflight and the run summary: facts of compiled pipeline, placement and cluster.

They are parameters of the run, so the same compiled pipeline serves every preset.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.compiling import dag_tasks
from pipelines.placement import WORK_PATH, Placement
from unifl.cluster.parallel import parallel_of
from unifl.cluster.quota import Demand
from unifl.cluster.webhook import URL_VARIABLE
from unifl.core.settings import StepSettings, validated
from unifl.steps.preflight import PreflightSettings
from unifl.steps.run_summary import RunSummarySettings

LINKED = "{run_id}"


def with_facts(
    settings: Mapping[str, StepSettings],
    spec: Mapping[str, Any],
    placement: Placement,
    namespace: str | None,
    link: str | None,
    taken: Iterable[str] = (),
) -> dict[str, StepSettings]:
    """`settings` with those of preflight and run_summary complete.

    `spec` is the compiled pipeline, `namespace` where the run goes if it is not the placement's, `link` where a browser
    shows a run, with LINKED for its id. `taken` are the addresses of artifacts that the run takes from elsewhere: those
    in buckets of Google Cloud are to be read, of another kind of place preflight knows nothing.
    """
    tasks = {task["taskInfo"]["name"]: image for task in dag_tasks(spec).values() if (image := _image(spec, task))}
    webhook, workspace = placement.webhook, placement.workspace
    facts = {
        "images": {image: task for task, image in reversed(tasks.items())},
        "namespace": namespace or placement.namespace,
        "demands": tuple(demand(task, placement) for task in tasks),
        "secrets": {URL_VARIABLE: f"{webhook.secret}/{webhook.key}"} if webhook and webhook.required else {},
        "readable": tuple(dict.fromkeys(address for address in taken if address.startswith("gs://"))),
        "free_gib": {WORK_PATH: workspace.free_gib} if workspace else {},
    }
    told = {"pipeline": spec["pipelineInfo"]["name"], "link": link or ""}
    return {
        **settings,
        "preflight": validated(PreflightSettings, settings.get("preflight")).model_copy(update=facts),
        "run_summary": validated(RunSummarySettings, settings.get("run_summary")).model_copy(update=told),
    }


def demand(task: str, placement: Placement) -> Demand:
    """What a task asks of the namespace's quota: its pod, or the nodes of the TrainJob that it starts."""
    needs = placement.needs(task)
    parallel = parallel_of(needs.environment)
    if parallel.nodes > 1 or parallel.train_job:
        return Demand(
            task=task,
            gpus=parallel.processes if parallel.gpu else 0,
            cpu=str(parallel.cpu_per_process * parallel.processes),
            memory=f"{parallel.memory_gib_per_process * parallel.processes}Gi",
            train_job=True,
        )
    return Demand(task=task, gpus=needs.gpus, cpu=needs.cpu, memory=needs.memory)


def _image(spec: Mapping[str, Any], task: Mapping[str, Any]) -> str | None:
    executor = spec["components"][task["componentRef"]["name"]].get("executorLabel", "")
    image = spec["deploymentSpec"]["executors"].get(executor, {}).get("container", {}).get("image")
    return None if image is None else str(image)
