"""The overlays build without a network, and every resource is what its API says it is."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.manifests.overlay import MANIFESTS, OVERLAYS, built, find, kustomize
from tests.manifests.schemas import custom_schemas, schema_errors


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_resource_of_an_overlay_satisfies_its_schema(overlay: str) -> None:
    resources = built(overlay)
    assert len(resources) > 20
    assert [error for resource in resources for error in schema_errors(resource)] == []


def test_every_schema_written_for_the_tests_is_used() -> None:
    used = {(entry["apiVersion"], entry["kind"]) for overlay in OVERLAYS for entry in built(overlay)}
    assert set(custom_schemas()) <= used


def test_no_kustomization_reaches_out_of_the_checkout() -> None:
    files = list(MANIFESTS.rglob("kustomization.yaml"))
    assert len(files) >= 5
    for file in files:
        text = yaml.safe_load(file.read_text(encoding="utf-8"))
        for entry in [*text.get("resources", []), *text.get("components", [])]:
            assert (file.parent / entry).exists(), f"{file}: {entry}"


def test_a_build_that_names_a_remote_base_fails(tmp_path: Path) -> None:
    # Rather than fetch it: the tests' kubectl has no way out.
    (tmp_path / "kustomization.yaml").write_text("resources: [https://192.0.2.1/base.yaml]\n", encoding="utf-8")
    assert kustomize(tmp_path).returncode != 0


def test_a_patch_of_something_that_is_not_there_fails_the_build(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    overlay = tmp_path / "manifests" / "overlays" / "gke"
    storage = overlay / "storage.yaml"
    storage.write_text(storage.read_text(encoding="utf-8").replace("unifl-work", "unifl-wrok"), encoding="utf-8")
    result = kustomize(overlay)
    assert result.returncode != 0
    assert "unifl-wrok" in result.stderr


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "complaint"),
    [
        ("Deployment", "reports", ("spec", "replcias"), 1, "replcias"),
        ("ResourceQuota", "unifl", ("spec", "hard"), ["36"], "hard"),
        ("NetworkPolicy", "default-deny", ("spec", "podselector"), {}, "podselector"),
        ("ServiceAccount", "unifl-pipeline", ("metadata", "namespace"), "default", "belongs to default"),
        ("ClusterQueue", "unifl", ("metadata", "namespace"), "unifl", "belongs to no namespace"),
        ("ClusterQueue", "unifl", ("spec", "cohort"), "all", "cohort"),
        ("ClusterQueue", "unifl", ("apiVersion",), "kueue.x-k8s.io/v1beta1", "find schema"),
        ("ResourceFlavor", "unifl-l4", ("spec", "tolerations", 0, "value"), "present", "should not be valid"),
        ("AdmissionCheck", "unifl-flex-start", ("spec", "retryDelayMinutes"), 1, "retryDelayMinutes"),
        ("LocalQueue", "unifl", ("spec", "clusterQueue"), "Uni FL", "does not match"),
        ("ClusterTrainingRuntime", "unifl-torch", ("spec", "mlPolicy", "numNodes"), "2", "not of type 'integer'"),
        ("PrometheusRule", "unifl", ("spec", "groups", 0, "rules", 0, "for"), "an hour", "does not match"),
    ],
)
def test_a_broken_resource_is_refused(
    kind: str, name: str, path: tuple[str | int, ...], value: object, complaint: str
) -> None:
    resource = find(built("gke"), kind, name)
    assert schema_errors(resource) == []
    place = resource
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert complaint in " ".join(schema_errors(resource))


def test_a_misspelt_field_in_the_pods_of_a_training_runtime_is_refused() -> None:
    runtime = find(built("gke"), "ClusterTrainingRuntime", "unifl-torch")
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    job["template"]["spec"]["containers"][0]["volumeMount"] = []
    assert "volumeMount" in " ".join(schema_errors(runtime))
