"""The connection to Kubeflow Pipelines: `kfp.Client` with one-line errors in the place of tracebacks.

Where the cluster is and who asks comes from options, or from the variables that kfp knows: KF_PIPELINES_ENDPOINT,
KF_PIPELINES_UI_ENDPOINT, KF_PIPELINES_SA_TOKEN_PATH, the kubeconfig, or the pod that this runs in.
"""

import contextlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unifl.core.errors import AccessError, ClusterError, NotFoundError, SettingsError

ENDPOINT, UI_ENDPOINT, TOKEN_PATH = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT", "KF_PIPELINES_SA_TOKEN_PATH"
CONNECT_SECONDS, ANSWER_SECONDS = 5, 30
"""How long the first question may take to connect and to be answered; without a limit a lost address hangs for
minutes."""

SHOWN_CHARACTERS = 300
"""How much of a server's own message goes into an error's line."""

REACH = f"check --host or {ENDPOINT}; from outside: kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80"


@dataclass(frozen=True)
class Cluster:
    """Where the cluster is and who asks.

    Attributes:
        host: address of Kubeflow Pipelines (its user interface, or its API server); None takes the kubeconfig or the
            pod's own cluster.
        namespace: the user's namespace; None in a single-user installation.
        token_file: file with a bearer token, read again for every request, so that a renewed token counts at once.
    """

    host: str | None = None
    namespace: str | None = None
    token_file: str | None = None

    @cached_property
    def client(self) -> Any:
        """A `kfp.Client` that has been answered. Raises AccessError or ClusterError."""
        host = self.host or os.environ.get(ENDPOINT)
        token_file = self.token_file or os.environ.get(TOKEN_PATH)
        if not host and not _in_kubernetes():
            raise ClusterError("no cluster is named", remedy=f"give --host or set {ENDPOINT}")
        if token_file and not Path(token_file).is_file():
            raise AccessError("the token file does not exist", file=token_file, remedy=f"check {TOKEN_PATH}")
        with self.errors():
            return _answered_client(host, self.namespace, token_file)

    @property
    def api(self) -> Any:
        """The generated client underneath, for addresses that `kfp.Client` has no method for."""
        return self.client.runs.run_service_get_run.__self__.api_client

    def link(self, run_id: str) -> str | None:
        """Where a browser shows a run; None when only the API's own proxy is known."""
        ui = os.environ.get(UI_ENDPOINT) or self.host or os.environ.get(ENDPOINT)
        if not ui:
            return None
        return f"{ui if '://' in ui else 'https://' + ui}".rstrip("/") + f"/#/runs/details/{run_id}"

    def run(self, run_id: str) -> Any:
        """The run (`V2beta1Run`). Raises NotFoundError."""
        with self.errors(f"run {run_id}"):
            return self.client.get_run(run_id)

    @contextlib.contextmanager
    def errors(self, wanted: str | None = None) -> Iterator[None]:
        """Turn what kfp raises into the project's errors; `wanted` is what a 404 has not found.

        kfp prints links of its own; they go nowhere, so that standard output stays this project's.
        """
        import kfp_server_api
        import urllib3

        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                yield
        except kfp_server_api.ApiException as error:
            raise self._refused(error, wanted) from error
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise ClusterError(
                f"no cluster answers at {self._address()}: {type(reason).__name__}", remedy=REACH
            ) from error
        except _NotKubeflow as error:
            raise ClusterError(
                f"what answers at {self._address()} is not Kubeflow Pipelines; it may be a login page",
                remedy=f"check --host, and --token-file or {TOKEN_PATH}",
            ) from error

    def _refused(self, error: Any, wanted: str | None) -> Exception:
        said = _message(error)
        if error.status == 401:
            return AccessError(
                f"the cluster does not accept the token (401): {said}",
                remedy=f"make a new token and give its file as --token-file or {TOKEN_PATH}",
            )
        if error.status == 403:
            return AccessError(
                f"not allowed in namespace {self.namespace or '(none given)'} (403): {said}",
                remedy="ask for the role kubeflow-edit there, or give another --namespace",
            )
        if error.status == 404 and wanted:
            return NotFoundError(
                f"there is no {wanted}", remedy="`python -m pipelines status` lists the last runs of this namespace"
            )
        if error.status == 400 and "namespace" in said.lower():
            return AccessError(
                f"the namespace {self.namespace or '(none given)'} is wrong: {said}",
                remedy="give --namespace with your profile's name; leave it out in a single-user installation",
            )
        if error.status == 400:
            return SettingsError(f"the cluster refuses the request (400): {said}")
        if not error.status:
            return ClusterError(f"no cluster answers at {self._address()}: {said}", remedy=REACH)
        return ClusterError(
            f"the cluster answered {error.status}: {said}", remedy="try again; see its API server's log"
        )

    def _address(self) -> str:
        return self.host or os.environ.get(ENDPOINT) or "the address of the kubeconfig"


class _NotKubeflow(Exception):
    """Something else than Kubeflow Pipelines answered."""


def _in_kubernetes() -> bool:
    """Whether kfp can find a cluster by itself: in a pod, or by a kubeconfig."""
    named = os.environ.get("KUBECONFIG", str(Path.home() / ".kube" / "config")).split(os.pathsep)
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(Path(file).is_file() for file in named if file)


def _answered_client(host: str | None, namespace: str | None, token_file: str | None) -> Any:
    import kfp
    from kfp.client import ServiceAccountTokenVolumeCredentials

    class Client(kfp.Client):
        def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
            """Asked once and with a time limit; kfp asks five times and logs five tracebacks."""
            api = self._healthz_api
            answer = api.healthz_service_get_healthz(_request_timeout=(CONNECT_SECONDS, ANSWER_SECONDS))
            # The generated client makes an empty answer of a page that is not JSON.
            if "html" in api.api_client.last_response.getheader("Content-Type", ""):
                raise _NotKubeflow
            return answer

    given: dict[str, Any] = {"host": host}
    if namespace:
        given["namespace"] = namespace
    if token_file:
        given["credentials"] = ServiceAccountTokenVolumeCredentials(path=token_file)
    client = Client(**given)
    client.get_kfp_healthz()
    return client


def _message(error: Any) -> str:
    """The server's own words in an error, one line."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
    try:
        content = json.loads(body or "")
        text = content.get("message") or content.get("error_message") or content.get("error") or body
    except (ValueError, AttributeError):
        text = body or error.reason or "no reason given"
    line = " ".join(str(text).split())
    return line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + "..."
