"""A step's log, from wherever it can be had: the server of Kubeflow Pipelines, else Kubernetes itself.

kfp 2.17's client has no method for logs. Its server has an address for one pod's log (also of pods that are gone, when
it archives logs), but says reliably which pods a step had only for steps without retries. Kubernetes knows the pods as
long as they exist.
"""

import re
from collections.abc import Iterator
from typing import Any

from pipelines.cluster_client import Cluster
from pipelines.compiling import dag_tasks
from pipelines.status import compiled_pipeline, run_status
from unifl.core.errors import ClusterError, NotFoundError, RunStateError, SettingsError, UniflError
from unifl.core.settings import did_you_mean

LOG_ADDRESS = "/apis/v1alpha1/runs/{run_id}/nodes/{node_id}/log"
RUN_LABEL = "pipeline/runid"
NODE_NAME = "workflows.argoproj.io/node-name"
CONTAINER = "main"
DEFAULT_NAMESPACE = "kubeflow"


def step_log(cluster: Cluster, run_id: str, step: str) -> Iterator[str]:
    """The log of a step, in pieces; every attempt when it was started more than once.

    Raises NotFoundError for an unknown run or step, RunStateError for a step that has not started, ClusterError (with
    the command that shows the log) when neither source has it.
    """
    step = step.replace("@", "_", 1)
    status = run_status(cluster, run_id)
    known = [each.name for each in status.steps]
    if step not in known:
        raise NotFoundError(
            f"run {run_id} has no step {step}{did_you_mean(step, known)}", expected=f"one of {', '.join(known)}"
        )
    found = status.steps[known.index(step)]
    if found.started is None:
        raise RunStateError(f"{step} has not started in run {run_id}, so there is no log")
    texts = [text for pod in found.pods if (text := _server_log(cluster, run_id, pod)) is not None]
    if texts:
        yield from texts
        return
    namespace = cluster.namespace or DEFAULT_NAMESPACE
    command = f"kubectl logs -n {namespace} -l {RUN_LABEL}={run_id} -c {CONTAINER} --prefix --tail=-1"
    pods = list(_kubernetes_log(cluster, run_id, step, namespace, command))
    if not pods:
        raise NotFoundError(
            f"neither the server nor Kubernetes has a log of {step} (a cached step has none, old pods are removed)",
            remedy=f"see all pods that are left with `{command}`",
        )
    yield from pods


def _server_log(cluster: Cluster, run_id: str, node_id: str) -> str | None:
    """The log of one workflow node; None when the server does not have it. Raises AccessError."""
    try:
        with cluster.errors():
            answer = cluster.api.call_api(
                LOG_ADDRESS,
                "GET",
                path_params={"run_id": run_id, "node_id": node_id},
                auth_settings=["Bearer"],
                _preload_content=False,
                _return_http_data_only=True,
            )
    except (ClusterError, SettingsError):
        return None
    return bytes(answer.data).decode("utf-8", errors="replace")


def _kubernetes_log(cluster: Cluster, run_id: str, step: str, namespace: str, command: str) -> Iterator[str]:
    """The logs of a step's pods, from the kubeconfig's cluster."""
    import kubernetes
    import urllib3

    spec, _ = compiled_pipeline(cluster, cluster.run(run_id))
    tasks = dag_tasks(spec)
    keys = [key for key, task in tasks.items() if task["taskInfo"]["name"] == step]
    # Argo names a node by its way through the workflow, with the attempt behind it when there may be several.
    node = re.compile(rf"\.({'|'.join(map(re.escape, [*keys, step]))})\.executor(\(\d+\))?$")
    try:
        try:
            kubernetes.config.load_incluster_config()
        except kubernetes.config.ConfigException:
            kubernetes.config.load_kube_config()
        api = kubernetes.client.CoreV1Api()
        pods = api.list_namespaced_pod(namespace, label_selector=f"{RUN_LABEL}={run_id}").items
        for pod in sorted(pods, key=_creation):
            if node.search((pod.metadata.annotations or {}).get(NODE_NAME, "")):
                yield api.read_namespaced_pod_log(pod.metadata.name, namespace, container=CONTAINER)
    except (
        kubernetes.config.ConfigException,
        kubernetes.client.ApiException,
        urllib3.exceptions.HTTPError,
    ) as error:
        raise _no_source(error, command) from error


def _creation(pod: Any) -> str:
    return str(pod.metadata.creation_timestamp or "")


def _no_source(error: Exception, command: str) -> UniflError:
    reason = getattr(error, "reason", None) or error
    return ClusterError(
        f"the server offers no log of this step, and Kubernetes can't be asked from here: {reason}",
        remedy=f"where kubectl reaches the cluster: `{command}`",
    )
