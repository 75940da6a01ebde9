"""The one hook around every step: settings checked, inputs hashed, outputs whole or absent, a record left.

Kubeflow components, DVC stages and the command line all come through `execute`; a step itself is a plain function that
knows none of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import math
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unifl.core.digest import code_version
from unifl.core.errors import DataContractError, DivergenceError, SettingsError, UniflError, is_disk_full
from unifl.core.files import PartialPath, disk_full_error, remove_path, write_json_atomic
from unifl.core.interruption import interruptible
from unifl.core.record import Artifact, described, statement
from unifl.core.settings import StepSettings, settings_json, validated

CHECKPOINTS_VARIABLE = "UNIFL_CHECKPOINTS"
DEFAULT_CHECKPOINTS = Path(".cache", "unifl", "checkpoints")
FULL_DISK_BYTES = 2**20
"""With less than this free, an error that no library explains is taken for a full disk (torch hides the errno)."""

CHECKPOINT_DAYS = 14
"""A checkpoint of other settings, inputs or code is kept this long; a run that resumes touches its own."""

Paths = Mapping[str, Path]
Metrics = dict[str, float | int | str | bool]


@dataclass(frozen=True)
class StepContext:
    """What the hook hands to a step beside its paths and settings.

    Attributes:
        step: the step's name.
        checkpoints: a folder for this step's checkpoints, keyed by settings, inputs and code; it survives kills and is
            removed after success.
        code_version: digest of the project's source.
        materials: a step that resolves data itself (resolve_data) appends what it took; it goes into the record.
    """

    step: str
    checkpoints: Path
    code_version: str
    materials: list[Artifact] = field(default_factory=list)


@dataclass(frozen=True)
class StepDefinition:
    """A step's face: what it is called, takes and gives, and the type of its settings.

    `inputs` and `outputs` map names to one-line descriptions; names in `optional_inputs` may be left out by the caller.
    """

    name: str
    summary: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    settings: type[StepSettings]
    optional_inputs: frozenset[str] = frozenset()


StepFunction = Callable[[Paths, Paths, Any, StepContext], Metrics]


def step_definition(name: str) -> StepDefinition:
    """The definition of the step `name`, importing its (light) module. Raises SettingsError for an unknown name."""
    definition: StepDefinition = _step_module(name).STEP
    return definition


def step_function(name: str) -> StepFunction:
    """What does the work of the step `name`, without the hook. Raises SettingsError for an unknown name."""
    function: StepFunction = _step_module(name).run
    return function


def _step_module(name: str) -> Any:
    # By name and not by import statement: the core may not depend on the steps that stand on it.
    return importlib.import_module("unifl.steps").load_step(name)


def execute(
    step_name: str,
    inputs: Paths,
    outputs: Paths,
    settings: Mapping[str, Any] | str | StepSettings | None,
    *,
    metrics: Path | None = None,
    record: Path | None = None,
    function: StepFunction | None = None,
) -> Metrics:
    """Run the step `step_name`; see `run_step`. `function` does its work in the place of the step's own, elsewhere."""
    chosen = function or step_function(step_name)
    return run_step(step_definition(step_name), chosen, inputs, outputs, settings, metrics=metrics, record=record)


def run_step(
    definition: StepDefinition,
    function: StepFunction,
    inputs: Paths,
    outputs: Paths,
    settings: Mapping[str, Any] | str | StepSettings | None,
    *,
    metrics: Path | None = None,
    record: Path | None = None,
) -> Metrics:
    """Run one step through the hook and return its metrics.

    Args:
        definition, function: the step.
        inputs: input name -> existing file or folder.
        outputs: output name -> where the finished file or folder shall lie; replaced when it exists.
        settings: a mapping, a JSON string, a settings object, or None for all defaults.
        metrics: where to write the metrics as JSON (only what the step returned, so that it is reproducible).
        record: where to write the lineage record; `<first output>.record.json` beside the first output when None.

    Raises:
        SettingsError: a setting is wrong, or an input or output is missing or unknown.
        DataContractError: an input does not exist.
        DivergenceError: a metric is NaN or infinite.
        StorageError: the disk is full.
        KeyboardInterrupt: Ctrl-C or SIGTERM; checkpoints stay.
        UniflError: whatever the step raises, with the step's name filled in.
    """
    step = definition.name
    try:
        _require_one_process()
        checked = validated(definition.settings, settings, step=step)
        inputs = _checked_names("input", inputs, definition.inputs, definition.optional_inputs)
        outputs = _checked_names("output", outputs, definition.outputs, frozenset())
        materials = [_input_artifact(name, path) for name, path in inputs.items()]
        key = content_key(step, checked, materials)
        checkpoints = checkpoint_folder() / step / key[:24]
        checkpoints.mkdir(parents=True, exist_ok=True)
        _forget_old_checkpoints(checkpoints)
        context = StepContext(step, checkpoints, code_version(), list(materials))
        with _translated_errors(next(iter(outputs.values()))), interruptible():
            run = _Run(definition, context, outputs, checked, key, metrics, _record_path(outputs, record))
            returned = run.run(function, inputs)
    except UniflError as error:
        error.step = error.step or step
        raise
    shutil.rmtree(checkpoints, ignore_errors=True)
    return returned


def content_key(step: str, settings: StepSettings, materials: list[Artifact]) -> str:
    """SHA-256 over step, settings, the inputs' digests and the code: the same key means the same work."""
    content = {
        "step": step,
        "settings": json.loads(settings_json(settings)),
        "inputs": {artifact.name: artifact.digest["sha256"] for artifact in materials},
        "code_version": code_version(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checkpoint_folder() -> Path:
    """Where steps keep their checkpoints: $UNIFL_CHECKPOINTS, or `.cache/unifl/checkpoints` of the working folder."""
    return Path(os.environ.get(CHECKPOINTS_VARIABLE) or DEFAULT_CHECKPOINTS).absolute()


def _forget_old_checkpoints(current: Path) -> None:
    """Remove this step's checkpoints of other content that nobody has come back to in CHECKPOINT_DAYS."""
    os.utime(current)
    for folder in current.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process of this step may sweep as well
            if folder != current and time.time() - folder.stat().st_mtime > CHECKPOINT_DAYS * 86400:
                shutil.rmtree(folder)


def _require_one_process() -> None:
    """Processes of one step share its outputs; started by torchrun, each would write them as its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError(
            "a step was started by torchrun",
            expected="one process, which starts the others itself",
            remedy="""start it without torchrun, with UNIFL_PARALLEL='{"processes_per_node": 2}' in the environment""",
        )


def _record_path(outputs: Paths, record: Path | None) -> Path:
    first = next(iter(outputs.values()))
    return record or first.with_name(f"{first.name}.record.json")


def _checked_names(kind: str, given: Paths, declared: Mapping[str, str], optional: frozenset[str]) -> dict[str, Path]:
    unknown = [name for name in given if name not in declared]
    missing = [name for name in declared if name not in given and name not in optional]
    if unknown or missing:
        wrong = [f"{name} is not an {kind}" for name in unknown] + [f"the {kind} {name} is missing" for name in missing]
        raise SettingsError("; ".join(wrong), expected=f"the {kind}s {', '.join(declared)}")
    return {name: Path(given[name]) for name in declared if name in given}


def _input_artifact(name: str, path: Path) -> Artifact:
    try:
        return described(name, path)
    except FileNotFoundError as error:
        raise DataContractError(
            f"the input {name} does not exist",
            file=path,
            remedy="run the step that makes it, or `dvc pull` for the data that a checkout starts from",
        ) from error
    except OSError as error:
        raise DataContractError(f"the input {name} can't be read: {error.strerror}", file=path) from error


@dataclass
class _Run:
    """One run of a step: its outputs under temporary names until all of them are whole."""

    definition: StepDefinition
    context: StepContext
    outputs: Paths
    settings: StepSettings
    key: str
    metrics_file: Path | None
    record_file: Path

    def run(self, function: StepFunction, inputs: Paths) -> Metrics:
        partial = {name: PartialPath(path) for name, path in self.outputs.items()}
        started, wall, cpu = datetime.now(UTC), time.monotonic(), _cpu_seconds()

        def finish(metrics: Metrics, outcome: str) -> None:
            subjects = self._subjects(partial)
            record = statement(
                step=self.definition.name,
                settings=self.settings.model_dump(mode="json"),
                subjects=subjects,
                materials=self.context.materials,
                metrics=metrics,
                code_version=self.context.code_version,
                invocation=self.key,
                started=started,
                finished=datetime.now(UTC),
                cpu_seconds=_cpu_seconds() - cpu,
                wall_seconds=time.monotonic() - wall,
                outcome=outcome,
            )
            # A record of an earlier run must never stand beside outputs of this one.
            for stale in (self.record_file, self.metrics_file):
                if stale is not None:
                    remove_path(stale)
            for path in partial.values():
                path.commit()
            if self.metrics_file is not None:
                write_json_atomic(self.metrics_file, metrics)
            write_json_atomic(self.record_file, record)

        try:
            metrics = function(inputs, {name: path.path for name, path in partial.items()}, self.settings, self.context)
            _require_finite(metrics)
            finish(metrics, "succeeded")
        except UniflError as error:
            if error.keep_outputs:
                finish({}, type(error).__name__)
            raise
        finally:
            for path in partial.values():
                path.discard()
        return metrics

    def _subjects(self, partial: Mapping[str, PartialPath]) -> list[Artifact]:
        for name, path in partial.items():
            if not path.path.exists():
                raise UniflError(f"the step ended without writing its output {name}", file=path.final)
        return [described(name, path.path, path.final) for name, path in partial.items()]


def _require_finite(metrics: Metrics) -> None:
    broken = [name for name, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)]
    if broken:
        raise DivergenceError(
            f"{', '.join(broken)} is not a finite number",
            remedy="lower the learning rate or the feedback weights, then run again",
        )


def _cpu_seconds() -> float:
    """CPU time of this process and of its finished children, user and system."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@contextlib.contextmanager
def _translated_errors(output: Path) -> Iterator[None]:
    """Give errors of libraries the project's names: a full disk and floating point errors."""
    try:
        yield
    except UniflError:
        raise
    except FloatingPointError as error:
        raise DivergenceError(f"a number is not finite: {error}", remedy="lower the learning rate") from error
    except Exception as error:
        folder = next(p for p in output.absolute().parents if p.is_dir())
        if is_disk_full(error) or shutil.disk_usage(folder).free < FULL_DISK_BYTES:
            raise disk_full_error(output) from error
        raise
