"""Compiles the pipelines to Kubeflow's intermediate representation; `pipelines/compiled` holds what is committed.

The version of the compiler is left out of the files, so that they change only when a pipeline does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

COMMAND = "python -m pipelines compile"
DEFAULT_PLACEMENT = "cpu"
"""Whose pipelines lie in `pipelines/compiled` itself; those of another placement lie in a folder of its name there."""


def compile_all(folder: Path, placement: str = DEFAULT_PLACEMENT) -> list[Path]:
    """Write every pipeline to `folder` as YAML, placed by the table `placement` (name or file), and return the files.

    Pipelines of a single step are compiled when they are submitted (`pipelines.partial`). Raises SettingsError for a
    wrong table.
    """
    from pipelines.base_model import given_models
    from pipelines.feedback_learning import feedback_learning
    from pipelines.partial import COMPILED_PARTS, part
    from pipelines.placement import read_placement
    from pipelines.publish import publishing

    table = read_placement(placement)
    whole = feedback_learning(table)
    spec = specification(whole)
    pipelines = {
        "base_model": given_models(table),
        "feedback_learning": whole,
        "publish": publishing(table),
        **{name: part(name, table, spec) for name in COMPILED_PARTS},
    }
    folder.mkdir(parents=True, exist_ok=True)
    command = COMMAND if placement == DEFAULT_PLACEMENT else f"{COMMAND} --placement {placement}"
    written = []
    for name, pipeline in pipelines.items():
        file = folder / f"{name}.yaml"
        file.write_text(normalised(compiled(pipeline), command), encoding="utf-8")
        written.append(file)
    return written


def compiled(pipeline: Any, spec: dict[str, Any] | None = None) -> str:
    """The YAML of a pipeline function, as Kubeflow's compiler writes it but for its comments, and in a tenth of the
    time: one document, and a second one when there is something to say about Kubernetes. `spec` is its `specification`,
    where that is known already."""
    from google.protobuf import json_format

    parts = [spec or specification(pipeline)]
    if pipeline.platform_spec.platforms:
        parts.append(dict(json_format.MessageToDict(pipeline.platform_spec)))
    return _yaml(parts)


def specification(pipeline: Any) -> dict[str, Any]:
    """A pipeline function as the compiled dictionary, without what it says about Kubernetes."""
    from google.protobuf import json_format

    return dict(json_format.MessageToDict(pipeline.pipeline_spec))


def dag_tasks(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The tasks of a compiled pipeline that run something, by key, also those inside an exit handler.

    Who waits for a group of tasks waits here for each of them.
    """
    found: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[str]] = {}

    def walk(tasks: Mapping[str, Any]) -> list[str]:
        inside: list[str] = []
        for key, task in tasks.items():
            group = spec.get("components", {}).get(task["componentRef"]["name"], {}).get("dag")
            if group:
                groups[key] = walk(group["tasks"])
                inside += groups[key]
            else:
                found[key] = task
                inside.append(key)
        return inside

    walk(spec.get("root", {}).get("dag", {}).get("tasks", {}))
    flat = {}
    for key, task in found.items():
        waits = [each for other in task.get("dependentTasks", ()) for each in groups.get(other, [other])]
        flat[key] = {**task, "dependentTasks": waits}
    return flat


def documents(text: str) -> list[dict[str, Any]]:
    """The one or two YAML documents of a compiled pipeline. The loader in C is ten times as fast."""
    return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def normalised(text: str, command: str = COMMAND) -> str:
    """A compiled pipeline (one or two YAML documents) without the compiler's own version and with sorted keys."""
    parts = documents(text)
    for document in parts:
        document.pop("sdkVersion", None)
    return f"# Compiled by `{command}`; do not edit.\n" + _yaml(parts)


def _yaml(parts: list[dict[str, Any]]) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump_all(parts, Dumper=dumper, sort_keys=True, width=160))
