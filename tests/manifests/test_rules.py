"""What the manifests promise about rights, limits, identities, network and names, and that a breach would be seen."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.manifests import rules
from tests.manifests.overlay import MANIFESTS, OVERLAYS, Resource, built, containers, find, of_kind, pod_templates

RUNTIME = "unifl-training-runtime"
OBJECT_STORE_KEY = "mlpipeline-minio-artifact"
ALLOWED_SECRETS = {"gke": frozenset(), "kind": frozenset({OBJECT_STORE_KEY})}

both = pytest.mark.parametrize("overlay", OVERLAYS)


def reports(resources: list[Resource]) -> Resource:
    return find(resources, "Deployment", "reports")["spec"]["template"]["spec"]


def trainer(resources: list[Resource]) -> Resource:
    runtime = find(resources, "ClusterTrainingRuntime", "unifl-torch")
    return runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@both
def test_no_container_can_gain_rights(overlay: str) -> None:
    assert len(list(pod_templates(built(overlay)))) == 2
    assert rules.pods_that_could_gain_rights(built(overlay)) == []


@both
def test_every_container_says_what_it_needs(overlay: str) -> None:
    assert rules.containers_without_limits(built(overlay)) == []


@both
def test_every_image_is_named_by_digest(overlay: str) -> None:
    assert rules.images_without_digest(built(overlay)) == []


@both
def test_no_secret_value_is_in_the_manifests(overlay: str) -> None:
    assert rules.values_that_should_be_secret(built(overlay)) == []


@both
def test_no_role_is_wider_than_its_use(overlay: str) -> None:
    assert rules.rights_that_are_too_wide(built(overlay), ALLOWED_SECRETS[overlay]) == []


@both
def test_trainer_publisher_and_report_server_share_no_identity(overlay: str) -> None:
    assert rules.shared_identities(built(overlay)) == []


@both
def test_the_network_is_closed_but_for_what_is_named(overlay: str) -> None:
    assert rules.openings_of_the_network(built(overlay)) == []


@both
def test_the_quota_covers_the_gpus_of_the_queue(overlay: str) -> None:
    assert rules.gpus_beyond_the_quota(built(overlay)) == []


@both
def test_every_quantity_is_a_string(overlay: str) -> None:
    assert rules.quantities_that_are_numbers(built(overlay)) == []


@both
def test_every_name_that_is_referred_to_exists(overlay: str) -> None:
    assert len(list(rules.references(built(overlay)))) > 10
    assert rules.names_without_a_bearer(built(overlay)) == []


def test_every_identity_on_gke_is_one_of_the_cloud() -> None:
    accounts = of_kind(built("gke"), "ServiceAccount")
    identities = {entry["metadata"]["annotations"]["iam.gke.io/gcp-service-account"] for entry in accounts}
    assert len(identities) == len(accounts) == 3


def test_gke_enforces_the_restricted_pod_security_standard() -> None:
    labels = find(built("gke"), "Namespace", "unifl")["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}


def test_images_have_one_place_for_their_digests() -> None:
    pinned = yaml.safe_load((MANIFESTS / "images" / "kustomization.yaml").read_text(encoding="utf-8"))["images"]
    digests = {entry["name"]: entry["digest"] for entry in pinned}
    published = json.loads((MANIFESTS.parent / "images" / "digests.json").read_text(encoding="utf-8"))
    repositories = {name.rpartition("/")[2]: digest for name, digest in digests.items()}
    for entry in published.values():
        # A push writes the registry in front of the name.
        if (name := entry["repository"].rpartition("/")[2]) in repositories:
            assert repositories[name] == (entry["digest"] or f"sha256:{'0' * 64}")
    for overlay in OVERLAYS:
        used = {c["image"].split("@")[1] for _, template in pod_templates(built(overlay)) for c in containers(template)}
        assert used <= set(digests.values())


def test_alerts_are_queries_that_prometheus_can_read() -> None:
    import promql_parser

    alerts = find(built("gke"), "PrometheusRule", "unifl")["spec"]["groups"][0]["rules"]
    assert {alert["alert"] for alert in alerts} == {"UniflRunFailed", "UniflGpuStalled", "UniflGateFailed"}
    for alert in alerts:
        promql_parser.parse(alert["expr"])
    with pytest.raises(ValueError, match="parenthesis"):
        promql_parser.parse(alerts[0]["expr"] + " unless (")


@pytest.mark.parametrize(
    ("account", "owner", "admitted"),
    [
        ("unifl-pipeline", None, True),
        ("unifl-publisher", {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}, True),
        ("unifl-publisher", {"apiVersion": "batch/v1", "kind": "Job"}, False),
        ("unifl-publisher", {"apiVersion": "example.org/v1", "kind": "Workflow"}, False),
        ("unifl-publisher", None, False),
    ],
)
def test_a_pod_gets_the_publishers_identity_only_from_a_workflow(
    account: str, owner: dict[str, str] | None, admitted: bool
) -> None:
    import cel

    policy = find(built("gke"), "ValidatingAdmissionPolicy", "unifl-publisher-only-in-workflows")
    metadata = {"name": "pod"} if owner is None else {"name": "pod", "ownerReferences": [owner]}
    pod = {"metadata": metadata, "spec": {"serviceAccountName": account}}
    (validation,) = policy["spec"]["validations"]
    assert cel.evaluate(validation["expression"], {"object": pod}) is admitted


def _role(given: list[Resource], **rule: Any) -> None:
    find(given, "Role", "unifl-pipeline")["rules"].append({"apiGroups": [""], "verbs": ["get"], **rule})


def _policy(resources: list[Resource], **egress: Any) -> None:
    find(resources, "NetworkPolicy", "allow-dns")["spec"]["egress"].append(egress)


def _git(resources: list[Resource]) -> Resource:
    return find(resources, "NetworkPolicy", "allow-git-repository")["spec"]


def _rename(resources: list[Resource], kind: str, name: str) -> None:
    find(resources, kind, name)["metadata"]["name"] = "renamed"


@pytest.mark.parametrize(
    ("rule", "breach", "complaint"),
    [
        ("pods_that_could_gain_rights", lambda r: reports(r)["securityContext"].pop("runAsNonRoot"), "as root"),
        (
            "pods_that_could_gain_rights",
            lambda r: trainer(r)["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
            "write to its root",
        ),
        (
            "pods_that_could_gain_rights",
            lambda r: trainer(r).update(initContainers=[{"name": "init", "image": "x"}]),
            "init may gain rights",
        ),
        ("pods_that_could_gain_rights", lambda r: trainer(r).pop("automountServiceAccountToken"), "token"),
        ("containers_without_limits", lambda r: reports(r)["containers"][0].pop("resources"), "no memory in limits"),
        (
            "containers_without_limits",
            lambda r: trainer(r)["containers"][0]["resources"]["requests"].pop("nvidia.com/gpu"),
            "other GPUs",
        ),
        ("images_without_digest", lambda r: reports(r)["containers"][0].update(image="nginx:1.29"), "nginx:1.29"),
        (
            "values_that_should_be_secret",
            lambda r: r.append({"kind": "Secret", "metadata": {"name": "key"}}),
            "Secret/key",
        ),
        (
            "values_that_should_be_secret",
            lambda r: trainer(r)["containers"][0]["env"].append({"name": "HUB_TOKEN", "value": "x"}),
            "HUB_TOKEN",
        ),
        ("rights_that_are_too_wide", lambda r: _role(r, resources=["*"]), "wildcard"),
        ("rights_that_are_too_wide", lambda r: _role(r, resources=["secrets"]), "reads secrets"),
        (
            "rights_that_are_too_wide",
            lambda r: _role(r, resources=["secrets"], resourceNames=[OBJECT_STORE_KEY]),
            "reads secrets",
        ),
        ("rights_that_are_too_wide", lambda r: _role(r, resources=["configmaps"]), "every config map"),
        ("rights_that_are_too_wide", lambda r: _role(r, resources=["pods"], verbs=["create"]), "reaches pods"),
        ("rights_that_are_too_wide", lambda r: _role(r, resources=["pods/exec"]), "reaches pods/exec"),
        (
            "rights_that_are_too_wide",
            lambda r: find(r, "ClusterRole", RUNTIME)["rules"][0].pop("resourceNames"),
            RUNTIME,
        ),
        (
            "rights_that_are_too_wide",
            lambda r: find(r, "ClusterRoleBinding", RUNTIME)["subjects"][0].update(name="unifl-publisher"),
            RUNTIME,
        ),
        (
            "shared_identities",
            lambda r: find(r, "ServiceAccount", "unifl-publisher")["metadata"].update(
                annotations=find(r, "ServiceAccount", "unifl-pipeline")["metadata"]["annotations"]
            ),
            "are one in the cloud",
        ),
        (
            "shared_identities",
            lambda r: find(r, "RoleBinding", "unifl-publisher")["subjects"].append({"name": "unifl-pipeline"}),
            "binds unifl-pipeline",
        ),
        ("shared_identities", lambda r: trainer(r).update(serviceAccountName="unifl-publisher"), "runs as"),
        ("openings_of_the_network", lambda r: r.remove(find(r, "NetworkPolicy", "default-deny")), "by default"),
        ("openings_of_the_network", lambda r: _policy(r, ports=[{"port": 443}]), "to everybody"),
        (
            "openings_of_the_network",
            lambda r: _policy(r, to=[{"ipBlock": {"cidr": "0.0.0.0/0"}}], ports=[{"port": 443}]),
            "0.0.0.0/0",
        ),
        ("openings_of_the_network", lambda r: _policy(r, to=[{"namespaceSelector": {}}]), "every port"),
        ("openings_of_the_network", lambda r: _git(r)["podSelector"].clear(), "allow-git-repository opens 0.0.0.0/0"),
        (
            "openings_of_the_network",
            lambda r: _git(r)["podSelector"]["matchExpressions"][0]["values"].append("evaluation"),
            "allow-git-repository opens 0.0.0.0/0",
        ),
        (
            "openings_of_the_network",
            lambda r: _git(r)["egress"][0]["to"][0]["ipBlock"]["except"].remove("10.0.0.0/8"),
            "allow-git-repository opens 0.0.0.0/0",
        ),
        (
            "openings_of_the_network",
            lambda r: _git(r)["egress"][0]["ports"].append({"protocol": "TCP", "port": 22}),
            "allow-git-repository opens 0.0.0.0/0",
        ),
        (
            "gpus_beyond_the_quota",
            lambda r: find(r, "ResourceQuota", "unifl")["spec"]["hard"].pop("requests.nvidia.com/gpu"),
            "allows None",
        ),
        (
            "quantities_that_are_numbers",
            lambda r: trainer(r)["containers"][0]["resources"]["limits"].update({"nvidia.com/gpu": 1}),
            "nvidia.com/gpu",
        ),
        ("names_without_a_bearer", lambda r: _rename(r, "ClusterQueue", "unifl"), "ClusterQueue unifl"),
        ("names_without_a_bearer", lambda r: _rename(r, "ResourceFlavor", "unifl-h100"), "unifl-h100"),
        ("names_without_a_bearer", lambda r: _rename(r, "AdmissionCheck", "unifl-flex-start"), "unifl-flex-start"),
        ("names_without_a_bearer", lambda r: _rename(r, "PersistentVolumeClaim", "unifl-work"), "unifl-work"),
        ("names_without_a_bearer", lambda r: _rename(r, "ServiceAccount", "unifl-reports"), "unifl-reports"),
    ],
)
def test_a_breach_of_a_rule_is_seen(rule: str, breach: Callable[[list[Resource]], object], complaint: str) -> None:
    resources = built("gke")
    assert getattr(rules, rule)(resources) == []
    breach(resources)
    assert complaint in " ".join(getattr(rules, rule)(resources))
