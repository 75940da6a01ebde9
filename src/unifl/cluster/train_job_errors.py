"""What can go wrong between the Kubeflow SDK and a cluster, as this project's one-line errors with a remedy."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping

from unifl.cluster.parallel import Parallel
from unifl.core.errors import AccessError, ClusterError, SettingsError, UniflError

TRAINER_REMEDY = "install Kubeflow Trainer (docs/gke.md, section 4)"


@contextlib.contextmanager
def sdk_errors(parallel: Parallel) -> Iterator[None]:
    """Turn errors of the SDK, of its Kubernetes client and of a missing package into this project's."""
    try:
        yield
    except UniflError:
        raise
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"the package {error.name} is missing", remedy="pip install 'unifl[cluster]', or the image `train`"
        ) from error
    except Exception as error:
        raise _translated(error, parallel) from error


def _translated(error: Exception, parallel: Parallel) -> UniflError:
    from kubernetes.client import ApiException
    from kubernetes.config import ConfigException

    causes = list(_causes(error))
    refused = next((cause for cause in causes if isinstance(cause, ApiException)), None)
    if refused is not None:
        return _of_answer(refused, str(error), parallel)
    if any(isinstance(cause, ConfigException) for cause in causes):
        return ClusterError(
            "no Kubernetes cluster is configured: this is no pod, and there is no kubeconfig",
            remedy="run the step in the cluster, or set KUBECONFIG; on one machine leave train_job out and nodes at 1",
        )
    if any(type(cause).__module__.startswith("urllib3") or isinstance(cause, OSError) for cause in causes):
        return ClusterError(
            f"no cluster answers: {type(causes[-1]).__name__}",
            remedy="look at `kubectl cluster-info`, the network policies and the kubeconfig",
        )
    return ClusterError(f"Kubeflow Trainer's client failed: {type(error).__name__}: {error}")


def is_absence(error: Exception) -> bool:
    """Whether the SDK says that there is no TrainJob of this name (a missing CRD or runtime is something else)."""
    answer = next((cause for cause in _causes(error) if getattr(cause, "status", None) == 404), None)
    if answer is not None:
        return "page not found" not in str(getattr(answer, "body", "")) and "Runtime" not in str(error)
    return isinstance(error, ValueError) and "No TrainJob" in str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _of_answer(answer: object, what: str, parallel: Parallel) -> UniflError:
    status, body = getattr(answer, "status", None), str(getattr(answer, "body", "") or "")
    where = f"in namespace {parallel.namespace}" if parallel.namespace else "in this namespace"
    if status == 401:
        return AccessError(
            "the cluster does not accept the token (401)", remedy="log in again, or look at the pod's identity"
        )
    if status == 403:
        return AccessError(
            f"not allowed {where} (403): {_message(body)}",
            remedy="apply the rights of manifests/base/rights.yaml, or ask for them",
        )
    if status == 404 and "page not found" in body:
        return ClusterError("this cluster has no TrainJob (its CRD is missing)", remedy=TRAINER_REMEDY)
    if status == 404 and "runtime" in what.lower():
        return ClusterError(
            f"there is no training runtime {parallel.runtime}", remedy="apply the manifests (docs/gke.md, section 5)"
        )
    return ClusterError(f"the cluster refuses ({status}): {_message(body) or what}")


def _message(body: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body


def quota_too_small(name: str, hard: Mapping[str, str], parallel: Parallel) -> None:
    """Raises SettingsError when a ResourceQuota's hard limits are below what the job's nodes ask for together."""
    from kubernetes.utils.quantity import parse_quantity

    wanted = {
        "requests.nvidia.com/gpu": parallel.processes if parallel.gpu else 0,
        "requests.cpu": parallel.cpu_per_process * parallel.processes,
        "limits.cpu": parallel.cpu_per_process * parallel.processes,
        "requests.memory": parallel.memory_gib_per_process * parallel.processes * 2**30,
        "limits.memory": parallel.memory_gib_per_process * parallel.processes * 2**30,
        "pods": parallel.nodes,
    }
    short = [
        f"{key} {hard[key]}" for key, amount in wanted.items() if key in hard and amount > parse_quantity(hard[key])
    ]
    if short:
        raise SettingsError(
            f"{parallel.nodes} x {parallel.processes_per_node} processes never fit into the quota {name} "
            f"({', '.join(short)})",
            remedy="take fewer nodes or processes, or ask for a larger quota (manifests/base/limits.yaml)",
        )
