"""What the fleet simulation starts from: measured and published figures (fleet.yaml), prices, and the DAG's own edges.

The formulas for the time of one update on n GPUs and of one checkpoint stand here as well.
"""

from __future__ import annotations

import math
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

ROOT = Path(__file__).resolve().parents[1]
INPUTS = Path(__file__).with_name("fleet.yaml")
COMPILED = ROOT / "pipelines" / "compiled" / "feedback_learning.yaml"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tuning(_Frozen):
    """What the three tuning steps share; units in fleet.yaml."""

    global_batch: int = Field(ge=1)
    forwards_per_second: float = Field(gt=0)
    parameters: float = Field(gt=0)
    lora_parameters: float = Field(gt=0)
    gradient_bytes: float = Field(ge=0)
    checkpoint_bytes: float = Field(ge=0)
    optimizer_seconds: float = Field(ge=0)


class Step(_Frozen):
    """One step of the DAG: `hours` without a GPU, or `gpu_hours` of one GPU's work.

    Attributes:
        forwards: UNet forwards an image, of a tuning step.
        tuning: gradients are averaged over as many GPUs as it gets, and it writes checkpoints.
        processes: most GPUs it can use; a tuning step can use one an image of its batch.
        portions: equal parts whose results are kept; a preempted step does the unfinished one again.
    """

    hours: float = Field(0.0, ge=0)
    gpu_hours: float = Field(0.0, ge=0)
    forwards: float = Field(0.0, ge=0)
    tuning: bool = False
    processes: int = Field(1, ge=1)
    portions: int = Field(1, ge=1)


class Preemption(_Frozen):
    """How spot nodes come and go; `hours_between` infinite (None) for nodes that stay."""

    hours_between: float | None = Field(gt=0)
    notice_seconds: float = Field(ge=0)
    replacement_seconds: float = Field(ge=0)
    restart_seconds: float = Field(ge=0)


class Inputs(_Frozen):
    """All of fleet.yaml."""

    accelerator: str
    gpus_per_node: int = Field(ge=1)
    spot_price_share: float = Field(gt=0, le=1)
    tuning: Tuning
    steps: dict[str, Step]
    bandwidth_in_node: float = Field(gt=0)
    bandwidth_between_nodes: float = Field(gt=0)
    storage: dict[str, float]
    preemption: Preemption

    def nodes(self, gpus: int) -> int:
        """Nodes that carry `gpus` GPUs."""
        return math.ceil(gpus / self.gpus_per_node)

    def all_reduce_seconds(self, gpus: int) -> float:
        """Averaging the gradients of one update: a ring inside the nodes, then one between them."""
        size = self.tuning.parameters * self.tuning.gradient_bytes
        inside, nodes = min(gpus, self.gpus_per_node), self.nodes(gpus)
        ring = 2 * (inside - 1) / inside * size / self.bandwidth_in_node
        return ring + 2 * (nodes - 1) / nodes * size / self.bandwidth_between_nodes

    def updates(self, step: Step) -> float:
        """Updates of a tuning step: its work by what one update costs one GPU."""
        return step.gpu_hours * 3600 / self._update_seconds_of_one(step)

    def _update_seconds_of_one(self, step: Step) -> float:
        images = self.tuning.global_batch * step.forwards / self.tuning.forwards_per_second
        return images + self.tuning.optimizer_seconds

    def update_seconds(self, step: Step, gpus: int) -> tuple[float, float, float]:
        """(compute, optimizer, all-reduce) seconds of one update on `gpus` GPUs; the busiest GPU's share of images
        counts."""
        images = math.ceil(self.tuning.global_batch / gpus)
        compute = images * step.forwards / self.tuning.forwards_per_second
        return compute, self.tuning.optimizer_seconds, self.all_reduce_seconds(gpus)

    def work_seconds(self, step: Step, gpus: int) -> float:
        """Seconds of undisturbed work of a step on `gpus` GPUs, without checkpoints."""
        if step.tuning:
            return self.updates(step) * sum(self.update_seconds(step, gpus))
        return step.gpu_hours * 3600 / gpus if step.gpu_hours else step.hours * 3600

    def width(self, step: Step, gpus: int) -> int:
        """How many of `gpus` GPUs a step takes; 0 for one that needs none."""
        if not step.gpu_hours:
            return 0
        return min(gpus, self.tuning.global_batch if step.tuning else step.processes)

    def checkpoint_seconds(self, storage: str, parameters: float | None = None) -> float:
        """Seconds of one checkpoint of `parameters` (all of the UNet by default); training waits for it."""
        return (parameters or self.tuning.parameters) * self.tuning.checkpoint_bytes / self.storage[storage]


def read_inputs(file: Path = INPUTS) -> Inputs:
    """fleet.yaml, checked. Raises pydantic.ValidationError."""
    return Inputs.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def price_per_hour(accelerator: str) -> float:
    """Full price of one accelerator for an hour, from pipelines/accelerator_prices.yaml."""
    table = yaml.safe_load((ROOT / "pipelines" / "accelerator_prices.yaml").read_text(encoding="utf-8"))
    return float(table["per_hour"][accelerator])


def dag_edges(compiled: Path = COMPILED) -> dict[str, set[str]]:
    """Task of the compiled pipeline -> the tasks it waits for, by their names in the DAG.

    Without preflight and the run's summary, which take a minute on a CPU.
    """
    from pipelines.compiling import dag_tasks, documents

    tasks = dag_tasks(documents(compiled.read_text(encoding="utf-8"))[0])
    named = {key: task["taskInfo"]["name"] for key, task in tasks.items()}
    named = {key: name for key, name in named.items() if name not in ("preflight", "run_summary")}
    return {
        name: {named[other] for other in tasks[key]["dependentTasks"] if other in named} for key, name in named.items()
    }
