"""Definitions of the custom kinds (CRDs) as Kubernetes 1.20 takes them, for those that the manifests and TrainJobs use.

Kubeflow Trainer's are made from the models of its own Python package, the others from the schemas written by hand for
the tests of the manifests. A folder of the projects' own files goes before both (docs/control_plane.md).
"""

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.manifests.schemas import custom_schemas

FOLDER_VARIABLE = "UNIFL_CRDS"
TRAINER_KINDS = {"TrainJob": "Namespaced", "TrainingRuntime": "Namespaced", "ClusterTrainingRuntime": "Cluster"}
OPEN = {"x-kubernetes-preserve-unknown-fields": True}
NEWER = {"x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"}
"""What the files of today's releases say and 1.20 does not know, or does not take beside the defaults they hold."""

Schema = dict[str, Any]


def definitions() -> dict[str, Schema]:
    """CustomResourceDefinitions by kind."""
    found = {entry["spec"]["names"]["kind"]: entry for entry in (*_written_by_hand(), *_of_trainer())}
    return found | {entry["spec"]["names"]["kind"]: entry for entry in _of_releases(found)}


def _written_by_hand() -> Iterator[Schema]:
    for (api_version, kind), entry in custom_schemas().items():
        if kind not in TRAINER_KINDS:
            group, version = api_version.split("/")
            yield _definition(group, version, kind, entry["scope"], structural(entry["schema"]))


def _of_trainer() -> Iterator[Schema]:
    from kubeflow_trainer_api import models

    for kind, scope in TRAINER_KINDS.items():
        model = getattr(models, f"TrainerV1alpha1{kind}").model_json_schema()
        yield _definition("trainer.kubeflow.org", "v1alpha1", kind, scope, structural(model, model["$defs"]))


def _of_releases(wanted: Mapping[str, Schema]) -> Iterator[Schema]:
    """What the files in $UNIFL_CRDS define of the wanted kinds, in the version that the project uses."""
    if not (folder := os.environ.get(FOLDER_VARIABLE)):
        return
    files = sorted(Path(folder).glob("*.yaml"))
    assert files, f"{FOLDER_VARIABLE}: no .yaml file in {folder}"
    for file in files:
        for entry in yaml.load_all(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader):
            if not entry or entry.get("kind") != "CustomResourceDefinition":
                continue
            spec = entry["spec"]
            kind = spec["names"]["kind"]
            if kind not in wanted or spec["group"] != wanted[kind]["spec"]["group"]:
                continue
            ours = wanted[kind]["spec"]["versions"][0]["name"]
            (version,) = [version for version in spec["versions"] if version["name"] == ours]
            schema = _without_newer(version["schema"]["openAPIV3Schema"])
            yield _definition(spec["group"], ours, kind, spec["scope"], schema)


def _definition(group: str, version: str, kind: str, scope: str, schema: Schema) -> Schema:
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {**schema, "type": "object"}},
                }
            ],
        },
    }


def structural(schema: Schema, models: Mapping[str, Schema] | None = None, *, top: bool = True) -> Schema:
    """A JSON schema as a definition may hold it: every part with its type, nothing by reference, no conditions."""
    part = functools.partial(structural, models=models, top=False)
    if name := schema.get("$ref", "").rpartition("/")[2]:
        if name.endswith(("Quantity", "IntOrString")):
            return {"x-kubernetes-int-or-string": True}
        return part((models or {})[name])
    if choices := [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]:
        return part(choices[0]) if len(choices) == 1 else dict(OPEN)
    if "const" in schema:
        kind = "integer" if isinstance(schema["const"], int) else "string"
        return {"type": kind, "enum": [schema["const"]]}
    if "enum" in schema:
        return {"type": "string", "enum": schema["enum"]}
    if schema.get("type") == "array":
        sizes = {key: schema[key] for key in ("minItems", "maxItems") if key in schema}
        return {"type": "array", "items": part(schema["items"]) if "items" in schema else dict(OPEN), **sizes}
    if schema.get("type") == "object" or "properties" in schema:
        return _object(schema, part, top=top)
    if "type" not in schema:
        return dict(OPEN)
    kept = ("type", "format", "pattern", "minLength", "maxLength", "minimum", "maximum")
    return {key: schema[key] for key in kept if key in schema}


def _object(schema: Schema, part: Any, *, top: bool) -> Schema:
    made: Schema = {"type": "object"}
    if isinstance(more := schema.get("additionalProperties"), dict):
        return {**made, "additionalProperties": part(more)}
    if required := schema.get("required"):
        made["required"] = [name for name in required if not (top and name in ("apiVersion", "kind", "metadata"))]
    if properties := schema.get("properties"):
        made["properties"] = {
            # The server has its own idea of what metadata is.
            name: {"type": "object"} if top and name == "metadata" else part(entry)
            for name, entry in properties.items()
        }
    if more is True or not properties:
        made |= OPEN
    return made


def _without_newer(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_newer(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_newer(value)
        for key, value in schema.items()
        if key not in NEWER and key != "description" and not (key == "default" and value == "")
    }
