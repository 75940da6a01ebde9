"""Parts of the DAG as pipelines of their own: evaluation only, acceleration only, and every step alone.

They are the DAG itself with the other steps left out: what those would have given comes in as addresses, one parameter
each (`stage1_uri`). The data comes by DVC as ever where resolve_data is part of it, so that lineage stays whole.
`pipelines/compiled` holds the first two; one of a single step is compiled when it is submitted.
"""

import inspect
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from kfp import dsl

from pipelines.dag import Dag, Output
from pipelines.feedback_learning import NAME, add_steps, feedback_learning
from pipelines.placement import THIS_MACHINE, Placement
from pipelines.settings import TASKS
from unifl.core.errors import SettingsError
from unifl.core.settings import did_you_mean

DATA = ("resolve_data", "validate_data")
COMPILED_PARTS: dict[str, tuple[str, ...]] = {
    "evaluation_only": (*DATA, "evaluation", "quality_gate"),
    "acceleration_only": (*DATA, "adversarial_feedback", "evaluation", "quality_gate"),
}
PARTS: dict[str, tuple[str, ...]] = {**COMPILED_PARTS, **{f"step_{task}": (task,) for task in TASKS}}
"""Name of a partial pipeline -> the tasks of the DAG that it runs."""

PIPELINES = ("feedback_learning", *PARTS)
"""Every pipeline that takes settings as feedback learning does."""

_TUNED = {"perceptual_feedback": "stage1a", "decoupled_feedback": "stage1", "adversarial_feedback": "stage2"}


def pipeline_name(name: str) -> str:
    """The name of the pipeline `name` on a cluster."""
    return NAME if name == "feedback_learning" else f"unifl-{name.replace('_', '-')}"


def input_name(output: Output) -> str:
    """What an output of a step that is left out is called: stage1, reward_color, images, selected_prompts, ..."""
    if output.step in _TUNED and output.name == "tuned_model":
        return _TUNED[output.step]
    if output.step.startswith("reward_model_"):
        return f"reward_{output.step.removeprefix('reward_model_')}"
    return output.name


def inputs_of(name: str, whole: Mapping[str, Any] | None = None) -> dict[str, Output]:
    """The addresses that the pipeline `name` asks for: input -> the output of the DAG that it stands for.

    `whole` is the compiled DAG; it is compiled when it is not given.
    """
    from pipelines.rerun import inputs_from_others

    if name == "feedback_learning":
        return {}
    needed = inputs_from_others(whole or _whole_dag(), set(PARTS[name]))
    outputs = [Output(step, output) for step in TASKS for output in sorted(needed.get(step, ()))]
    return {input_name(output): output for output in outputs}


@lru_cache(maxsize=1)
def _whole_dag() -> dict[str, Any]:
    from pipelines.compiling import specification

    return specification(feedback_learning(THIS_MACHINE))


def part(name: str, placement: Placement, whole: Mapping[str, Any] | None = None):
    """The pipeline `name` of PARTS, with its tasks placed by `placement`; `whole` as for `inputs_of`.

    Its parameters: `code_version`, one `<task>_settings` a task, one `<input>_uri` an input, and, as everywhere, the
    settings of preflight and of the run's summary.
    """
    run, inputs = PARTS[name], inputs_of(name, whole)
    required = ["code_version", *(f"{task}_settings" for task in run), *(f"{input_}_uri" for input_ in inputs)]
    optional = ["preflight_settings", "run_summary_settings"]

    def pipeline(*channels: Any):
        given = dict(zip((*required, *optional), channels, strict=True))
        settings = {task: given.get(f"{task}_settings", "{}") for task in TASKS}
        past: dict[str, dict[str, Any]] = {task: {} for task in TASKS if task not in run}
        for input_, output in inputs.items():
            past[output.step][output.name] = given[f"{input_}_uri"]
        dag = Dag(placement, given["code_version"], past)
        with dag.guarded(given["preflight_settings"], given["run_summary_settings"], settings):
            add_steps(dag, settings)

    # The compiler reads the parameters from the signature.
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    pipeline.__signature__ = inspect.Signature(
        [inspect.Parameter(key, kind, annotation=str) for key in required]
        + [inspect.Parameter(key, kind, annotation=str, default="{}") for key in optional]
    )
    pipeline.__annotations__ = dict.fromkeys((*required, *optional), str)
    about = f"Of unified feedback learning: {', '.join(run)}."
    return dsl.pipeline(name=pipeline_name(name), description=about)(pipeline)


def given_inputs(name: str, assignments: Iterable[str]) -> dict[str, str]:
    """The parameters of inputs from `stage1=ADDRESS`. Raises one SettingsError that names everything wrong."""
    if name not in PIPELINES:
        raise SettingsError(
            f"no pipeline is called {name}{did_you_mean(name, PIPELINES)}", expected=f"one of {', '.join(PIPELINES)}"
        )
    wanted, given, mistakes = inputs_of(name), {}, []
    for assignment in assignments:
        key, equals, address = assignment.partition("=")
        if not equals or not address:
            mistakes.append(f"{assignment!r} is not of the form NAME=ADDRESS")
        elif key not in wanted:
            mistakes.append(f"{key} is no input of {name}{did_you_mean(key, wanted)}")
        else:
            given[f"{key}_uri"] = address
    mistakes += [f"the input {key} is missing" for key in wanted if f"{key}_uri" not in given]
    if mistakes:
        raise SettingsError(
            "; ".join(mistakes), remedy="--input NAME=ADDRESS for each of: " + (", ".join(wanted) or "none")
        )
    return given
