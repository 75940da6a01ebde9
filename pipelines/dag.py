"""Builds a DAG step by step. Steps of a past run are left out, and importers give their outputs to the others.

With no past run this is the plain DAG; with one it is what `python -m pipelines rerun` sends to the cluster, and with
parameters in the place of addresses a part of the DAG (`pipelines.partial`). On a cluster preflight goes before the
first step, and the run's summary follows the last, whatever happened.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kfp import dsl

from pipelines.placement import Placement, place
from unifl.core.errors import NotFoundError

Addresses = Mapping[str, Mapping[str, Any]]
"""Step of a past run -> name of its output -> address (URI), or the pipeline's parameter that holds it."""

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
        self._preflight: dsl.PipelineTask | None = None
        self._waits: dict[str, set[str]] = {}

    @contextlib.contextmanager
    def guarded(self, preflight_settings: Any, run_summary_settings: Any, steps: Mapping[str, Any]) -> Iterator[None]:
        """The steps made in this context start after preflight, and the run's summary follows them whatever happens.

        `steps` are the settings of the tasks that run, which preflight checks. On kfp.local there is neither: a run
        there is checked before it starts, and sums itself up.
        """
        if not self._placement.on_cluster:
            yield
            return
        from components.preflight.component import preflight
        from components.run_summary.component import run_summary

        end = run_summary(settings=run_summary_settings, code_version=self._code_version)
        place(end, "run_summary", self._placement)
        with dsl.ExitHandler(exit_task=end, name="steps"):
            given = {f"{task}_settings": text for task, text in steps.items() if task not in self._past}
            self._preflight = preflight(settings=preflight_settings, code_version=self._code_version, **given)
            place(self._preflight, "preflight", self._placement)
            yield

    def step(self, name: str, component: Any, settings: Any, after: Step | None = None, **inputs: Output) -> Step:
        """Add a task for the step `name`, unless a past run has done it; returns its outputs for other steps.

        Raises NotFoundError when the past run has no address of an input.
        """
        self._components[name] = component
        by_data = {output.step for output in inputs.values()}
        # A step that is left out hands on what it would have waited for.
        upstream = by_data | ({after.name} if after else set())
        self._waits[name] = {
            task for step in upstream for task in ([step] if step in self._tasks else self._waits[step])
        }
        if name not in self._past:
            taken = {input_name: self._channel(output) for input_name, output in inputs.items()}
            task = component(**taken, settings=settings, code_version=self._code_version)
            for waited in sorted(self._waits[name] - by_data):
                task.after(self._tasks[waited])
            if self._preflight is not None and not self._waits[name]:
                task.after(self._preflight)
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
