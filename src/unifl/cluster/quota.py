"""Whether a cluster can ever give a run what its tasks ask for: ResourceQuota, and Kubeflow Trainer where it is needed.

Asked by `preflight` in its pod, as the pod's service account. Not by the official client: with its 31 MB the image
`data`, which has all else that preflight needs, would be larger than it may be.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import Field

from unifl.core.errors import AccessError, ClusterError, SettingsError, UniflError
from unifl.core.settings import StepSettings

GPU = "nvidia.com/gpu"
TRAINER = "trainer.kubeflow.org"

HOST_VARIABLE, PORT_VARIABLE = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds `token`, `ca.crt` and `namespace`."""

CONNECT_SECONDS, ANSWER_SECONDS, RETRIES = 5.0, 30.0, 3

_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(1000),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("MGTPE", 2)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}
_QUANTITY = re.compile(r"([+-]?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?|[+-]?[0-9]+\.)([numkMGTPE]|[KMGTPE]i)?")


class Demand(StepSettings):
    """What the pods of one task ask for together; a limit is as high as the request."""

    task: str
    gpus: int = Field(0, ge=0, description="GPUs, over all nodes.")
    cpu: str = Field("", description="CPU cores, as Kubernetes spells them.")
    memory: str = Field("", description="Memory, as Kubernetes spells it.")
    train_job: bool = Field(False, description="Whether they run as a TrainJob.")


def cluster_problems(namespace: str, demands: Sequence[Demand]) -> tuple[list[UniflError], list[str]]:
    """What stands in the way of `demands` in `namespace`, and remarks on what will only have to wait."""
    try:
        return _asked(namespace, demands)
    except UniflError as error:
        return [error], []


def quantity(text: str) -> Decimal:
    """A quantity as Kubernetes spells it (`500m`, `8Gi`, `1e3`). Raises ClusterError for anything else."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ClusterError(f"{text!r} is no quantity of Kubernetes", expected="a number like 500m, 8Gi or 1e3")
    return Decimal(match[1]) * _SUFFIXES[match[2] or ""]


def _asked(namespace: str, demands: Sequence[Demand]) -> tuple[list[UniflError], list[str]]:
    api = _Api()
    problems: list[UniflError] = []
    if api.namespace != namespace:
        problems.append(
            SettingsError(
                f"this pod runs in namespace {api.namespace}, the run was submitted for {namespace}",
                remedy="submit with --namespace, or set `namespace` in the placement",
            )
        )
    quotas = api.get(f"/api/v1/namespaces/{api.namespace}/resourcequotas")["items"]
    found, remarks = _against(quotas, demands, api.namespace)
    problems += found
    jobs = [demand.task for demand in demands if demand.train_job]
    if jobs and TRAINER not in {group["name"] for group in api.get("/apis")["groups"]}:
        problems.append(
            ClusterError(
                f"the cluster has no {TRAINER}, which {', '.join(jobs)} needs",
                remedy="install Kubeflow Trainer (docs/gke.md, section 4), or take a placement with one node",
            )
        )
    return problems, remarks


class _Api:
    """The Kubernetes API as a pod reaches it, to be read."""

    def __init__(self) -> None:
        import urllib3

        host = os.environ.get(HOST_VARIABLE)
        if not host:
            raise ClusterError(
                f"this is no pod of a cluster: {HOST_VARIABLE} is not set",
                remedy="outside a cluster leave preflight.namespace out",
            )
        try:
            token, self.namespace = (_word(SERVICE_ACCOUNT / name) for name in ("token", "namespace"))
        except OSError as error:
            raise ClusterError(
                f"this pod has no identity: {error.strerror}", file=error.filename, remedy="mount its service account"
            ) from error
        self._address = f"https://{f'[{host}]' if ':' in host else host}:{os.environ.get(PORT_VARIABLE, '443')}"
        self._pool = urllib3.PoolManager(
            headers={"Authorization": f"Bearer {token}"},
            ca_certs=str(SERVICE_ACCOUNT / "ca.crt"),
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS),
            retries=urllib3.Retry(
                RETRIES, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False
            ),
        )

    def get(self, path: str) -> dict[str, Any]:
        import urllib3

        try:
            answer = self._pool.request("GET", self._address + path)
            if answer.status == 200:
                content: dict[str, Any] = json.loads(answer.data)
                return content
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise ClusterError(
                f"the Kubernetes API does not answer: {type(reason).__name__}",
                remedy="look at the network policies (manifests, allow-kubernetes-api)",
            ) from error
        if answer.status == 401:
            raise AccessError(
                "the Kubernetes API does not accept the pod's token (401)",
                remedy="look at the service account; start the run again",
            )
        if answer.status == 403:
            raise AccessError(
                f"this identity may not read resource quotas of namespace {self.namespace} (403)",
                remedy="apply manifests/base/rights.yaml, and submit with --service-account unifl-pipeline",
            )
        raise ClusterError(f"the Kubernetes API answers {answer.status} to {path}", remedy="try again")


def _word(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip()


def _against(
    quotas: Sequence[Mapping[str, Any]], demands: Sequence[Demand], namespace: str
) -> tuple[list[UniflError], list[str]]:
    problems: list[UniflError] = []
    remarks: list[str] = []
    for quota in quotas:
        status, name = quota.get("status") or {}, quota["metadata"]["name"]
        hard = status.get("hard") or quota["spec"].get("hard") or {}
        used = status.get("used") or {}
        for demand in demands:
            for resource, asked in _amounts(demand):
                if resource not in hard:
                    continue
                limit, wanted = quantity(hard[resource]), quantity(asked)
                left = limit - quantity(used.get(resource, "0"))
                what = f"{demand.task} asks for {asked} of {resource}, quota {name} of {namespace}"
                if wanted > limit:
                    problems.append(
                        SettingsError(
                            f"{what} has {hard[resource]} in all",
                            remedy="raise the quota (manifests/base/limits.yaml), or take a smaller --placement",
                        )
                    )
                elif wanted > left:
                    remarks.append(f"{what} has {left.normalize():f} left now: it will wait for other runs")
    return problems, remarks


def _amounts(demand: Demand) -> Iterator[tuple[str, str]]:
    if demand.gpus:
        yield f"requests.{GPU}", str(demand.gpus)
    for resource, amount in (("cpu", demand.cpu), ("memory", demand.memory)):
        if amount:
            yield from ((f"{kind}{resource}", amount) for kind in ("requests.", "limits."))
