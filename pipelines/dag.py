"""Builds a DAG step by step. Steps of a past run are left out, and importers give their outputs to the others.

With no past run this is the plain DAG; with one it is what `python -m pipelines rerun` sends to the cluster.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp import dsl

from pipelines.placement import Placement, place
from unifl.core.errors import NotFoundError

Addresses = Mapping[str, Mapping[str, str]]
"""Step of a past run -> name of its output -> address (URI)."""

IMPORTED = "artifact"
"""The one output of an importer node, as Kubeflow names it."""

_ARTIFACT_CLASSES = {kind.schema_title: kind for kind in (dsl.Artifact, dsl.Dataset, dsl.Model, dsl.HTML, dsl.Metrics)}


@dataclass(frozen=True)
class Output:
    """An output of a step, whether that step runs or its output is imported."""

    step: str
    name: str


@dataclass(frozen=True)
class Step:
    """A step of the DAG; `step["images"]` is its output of that name."""

    name: str

    def __getitem__(self, output: str) -> Output:
        return Output(self.name, output)


class Dag:
    """The tasks of one pipeline function, with what they share: where they run and the code they run with."""

    def __init__(self, placement: Placement, code_version: Any, past: Addresses | None = None) -> None:
        """`past` has an entry for every step that is not run again."""
        self._placement, self._code_version, self._past = placement, code_version, past or {}
        self._tasks: dict[str, dsl.PipelineTask] = {}
        self._components: dict[str, Any] = {}
        self._imported: dict[Output, Any] = {}

    def step(self, name: str, component: Any, settings: Any, after: Step | None = None, **inputs: Output) -> Step:
        """Add a task for the step `name`, unless a past run has done it; returns its outputs for other steps.

        Raises NotFoundError when the past run has no address of an input.
        """
        self._components[name] = component
        if name not in self._past:
            taken = {input_name: self._channel(output) for input_name, output in inputs.items()}
            task = component(**taken, settings=settings, code_version=self._code_version)
            if after is not None and after.name in self._tasks:
                task.after(self._tasks[after.name])
            place(task, name, self._placement)
            self._tasks[name] = task
        return Step(name)

    def _channel(self, output: Output) -> Any:
        if output.step in self._tasks:
            return self._tasks[output.step].outputs[output.name]
        if output not in self._imported:
            self._imported[output] = self._importer(output).output
        return self._imported[output]

    def _importer(self, output: Output) -> dsl.PipelineTask:
        address = self._past[output.step].get(output.name)
        if address is None:
            raise NotFoundError(f"the past run has no address of {output.step}.{output.name}")
        kind = self._components[output.step].component_spec.outputs[output.name].type.partition("@")[0]
        node = dsl.importer(artifact_uri=address, artifact_class=_ARTIFACT_CLASSES[kind])
        # A rerun of this rerun finds the address under this name.
        node.set_display_name(f"{output.step}.{output.name}")
        return node
