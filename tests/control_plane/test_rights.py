"""What the service accounts may do, asked of the authorizer that decides it."""

from typing import Any

import pytest
from kubernetes import client

from tests.control_plane.conftest import Cluster
from tests.control_plane.plane import NAMESPACE

pytestmark = pytest.mark.control_plane

PIPELINE, PUBLISHER, REPORTS = "unifl-pipeline", "unifl-publisher", "unifl-reports"
KEY = "mlpipeline-minio-artifact"

EVERYBODY = {
    ("authorization.k8s.io", "selfsubjectaccessreviews", "", "create"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "", "create"),
}
"""What Kubernetes lets every account ask about itself."""

RESULTS = {("argoproj.io", "workflowtaskresults", "", verb) for verb in ("create", "patch")}
LAUNCHER = {("", "configmaps", "kfp-launcher", "get")}
RUNTIME = {("trainer.kubeflow.org", "clustertrainingruntimes", "unifl-torch", "get")}
EXACTLY = {
    PIPELINE: {
        *(RESULTS | LAUNCHER | RUNTIME),
        *(("trainer.kubeflow.org", "trainjobs", "", verb) for verb in ("create", "get", "list", "watch", "delete")),
        ("trainer.kubeflow.org", "trainingruntimes", "unifl-torch", "get"),
        *(("", resource, "", verb) for resource in ("pods", "resourcequotas") for verb in ("get", "list")),
        ("", "pods/log", "", "get"),
    },
    PUBLISHER: RESULTS | LAUNCHER,
    REPORTS: set(),
}
ELSEWHERE = {PIPELINE: RUNTIME, PUBLISHER: set(), REPORTS: set()}
OBJECT_STORE = {PIPELINE: {("", "secrets", KEY, "get")}, PUBLISHER: {("", "secrets", KEY, "get")}, REPORTS: set()}


def rights(cluster: Cluster, account: str, namespace: str) -> set[tuple[str, str, str, str]]:
    """(group, resource, name, verb) of all that an account may do in a namespace, as the server lists it."""
    api = client.AuthorizationV1Api(cluster.plane.client(cluster.plane.token(account)))
    review = client.V1SelfSubjectRulesReview(spec=client.V1SelfSubjectRulesReviewSpec(namespace=namespace))
    status = api.create_self_subject_rules_review(review).status
    assert not status.incomplete
    return {
        (group, resource, name, verb)
        for rule in status.resource_rules
        for group in rule.api_groups
        for resource in rule.resources
        for name in rule.resource_names or [""]
        for verb in rule.verbs
    }


@pytest.mark.parametrize("account", [PIPELINE, PUBLISHER, REPORTS])
def test_an_account_may_do_exactly_what_is_listed_here(gke: Cluster, account: str) -> None:
    assert rights(gke, account, NAMESPACE) - EVERYBODY == EXACTLY[account]
    for namespace in ("default", "kube-system"):
        assert rights(gke, account, namespace) - EVERYBODY == ELSEWHERE[account]


@pytest.mark.parametrize("account", [PIPELINE, PUBLISHER, REPORTS])
def test_on_kind_the_key_of_the_object_store_is_all_that_is_added(kind: Cluster, account: str) -> None:
    assert rights(kind, account, NAMESPACE) - EVERYBODY == EXACTLY[account] | OBJECT_STORE[account]


@pytest.mark.parametrize(
    ("account", "verb", "what", "allowed"),
    [
        (PIPELINE, "create", "trainjobs.trainer.kubeflow.org", True),
        (PIPELINE, "delete", "trainjobs.trainer.kubeflow.org", True),
        (PIPELINE, "get", "pods --subresource=log", True),
        (PIPELINE, "list", "resourcequotas", True),
        (PIPELINE, "get", "configmaps/kfp-launcher", True),
        (PIPELINE, "get", "clustertrainingruntimes.trainer.kubeflow.org/unifl-torch", True),
        (PIPELINE, "get", "configmaps/another", False),
        (PIPELINE, "get", "clustertrainingruntimes.trainer.kubeflow.org/another", False),
        (PIPELINE, "patch", "trainjobs.trainer.kubeflow.org", False),
        (PIPELINE, "create", "pods", False),
        (PIPELINE, "create", "pods --subresource=exec", False),
        (PIPELINE, "delete", "pods", False),
        (PIPELINE, "get", f"secrets/{KEY}", False),
        (PIPELINE, "list", "secrets", False),
        (PIPELINE, "create", "persistentvolumeclaims", False),
        (PIPELINE, "update", "resourcequotas", False),
        (PIPELINE, "create", "serviceaccounts --subresource=token", False),
        (PIPELINE, "impersonate", f"serviceaccounts/{PUBLISHER}", False),
        (PIPELINE, "create", "rolebindings.rbac.authorization.k8s.io", False),
        (PIPELINE, "list", "trainjobs.trainer.kubeflow.org --namespace=default", False),
        (PUBLISHER, "get", "configmaps/kfp-launcher", True),
        (PUBLISHER, "create", "trainjobs.trainer.kubeflow.org", False),
        (PUBLISHER, "list", "pods", False),
        (PUBLISHER, "list", "resourcequotas", False),
        (PUBLISHER, "list", "secrets", False),
        (REPORTS, "get", "configmaps/kfp-launcher", False),
    ],
)
def test_kubectl_says_who_may_what(gke: Cluster, account: str, verb: str, what: str, allowed: bool) -> None:
    asked = ["auth", "can-i", verb, *what.split(), f"--as=system:serviceaccount:{NAMESPACE}:{account}"]
    answer = gke.plane.kubectl(*asked)
    assert (answer.stdout.strip(), answer.returncode) == (("yes", 0) if allowed else ("no", 1)), answer.stderr


@pytest.mark.parametrize("account", [PIPELINE, PUBLISHER])
def test_a_token_of_the_account_opens_what_it_may_and_no_more(gke: Cluster, account: str) -> None:
    core = gke.core(gke.plane.token(account))
    assert core.read_namespaced_config_map("kfp-launcher", NAMESPACE).data["defaultPipelineRoot"].startswith("gs://")
    calls: list[Any] = [core.list_namespaced_secret, core.list_namespaced_config_map]
    for call in calls:
        with pytest.raises(client.ApiException, match="is forbidden") as refused:
            call(NAMESPACE)
        assert refused.value.status == 403
