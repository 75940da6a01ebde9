"""Where the tasks of a DAG run, as data apart from what they do: machines, accelerators, time, retries and caching.

One table a cluster, in `pipelines/placements/NAME.yaml` or a file of your own: pools of machines, and which task runs
in which. `THIS_MACHINE` is for `kfp.local`, which has no pools and must show a failure at once. Kueue queues TrainJobs,
not the pods of Kubeflow Pipelines, so no queue stands here.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from kfp import dsl
from kfp.dsl import structures
from pydantic import ByteSize, Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pipelines.accelerator_cost import ACCELERATOR_LABELS, read_prices
from pipelines.settings import FLOW, GIVEN_MODEL_TASKS, TASKS
from unifl.cluster.webhook import URL_VARIABLE
from unifl.core.errors import SettingsError
from unifl.core.notes import NOTES_VARIABLE, RUN_VARIABLE, TASK_VARIABLE
from unifl.core.settings import StepSettings, did_you_mean, mistakes
from unifl.core.step import CHECKPOINTS_VARIABLE

PLACEMENTS = Path(__file__).parent / "placements"

GPU_RESOURCE = "nvidia.com/gpu"
GKE_ACCELERATOR = ACCELERATOR_LABELS[0]
CAPACITY_LABELS = {"spot": "cloud.google.com/gke-spot", "flex-start": "cloud.google.com/gke-flex-start"}
"""What GKE calls the nodes of a pool that is not on demand. The spot label is the key of the taint, too (docs/gke.md);
GPU taints need no toleration here, because GKE gives it to every pod that asks for a GPU."""
FLEX_START_HOURS = 7 * 24
"""How long GKE keeps a flex-start node."""

WORK_PATH, SCRATCH_PATH, SHARED_MEMORY_PATH = "/unifl", "/tmp", "/dev/shm"
"""As in the training runtime of manifests/base."""

RUN_LABEL = "metadata.labels['pipeline/runid']"
"""Where Kubeflow Pipelines writes the run's id on each pod."""

ALWAYS_RUN = frozenset({"preflight", "run_summary"})
"""Tasks that look at the cluster as it is now, so none of them may come from the cache."""

_QUANTITY = r"^[0-9]+([KMGTPE]i?)?$"


class Toleration(StepSettings):
    """A taint that the pods of a pool accept, in Kubernetes' words."""

    key: str = Field(min_length=1, description="Key of the taint.")
    operator: Literal["Equal", "Exists"] = Field("Exists", description="Whether the value counts.")
    value: str | None = Field(None, description="Value of the taint, for Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field("NoSchedule", description="Its effect.")


class Retries(StepSettings):
    """How often a failed task starts again, from its last checkpoint, and how long it waits before."""

    times: int = Field(0, ge=0, le=20, description="Attempts after the first.")
    first_wait_seconds: int = Field(30, ge=0, description="Wait before the second attempt.")
    factor: float = Field(2.0, ge=1, description="Every wait is this many times the one before.")
    longest_wait_seconds: int = Field(600, ge=0, description="No wait is longer.")


class Pool(StepSettings):
    """Machines of one kind, and what one task takes of a machine. Quantities are spelled as in Kubernetes.

    A priority class is not among them: Kubeflow Pipelines 2.17 has no field for it, so it could not have an effect.
    """

    cpu: str = Field("", pattern=r"^$|^([0-9]*[.])?[0-9]+m?$", description="CPU cores; empty for no request.")
    memory: str = Field("", pattern=rf"^$|{_QUANTITY}", description="Memory; empty for no request.")
    gpu: str | None = Field(None, description="Kind of GPU, as GKE and accelerator_prices.yaml name it.")
    gpus: int = Field(0, ge=0, le=16, description="GPUs of one task, on one machine.")
    capacity: Literal["on-demand", "spot", "flex-start"] = Field(
        "on-demand", description="How GKE gives the machines; adds the node selector and toleration of that."
    )
    node_selector: dict[str, str] = Field({}, description="More labels that a node must have.")
    tolerations: list[Toleration] = Field([], description="More taints that the pods accept.")
    avoid: list[str] = Field([], description="Labels that a node must not have: keeps CPU steps off GPU nodes.")
    shared_memory: str | None = Field(
        None, pattern=_QUANTITY, description="Size of /dev/shm, for data loaders and NCCL; counts as memory."
    )
    ephemeral_storage: str | None = Field(
        None, pattern=_QUANTITY, description="Most that a task may write to /tmp on the node's disk."
    )
    claim: str | None = Field(
        None, description="Volume claim for checkpoints, at /unifl: with it a retry goes on where the task was lost."
    )
    environment: dict[str, str] = Field({}, description="Variables of the tasks. No secrets: pipelines show them.")
    timeout_hours: float | None = Field(None, gt=0, description="An attempt that takes longer is ended.")
    retries: Retries = Field(Retries(), description="What happens after a failure.")

    @field_validator("gpu")
    @classmethod
    def _known(cls, kind: str | None) -> str | None:
        known = read_prices(None).per_hour
        if kind is not None and kind not in known:
            raise PydanticCustomError(
                "gpu", "this is no GPU of pipelines/accelerator_prices.yaml{near}", {"near": did_you_mean(kind, known)}
            )
        return kind

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = self.gpu is not None or any(label in self.node_selector for label in ACCELERATOR_LABELS)
        if named and not self.gpus:
            raise PydanticCustomError("gpus", "a pool with a kind of GPU needs gpus: 1 or more")
        if self.gpus and not named:
            raise PydanticCustomError("gpus", "gpus without gpu: which kind?")
        if self.shared_memory and self.memory and _bytes(self.shared_memory) > _bytes(self.memory):
            raise PydanticCustomError("shared_memory", "shared_memory counts as memory and can't be more than that")
        if both := sorted(set(self.avoid) & set(self.labels())):
            raise PydanticCustomError("avoid", "{both} is selected and avoided", {"both": ", ".join(both)})
        if self.capacity == "flex-start" and not (self.timeout_hours and self.timeout_hours <= FLEX_START_HOURS):
            raise PydanticCustomError("timeout", "a flex-start node lives for 7 days: give timeout_hours, 168 at most")
        return self

    def labels(self) -> dict[str, str]:
        """The labels that a node must have."""
        labels = {GKE_ACCELERATOR: self.gpu} if self.gpu else {}
        if label := CAPACITY_LABELS.get(self.capacity):
            labels[label] = "true"
        return {**labels, **self.node_selector}

    def tolerated(self) -> list[Toleration]:
        """The taints that the pods accept."""
        if self.capacity != "spot":
            return self.tolerations
        return [Toleration(key=CAPACITY_LABELS["spot"], operator="Equal", value="true"), *self.tolerations]


class TaskPlace(StepSettings):
    """Where one task, or all tasks of a step, run; what is given here goes before what the pool says."""

    pool: str | None = Field(None, description="A name of `pools`; the default pool without one.")
    cached: bool = Field(True, description="Whether an unchanged task may be taken from the cache.")
    shares: bool = Field(True, description="Whether it mounts the workspace; a publishing task needs none of it.")
    cpu: str | None = Field(None, description="As in a pool.")
    memory: str | None = Field(None, description="As in a pool.")
    gpus: int | None = Field(None, description="As in a pool.")
    environment: dict[str, str] | None = Field(None, description="As in a pool.")
    timeout_hours: float | None = Field(None, description="As in a pool.")
    retries: Retries | None = Field(None, description="As in a pool.")


class Workspace(StepSettings):
    """The volume that all tasks share, at /unifl: checkpoints, and the notes that the run's summary is made of."""

    claim: str = Field("unifl-work", min_length=1, description="Volume claim, as in manifests/base/storage.yaml.")
    free_gib: float = Field(20.0, ge=0, description="Free space that preflight asks for, in GiB.")


class Webhook(StepSettings):
    """The secret with the address that is told of a run's end; no compiled pipeline holds its value."""

    secret: str = Field("unifl-webhook", min_length=1, description="Name of the Secret.")
    key: str = Field("url", min_length=1, description="Key in it.")
    required: bool = Field(False, description="Whether preflight refuses a run without it.")


class Placement(StepSettings):
    """The table: pools, and the tasks that run in another one than the default."""

    description: str = Field("", description="One line for a reader.")
    on_cluster: bool = Field(
        True, description="Kubernetes, where preflight goes before the DAG and its summary after it; else kfp.local."
    )
    namespace: str = Field("unifl", min_length=1, description="Namespace of the pods, which preflight checks.")
    workspace: Workspace | None = Field(None, description="The volume of all tasks; {} for that of manifests/base.")
    webhook: Webhook | None = Field(None, description="Who is told of a run's end; {} for the secret of docs/gke.md.")
    label_pods: bool = Field(False, description="Give each pod its task's name as label `unifl/step`; alerts go by it.")
    default: Pool = Field(Pool(), description="Where a task runs that `tasks` does not name.")
    pools: dict[str, Pool] = Field({}, description="Other pools, by name.")
    tasks: dict[str, TaskPlace] = Field({}, description="Task, or step that several tasks run -> its place.")

    @field_validator("tasks")
    @classmethod
    def _tasks_exist(cls, tasks: dict[str, TaskPlace]) -> dict[str, TaskPlace]:
        known = task_names()
        unknown = [f"{name} is no task{did_you_mean(name, known)}" for name in tasks if name not in known]
        if unknown:
            raise PydanticCustomError("tasks", "{unknown}", {"unknown": ", ".join(unknown)})
        return tasks

    @model_validator(mode="after")
    def _places_exist(self) -> Self:
        wrong = []
        for name, place in self.tasks.items():
            if place.pool is not None and place.pool not in self.pools:
                wrong.append(f"tasks.{name}.pool: there is no pool {place.pool}{did_you_mean(place.pool, self.pools)}")
                continue
            try:
                self._pool(place)
            except ValidationError as error:
                wrong += [f"tasks.{name}.{mistake}" for mistake in mistakes(error, Pool)]
        if self.workspace:
            wrong += [
                f"{where}.claim: the workspace is another volume, {self.workspace.claim}"
                for where, pool in [("default", self.default), *((f"pools.{k}", v) for k, v in self.pools.items())]
                if pool.claim not in (None, self.workspace.claim)
            ]
        if wrong:
            raise PydanticCustomError("places", "{wrong}", {"wrong": "; ".join(wrong)})
        return self

    def needs(self, task: str) -> Pool:
        """What `task` takes: its own line of the table, else its step's, else the default pool."""
        return self._pool(self._place(task))

    def cached(self, task: str) -> bool:
        """Whether `task` may be taken from the cache."""
        return task not in ALWAYS_RUN and self._place(task).cached

    def shared(self, task: str) -> Workspace | None:
        """The volume that `task` shares with the others."""
        return self.workspace if self._place(task).shares else None

    def _place(self, task: str) -> TaskPlace:
        return self.tasks.get(task) or self.tasks.get(TASKS.get(task, task)) or TaskPlace()

    def _pool(self, place: TaskPlace) -> Pool:
        pool = self.default if place.pool is None else self.pools[place.pool]
        own = place.model_dump(exclude={"pool", "cached", "shares"}, exclude_none=True)
        return Pool.model_validate({**pool.model_dump(), **own}) if own else pool


def task_names() -> list[str]:
    """What `tasks` of a placement may name: tasks of all pipelines, and steps that several tasks run."""
    return list(dict.fromkeys([*FLOW, *FLOW.values(), *GIVEN_MODEL_TASKS, "publish"]))


THIS_MACHINE = Placement(on_cluster=False)


def placements() -> dict[str, Path]:
    """The placements that come with the project: name -> file."""
    return {file.stem: file for file in sorted(PLACEMENTS.glob("*.yaml"))}


@cache
def read_placement(name: str) -> Placement:
    """The placement called `name`, or in the file `name`. Raises one SettingsError that names everything wrong."""
    path, known = Path(name), placements()
    is_file = path.suffix in {".yaml", ".yml"} or len(path.parts) > 1
    if not is_file and name not in known:
        raise SettingsError(
            f"no placement is called {name!r}{did_you_mean(name, known)}",
            expected=f"one of {', '.join(known)}, or a path to a .yaml file",
        )
    file = path if is_file else known[name]
    try:
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"the placement can't be read: {error}", file=file) from error
    if not isinstance(content, Mapping):
        raise SettingsError("the placement is not a mapping", file=file, expected="default, pools, tasks")
    try:
        return Placement.model_validate(content)
    except ValidationError as error:
        raise SettingsError(
            f"the placement is wrong: {'; '.join(mistakes(error, Placement))}",
            file=file,
            remedy=f"the tables in {PLACEMENTS.relative_to(PLACEMENTS.parents[1])} are examples of every key",
        ) from error


def cluster_placement(name: str) -> Placement:
    """`read_placement` for a cluster. Raises SettingsError for a table that is not for one."""
    placement = read_placement(name)
    if not placement.on_cluster:
        raise SettingsError(
            f"the placement {name} is for this machine", remedy="take another one, or `python -m pipelines run`"
        )
    return placement


def place(task: dsl.PipelineTask, name: str, placement: Placement) -> None:
    """Give `task` its name in the DAG and what `placement` says about it."""
    needs = placement.needs(name)
    task.set_display_name(name)
    task.set_caching_options(enable_caching=placement.cached(name))
    # Every call of a method that touches the container reads the source of all its callers, half of the time that
    # compiling took; so its fields are written as those methods write them. `Pool` has checked the quantities.
    if needs.cpu or needs.memory or needs.gpus:
        task.container_spec.resources = structures.ResourceSpec(
            cpu_request=needs.cpu or None,
            cpu_limit=needs.cpu or None,
            memory_request=needs.memory or None,
            memory_limit=needs.memory or None,
            accelerator_type=GPU_RESOURCE if needs.gpus else None,
            accelerator_count=str(needs.gpus) if needs.gpus else None,
        )
    if needs.retries.times:
        task.set_retry(
            needs.retries.times,
            backoff_duration=f"{needs.retries.first_wait_seconds}s",
            backoff_factor=needs.retries.factor,
            backoff_max_duration=f"{needs.retries.longest_wait_seconds}s",
        )
    if variables := {**needs.environment, **_own_variables(name, needs, placement)}:
        task.container_spec.env = variables
    if placement.on_cluster:
        _place_pod(task, name, needs, placement)


def _own_variables(name: str, needs: Pool, placement: Placement) -> dict[str, str]:
    """What a task is told about itself and the volume that it shares; none on this machine."""
    if not placement.on_cluster:
        return {}
    variables = {TASK_VARIABLE: name}
    # Preflight is to tell of a volume that can't be written, so it must not stand on it.
    if name != "preflight" and _claim(name, needs, placement):
        variables[CHECKPOINTS_VARIABLE] = f"{WORK_PATH}/checkpoints"
    if placement.shared(name):
        variables[NOTES_VARIABLE] = f"{WORK_PATH}/notes"
    return variables


def _claim(name: str, needs: Pool, placement: Placement) -> str | None:
    workspace = placement.shared(name)
    return needs.claim or (workspace.claim if workspace else None)


def _place_pod(task: dsl.PipelineTask, name: str, needs: Pool, placement: Placement) -> None:
    """What has no word in a pipeline but only in Kubernetes."""
    from kfp import kubernetes

    if placement.label_pods:
        kubernetes.add_pod_label(task, "unifl/step", name)
    kubernetes.use_field_path_as_env(task, RUN_VARIABLE, RUN_LABEL)
    for key, value in needs.labels().items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in needs.tolerated():
        kubernetes.add_toleration(task, **toleration.model_dump(exclude_none=True))
    if needs.avoid:
        kubernetes.add_node_affinity(
            task, match_expressions=[{"key": key, "operator": "DoesNotExist"} for key in needs.avoid]
        )
    if needs.shared_memory:
        kubernetes.empty_dir_mount(
            task, "shared-memory", SHARED_MEMORY_PATH, medium="Memory", size_limit=needs.shared_memory
        )
    if needs.ephemeral_storage:
        kubernetes.empty_dir_mount(task, "scratch", SCRATCH_PATH, size_limit=needs.ephemeral_storage)
    if claim := _claim(name, needs, placement):
        kubernetes.mount_pvc(task, pvc_name=claim, mount_path=WORK_PATH)
    if placement.webhook and name in ALWAYS_RUN:
        webhook = placement.webhook
        kubernetes.use_secret_as_env(task, webhook.secret, {webhook.key: URL_VARIABLE}, optional=True)
    if needs.timeout_hours:
        kubernetes.set_timeout(task, round(needs.timeout_hours * 3600))


def _bytes(quantity: str) -> int:
    return int(TypeAdapter(ByteSize).validate_python(quantity + "B"))
