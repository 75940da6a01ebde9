"""Where the tasks of a DAG run, as data apart from what they do: CPU, memory, accelerators, retries and caching.

`THIS_MACHINE` is for `kfp.local`, which has no pools and must show a failure at once; `CLUSTER` is what compiles into
`pipelines/compiled`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kfp import dsl


@dataclass(frozen=True)
class Needs:
    """What one task asks of the place it runs in.

    Attributes:
        cpu: CPU cores, as Kubernetes spells them; empty for no request.
        memory: memory, as Kubernetes spells it; empty for no request.
        accelerator: the resource name of an accelerator ("nvidia.com/gpu"); empty for none.
        accelerators: how many of them.
        retries: how often a failed task starts again (from its last checkpoint), with exponential back-off.
        cached: whether an unchanged task may be taken from the cache.
    """

    cpu: str = ""
    memory: str = ""
    accelerator: str = ""
    accelerators: int = 1
    retries: int = 0
    cached: bool = True


@dataclass(frozen=True)
class Placement:
    """The needs of every task: `tasks` by task name, `default` for the rest.

    `label_pods` gives each pod its task's name as the label `unifl/step`, which alerts go by.
    """

    default: Needs = Needs()
    tasks: Mapping[str, Needs] = field(default_factory=dict)
    label_pods: bool = False

    def needs(self, task: str) -> Needs:
        return self.tasks.get(task, self.default)


THIS_MACHINE = Placement()

_TRAINING = Needs(cpu="2", memory="8G", retries=2)
CLUSTER = Placement(
    label_pods=True,
    default=Needs(cpu="1", memory="4G", retries=2),
    tasks={
        **{f"reward_model_{axis}": _TRAINING for axis in ("color", "layout", "lighting", "detail")},
        "perceptual_feedback": _TRAINING,
        "decoupled_feedback": _TRAINING,
        "adversarial_feedback": _TRAINING,
        "evaluation": _TRAINING,
        **dict.fromkeys(("autoencoder", "base_model", "segmentation_model", "judge_models"), _TRAINING),
        # A verdict does not change by asking again.
        "quality_gate": Needs(cpu="1", memory="4G"),
        # A release is made on purpose, each time anew.
        "publish": Needs(cpu="1", memory="4G", retries=2, cached=False),
    },
)


def place(task: dsl.PipelineTask, name: str, placement: Placement) -> None:
    """Give `task` its name in the DAG and what `placement` says about it."""
    needs = placement.needs(name)
    task.set_display_name(name)
    task.set_caching_options(enable_caching=needs.cached)
    if needs.cpu:
        task.set_cpu_request(needs.cpu).set_cpu_limit(needs.cpu)
    if needs.memory:
        task.set_memory_request(needs.memory).set_memory_limit(needs.memory)
    if needs.accelerator:
        task.set_accelerator_type(needs.accelerator).set_accelerator_limit(needs.accelerators)
    if needs.retries:
        task.set_retry(needs.retries, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="600s")
    if placement.label_pods:
        from kfp import kubernetes

        kubernetes.add_pod_label(task, "unifl/step", name)
