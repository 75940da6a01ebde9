"""The pod of a task as the driver of Kubeflow Pipelines and Argo make it from a compiled pipeline.

No driver runs here. This is its translation of what the pipelines of this project use, field by field; a field that it
does not know is an error, so nothing of a placement is left out unseen.
"""

import functools
from typing import Any

Pod = dict[str, Any]
IMAGE = "example.org/step@sha256:" + "0" * 64


def task_pods(documents: list[dict[str, Any]]) -> dict[str, Pod]:
    """Executor -> pod, for all executors of a compiled pipeline that start a container."""
    spec, platform = documents
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {
        name: _pod(name.removeprefix("exec-"), executor["container"], dict(kubernetes.get(name, {})))
        for name, executor in spec["deploymentSpec"]["executors"].items()
        if "container" in executor
    }


def _pod(name: str, container: dict[str, Any], said: dict[str, Any]) -> Pod:
    main: dict[str, Any] = {"name": "main", "image": IMAGE, "resources": _resources(container.get("resources", {}))}
    # Argo's own container says nothing of what it needs: the limit range does.
    spec: dict[str, Any] = {"containers": [main, {"name": "wait", "image": IMAGE}], "restartPolicy": "Never"}
    spec["serviceAccountName"] = "unifl-pipeline"
    metadata: dict[str, Any] = {"generateName": f"{name}-", "namespace": "unifl", "labels": {"unifl-test": "task"}}
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    metadata["labels"] |= said.pop("podMetadata", {}).get("labels", {})
    if selector := said.pop("nodeSelector", None):
        spec["nodeSelector"] = selector["labels"]
    if tolerations := said.pop("tolerations", None):
        spec["tolerations"] = tolerations
    if terms := said.pop("nodeAffinity", None):
        required = {"nodeSelectorTerms": [{"matchExpressions": term["matchExpressions"]} for term in terms]}
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    for mount in said.pop("emptyDirMounts", []):
        size = {"medium": mount.get("medium", ""), "sizeLimit": mount["sizeLimit"]}
        volumes.append({"name": mount["volumeName"], "emptyDir": size})
        mounts.append({"name": mount["volumeName"], "mountPath": mount["mountPath"]})
    for mount in said.pop("pvcMount", []):
        volumes.append({"name": mount["constant"], "persistentVolumeClaim": {"claimName": mount["constant"]}})
        mounts.append({"name": mount["constant"], "mountPath": mount["mountPath"]})
    if "activeDeadlineSeconds" in said:
        spec["activeDeadlineSeconds"] = int(said.pop("activeDeadlineSeconds"))
    main["env"] = [
        {"name": field["name"], "valueFrom": {"fieldRef": {"fieldPath": field["fieldPath"]}}}
        for field in said.pop("fieldPathAsEnv", [])
    ]
    for secret in said.pop("secretAsEnv", []):
        for pair in secret["keyToEnv"]:
            reference = {
                "name": secret["secretName"],
                "key": pair["secretKey"],
                "optional": secret.get("optional", False),
            }
            main["env"].append({"name": pair["envVar"], "valueFrom": {"secretKeyRef": reference}})
    assert not said, f"{name}: unknown to this translation: {sorted(said)}"
    main["volumeMounts"], spec["volumes"] = mounts, volumes
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _resources(said: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Limits and requests. A GPU stands in the limits alone; the API server makes the request from it."""
    made: dict[str, dict[str, str]] = {"limits": {}, "requests": {}}
    for kind, group in (("Limit", "limits"), ("Request", "requests")):
        for resource in ("cpu", "memory"):
            if amount := said.get(f"resource{resource.capitalize()}{kind}"):
                made[group][resource] = amount
    if accelerator := said.get("accelerator"):
        made["limits"][accelerator["resourceType"]] = accelerator["resourceCount"]
    return made


@functools.cache
def compiled_for(placement: str) -> str:
    """The whole pipeline as it is compiled for a placement."""
    from pipelines.compiling import compiled
    from pipelines.feedback_learning import feedback_learning
    from pipelines.placement import read_placement

    return compiled(feedback_learning(read_placement(placement)))
