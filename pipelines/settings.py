"""Settings of a run, complete before anything is submitted: a preset, overrides, and the data's revision and digests.

Presets are the only place for settings; here they become one JSON string a task, which is how components take them.
"""

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unifl.core.digest import code_version, sha256_path
from unifl.core.errors import SettingsError
from unifl.core.settings import (
    RESERVED_KEYS,
    StepSettings,
    apply_overrides,
    did_you_mean,
    parsed_json,
    preset_file,
    read_preset,
    settings_json,
    validated,
)
from unifl.core.step import step_definition
from unifl.data.vocabulary import AXES
from unifl.steps.resolve_data import ResolveDataSettings
from unifl.steps.validate_data import ValidateDataSettings, suites_folder

TASKS: dict[str, str] = {
    "resolve_data": "resolve_data",
    "validate_data": "validate_data",
    "prompt_curation": "prompt_curation",
    **{f"reward_model_{axis}": "reward_model" for axis in AXES},
    "perceptual_feedback": "perceptual_feedback",
    "decoupled_feedback": "decoupled_feedback",
    "adversarial_feedback": "adversarial_feedback",
    "evaluation": "evaluation",
    "quality_gate": "quality_gate",
}
"""Task of the DAG -> the step that it runs, in the order of the flow."""

FLOW: dict[str, str] = {"preflight": "preflight", **TASKS, "run_summary": "run_summary"}
"""The same with the tasks that a cluster has besides."""

GIVEN_MODEL_TASKS = ("autoencoder", "base_model", "segmentation_model", "judge_models")
"""Tasks of the pipeline that trains what the DAG takes as given; each runs the step of its name."""


def task_settings(preset: str | Path, overrides: Iterable[str] = ()) -> dict[str, StepSettings]:
    """The settings of every task from a preset and overrides like `reward_model.updates=100`.

    An override may name a task instead of a step: `reward_model_color.updates=100` changes one axis alone. Raises one
    SettingsError that names everything wrong in preset and overrides.
    """
    file = preset_file(preset)
    named = {name: values or {} for name, values in read_preset(preset).items() if name not in RESERVED_KEYS}
    named = apply_overrides(named, [override.replace("@", "_", 1) for override in overrides])
    unknown = [name for name in named if name not in step_names()]
    mistakes = [f"{name} is no step of this pipeline{did_you_mean(name, step_names())}" for name in unknown]
    complete: dict[str, StepSettings] = {}
    for task, step in FLOW.items():
        layers = [named.get(step, {}), named.get(task, {})] if task != step else [named.get(step, {})]
        if not all(isinstance(layer, Mapping) for layer in layers):
            mistakes.append(f"{task} is not a mapping of settings")
            continue
        values = {name: value for layer in layers for name, value in layer.items()}
        if step == "reward_model":
            values["axis"] = task.removeprefix("reward_model_")
        try:
            complete[task] = validated(step_definition(step).settings, values)
        except SettingsError as error:
            mistakes.append(f"{task}: {error.message}")
    if mistakes:
        raise SettingsError("; ".join(mistakes), file=file, remedy="`unifl STEP --help` lists the settings of a step")
    return complete


def step_names() -> list[str]:
    """Every name that a setting may be given under: the tasks and the steps that they run."""
    return list(dict.fromkeys([*FLOW, *FLOW.values()]))


def tasks_named(name: str) -> list[str]:
    """The tasks that `name` means: one task, or all that run the step `name`. Raises SettingsError for neither."""
    name = name.replace("@", "_", 1)
    named = [task for task, step in TASKS.items() if name in (task, step)]
    if not named:
        raise SettingsError(
            f"{name} is no step of this pipeline{did_you_mean(name, step_names())}",
            expected=f"one of {', '.join(TASKS)}",
        )
    return named


def overridden(given: Mapping[str, str], overrides: Iterable[str]) -> dict[str, StepSettings]:
    """Settings of a past run (task -> JSON) with overrides put in, each for a task or for all tasks of a step.

    Raises one SettingsError that names everything wrong.
    """
    values: dict[str, Any] = {task: parsed_json(text, step=task) for task, text in given.items()}
    mistakes: list[str] = []
    for override in overrides:
        name, dot, rest = override.partition(".")
        try:
            named = [name] if name in FLOW else tasks_named(name) if dot else []
            values = apply_overrides(values, [f"{task}.{rest}" for task in named] or [override])
        except SettingsError as error:
            mistakes.append(error.message)
    complete: dict[str, StepSettings] = {}
    for task, changed in values.items():
        try:
            complete[task] = validated(step_definition(FLOW[task]).settings, changed)
        except SettingsError as error:
            mistakes.append(f"{task}: {error.message}")
    if mistakes:
        raise SettingsError("; ".join(mistakes), remedy="`unifl STEP --help` lists the settings of a step")
    return complete


def require_effect(overrides: Iterable[str], run: Iterable[str], *, on_cluster: bool = True) -> None:
    """Raise SettingsError for an override of a task that is not among `run`: it would have no effect.

    On a cluster preflight and the run's summary always run, on this machine never.
    """
    around = FLOW.keys() - TASKS.keys()
    ran = {*run, *around} if on_cluster else {*run}
    kept = {}
    for override in overrides:
        name, dot, _ = override.partition("=")[0].partition(".")
        if not dot or name in ran:
            continue
        if name in around:
            raise SettingsError(
                f"{name} runs on a cluster only, so it takes no settings here: {override}",
                remedy=f"leave it out, or `python -m pipelines submit --set {override}`",
            )
        if idle := sorted(set(tasks_named(name)) - ran):
            kept[override] = idle
    if kept:
        raise SettingsError(
            "a step that is not run takes no settings: "
            + "; ".join(f"{override} ({', '.join(steps)})" for override, steps in kept.items()),
            remedy="run from that step, or name one task (reward_model_color.epochs=3)",
        )


def parameters(settings: Mapping[str, StepSettings]) -> dict[str, str]:
    """The pipeline's arguments: the digest of the code and one JSON string of settings for each task in `settings`."""
    given = {f"{task}_settings": settings_json(settings[task]) for task in FLOW if task in settings}
    return {"code_version": code_version(), **given}


def resolved(settings: Mapping[str, StepSettings]) -> dict[str, StepSettings]:
    """`settings` with everything that lies outside them pinned: the data's revision and digests, and the digest of the
    expectation suites. Caches and records then go by what was submitted.

    Raises SettingsError or DataContractError when data or suites can't be found.
    """
    pinned = dict(settings)
    if "validate_data" in settings:
        validation = validated(ValidateDataSettings, settings["validate_data"])
        suites = sha256_path(suites_folder(validation.expectations))
        digest = validation.expectations_sha256 or suites
        pinned["validate_data"] = validation.model_copy(update={"expectations_sha256": digest})
    if "resolve_data" in settings:
        pinned["resolve_data"] = _resolved_data(validated(ResolveDataSettings, settings["resolve_data"]))
    return pinned


def _resolved_data(given: ResolveDataSettings) -> ResolveDataSettings:
    """`given` with revision and digests.

    Data without a named revision resolves to the last commit that changed the data's pointers: other commits don't make
    a new run of the same data.
    """
    from unifl.data.resolve import resolve

    revision = given.revision or _last_data_commit(Path(given.repository), given.paths.values())
    found = resolve(given.repository, revision, given.paths, given.remote)
    unpinned = [found.paths[name] for name, md5 in found.md5.items() if md5 is None and name not in found.sha256]
    if revision is None and unpinned:
        raise SettingsError(
            f"the digest of {', '.join(unpinned)} is not known before the run",
            step="resolve_data",
            remedy="track the data with DVC (`dvc add`, or a stage) or commit it and name the revision",
        )
    known = {name: md5 for name, md5 in found.md5.items() if md5 is not None} | dict(found.sha256)
    return given.model_copy(
        update={"revision": found.commit if revision else None, "expected": {**known, **given.expected}}
    )


def _last_data_commit(repository: Path, paths: Iterable[str]) -> str | None:
    """The last commit that changed DVC's pointers to `paths`; None outside a checkout or while they have changes."""
    if not (repository / ".git").exists():
        return None
    folders = sorted({Path(path).parts[0] for path in paths})
    pointers = [".dvc/config"]
    pointers += [f":(glob){folder}{end}" for folder in folders for end in ("/**/dvc.lock", "/**/*.dvc", ".dvc")]
    if _git(repository, "status", "--porcelain", "--", *pointers):
        return None
    return _git(repository, "log", "-1", "--format=%H", "--", *pointers) or None


def _git(repository: Path, *arguments: str) -> str:
    answer = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise SettingsError(f"git can't read the checkout: {answer.stderr.strip()}", file=repository)
    return answer.stdout.strip()
