"""Compiles the pipelines to Kubeflow's intermediate representation; `pipelines/compiled` holds what is committed.

The version of the compiler is left out of the files, so that they change only when a pipeline does.
"""

import tempfile
from pathlib import Path
from typing import Any

import yaml

COMMAND = "python -m pipelines compile"
DEFAULT_PLACEMENT = "cpu"
"""Whose pipelines lie in `pipelines/compiled` itself; those of another placement lie in a folder of its name there."""


def compile_all(folder: Path, placement: str = DEFAULT_PLACEMENT) -> list[Path]:
    """Write every pipeline to `folder` as YAML, placed by the table `placement` (name or file), and return the files.

    Raises SettingsError for a wrong table.
    """
    from pipelines.base_model import given_models
    from pipelines.feedback_learning import feedback_learning
    from pipelines.placement import read_placement
    from pipelines.publish import publishing

    pipelines = {"base_model": given_models, "feedback_learning": feedback_learning, "publish": publishing}
    table = read_placement(placement)
    folder.mkdir(parents=True, exist_ok=True)
    command = COMMAND if placement == DEFAULT_PLACEMENT else f"{COMMAND} --placement {placement}"
    written = []
    for name, pipeline in pipelines.items():
        file = folder / f"{name}.yaml"
        file.write_text(normalised(compiled(pipeline(table)), command), encoding="utf-8")
        written.append(file)
    return written


def compiled(pipeline: Any) -> str:
    """The YAML of a pipeline function, as the compiler writes it."""
    from kfp import compiler

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "pipeline.yaml")
        compiler.Compiler().compile(pipeline, str(file))
        return file.read_text(encoding="utf-8")


def specification(pipeline: Any) -> dict[str, Any]:
    """A pipeline function as the compiled dictionary, without what it says about Kubernetes."""
    from google.protobuf import json_format

    return dict(json_format.MessageToDict(pipeline.pipeline_spec))


def documents(text: str) -> list[dict[str, Any]]:
    """The one or two YAML documents of a compiled pipeline. The loader in C is ten times as fast."""
    return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def normalised(text: str, command: str = COMMAND) -> str:
    """A compiled pipeline (one or two YAML documents) without the compiler's own version and with sorted keys."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    parts = documents(text)
    for document in parts:
        document.pop("sdkVersion", None)
    return f"# Compiled by `{command}`; do not edit.\n" + yaml.dump_all(parts, Dumper=dumper, sort_keys=True, width=160)
