"""What the tests of the manifests look at: an overlay as kubectl builds it, and ways to find things in it."""

import copy
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
OVERLAYS = ("gke", "kind")

Resource = dict[str, Any]


def kubectl() -> str:
    """The kubectl of this environment (requirements/dev.lock brings one), else the one on the path.

    Without any the test is skipped; where the variable CI is set that is a failure.
    """
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("kubectl is missing: run `make install`")
    return found


def kustomize(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build `folder` with a kubectl that finds neither a cluster nor a way out of this machine."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "HTTP_PROXY": "http://127.0.0.1:1",
    }
    return subprocess.run(
        [kubectl(), "kustomize", str(folder)], capture_output=True, text=True, env=environment, timeout=240, check=False
    )


@functools.cache
def _built(overlay: str) -> tuple[Resource, ...]:
    result = kustomize(MANIFESTS / "overlays" / overlay)
    assert result.returncode == 0, result.stderr
    return tuple(yaml.safe_load_all(result.stdout))


def built(overlay: str) -> list[Resource]:
    """All resources of `overlay`, the caller's own copy."""
    return copy.deepcopy(list(_built(overlay)))


def find(resources: list[Resource], kind: str, name: str) -> Resource:
    """The resource of that kind and name; a test that breaks it breaks it in `resources`."""
    (found,) = [entry for entry in resources if entry["kind"] == kind and entry["metadata"]["name"] == name]
    return found


def of_kind(resources: list[Resource], *kinds: str) -> list[Resource]:
    return [entry for entry in resources if entry["kind"] in kinds]


def called(resource: Resource) -> str:
    return f"{resource['kind']}/{resource['metadata']['name']}"


def pod_templates(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    """(where, pod template) of everything that starts pods, the jobs of a training runtime included."""
    for resource in resources:
        if resource["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield called(resource), resource["spec"]["template"]
        elif resource["kind"] == "CronJob":
            yield called(resource), resource["spec"]["jobTemplate"]["spec"]["template"]
        elif resource["kind"] == "ClusterTrainingRuntime":
            for job in resource["spec"]["template"]["spec"]["replicatedJobs"]:
                yield f"{called(resource)}/{job['name']}", job["template"]["spec"]["template"]


def containers(template: Resource) -> list[Resource]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]
