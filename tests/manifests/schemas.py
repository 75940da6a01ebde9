"""Is a resource what its API says it is? Native resources are held against the schemas of Kubernetes, custom ones
against schemas of the fields that this project uses (`crds/*.yaml`, written by hand, named after their API version).

Both are strict: a field that the schema does not know is an error, as with `kubectl apply --validate=strict`.
"""

import functools
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.manifests.overlay import Resource, called, pod_templates

KUBERNETES = "1.37"
NAMESPACE = "unifl"
CLUSTER_WIDE = {
    "ClusterRole",
    "ClusterRoleBinding",
    "Namespace",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


@functools.cache
def custom_schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """(apiVersion, kind) to {"scope", "schema"}."""
    found = {}
    for file in sorted(Path(__file__).with_name("crds").glob("*.yaml")):
        for entry in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            found[entry["apiVersion"], entry["kind"]] = {"scope": entry["scope"], "schema": _closed(entry["schema"])}
    return found


def _closed(schema: Any) -> Any:
    """The same schema with unknown fields refused wherever it lists the known ones."""
    if isinstance(schema, list):
        return [_closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if "properties" in schema and isinstance(schema["properties"], dict):
        closed.setdefault("additionalProperties", False)
    return closed


def schema_errors(resource: Resource) -> list[str]:
    """What is wrong with one resource; empty when nothing is."""
    custom = custom_schemas().get((resource["apiVersion"], resource["kind"]))
    errors = _native_errors(resource) if custom is None else _custom_errors(resource, custom["schema"])
    cluster_wide = resource["kind"] in CLUSTER_WIDE if custom is None else custom["scope"] == "Cluster"
    namespace = resource["metadata"].get("namespace")
    if cluster_wide and namespace is not None:
        errors.append(f"{called(resource)} belongs to no namespace")
    if not cluster_wide and namespace != NAMESPACE:
        errors.append(f"{called(resource)} belongs to {namespace}, not to {NAMESPACE}")
    return errors


def _native_errors(resource: Resource) -> list[str]:
    try:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    except kubernetes_validate.SchemaNotFoundError as error:
        return [f"{called(resource)}: {error.message}"]
    except jsonschema.ValidationError as error:
        return [f"{called(resource)}: {'.'.join(map(str, error.path))}: {error.message}"]
    return []


def _custom_errors(resource: Resource, schema: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema)
    errors = [
        f"{called(resource)}: {'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in validator.iter_errors(resource)
    ]
    # A pod template inside a custom resource is a native pod.
    for where, template in pod_templates([resource]):
        metadata = {"name": "template", **template.get("metadata", {})}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        errors += [f"{where}: {error}" for error in _native_errors(pod)]
    return errors
