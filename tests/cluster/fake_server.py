"""A Kubeflow Pipelines server for tests: keeps state, speaks HTTP on this machine, is built on the client's own models.

It holds experiments, pipelines, versions, runs and recurring runs, and answers as server 2.17 does where that matters:
tasks under their compiled names among drivers and executors, outputs of tasks left empty, errors as JSON. The module
`fake_metadata` adds the metadata store, `FakeServer.pods` a little of Kubernetes.
"""

import json
import re
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as api

from pipelines.compiling import dag_tasks, documents
from tests.cluster.fake_metadata import answer_metadata

START = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
ENDED = ("SUCCEEDED", "FAILED", "CANCELED")
_SERIALISER = api.ApiClient()


class Refused(Exception):
    """An HTTP error that the server answers with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class FakeServer:
    """The server and its state. `tasks_per_look` tasks finish every time somebody asks for a run."""

    def __init__(self) -> None:
        self.experiments: dict[str, Any] = {}
        self.pipelines: dict[str, Any] = {}
        self.versions: dict[str, Any] = {}
        self.runs: dict[str, Any] = {}
        self.schedules: dict[str, Any] = {}
        self.requests: list[tuple[str, str]] = []
        self.token: str | None = None
        self.namespaces: set[str] | None = None
        """Namespaces that this user may use; None for a single-user installation."""
        self.tasks_per_look = 0
        self.failing: set[str] = set()
        self.cached: set[str] = set()
        self.task_seconds = 1800
        self.logs: dict[tuple[str, str], str] = {}
        self.pods: list[dict[str, Any]] = []
        self.pod_logs: dict[str, str] = {}
        self.metadata_store = True
        self.login_page = False
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.host = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    # What tests look at and change.

    def start(self, spec: dict[str, Any], parameters: dict[str, str] | None = None, name: str = "past") -> str:
        """Start a run of a compiled pipeline as another client has; returns its id."""
        experiment = self._create_experiment(b'{"display_name": "others"}') if self.namespaces is None else None
        if experiment is None:
            experiment = api.V2beta1Experiment(experiment_id=_key(), namespace=min(self.namespaces or ()))
            self.experiments[experiment.experiment_id] = experiment
        names = spec.get("pipeline_spec", spec)["root"].get("inputDefinitions", {}).get("parameters", {})
        body = {
            "experiment_id": experiment.experiment_id,
            "display_name": name,
            "pipeline_spec": spec,
            "runtime_config": {"parameters": parameters or dict.fromkeys(names, "x")},
        }
        return str(self._create_run(json.dumps(body).encode()).run_id)

    def spec(self, run: Any) -> dict[str, Any]:
        """The compiled pipeline of a run, first document."""
        if run.pipeline_spec:
            return run.pipeline_spec.get("pipeline_spec", run.pipeline_spec)
        spec = self.versions[run.pipeline_version_reference.pipeline_version_id].pipeline_spec
        return spec.get("pipeline_spec", spec)

    def finish(self, run_id: str, tasks: int = 10**6) -> None:
        """Let the next `tasks` tasks of a run end, in the order of the flow."""
        run = self.runs[run_id]
        details = {detail.display_name: detail for detail in run.run_details.task_details}
        for key, task in self._in_order(run):
            if tasks == 0 or run.state in ENDED:
                return
            if details[key].state is not None:
                continue
            name, tasks = task["taskInfo"]["name"], tasks - 1
            began = START + timedelta(seconds=self.task_seconds * sum(d.end_time is not None for d in details.values()))
            state = "FAILED" if name in self.failing else "SUCCEEDED"
            seconds = 0 if name in self.cached else self.task_seconds
            details[key].start_time, details[key].end_time = began, began + timedelta(seconds=seconds)
            details[key].state = state
            if state == "FAILED":
                run.state, run.finished_at = "FAILED", details[key].end_time
                if "run-summary" in details:  # the exit handler runs all the same
                    details["run-summary"].state = "SUCCEEDED"
                run.error = api.GoogleRpcStatus(code=13, message=f"task {key} failed")
        if all(details[key].state for key, _ in self._in_order(run)):
            run.state = "SUCCEEDED"
            run.finished_at = max(detail.end_time for detail in details.values() if detail.end_time)

    def _in_order(self, run: Any) -> list[tuple[str, dict[str, Any]]]:
        waiting, ordered = dag_tasks(self.spec(run)), []
        while waiting:
            done = {key for key, _ in ordered}
            ready = [key for key, task in waiting.items() if done.issuperset(task.get("dependentTasks", []))]
            ordered += [(key, waiting.pop(key)) for key in ready]
        return ordered

    # The answers.

    def answer(self, method: str, path: str, query: dict[str, str], headers: Any, body: bytes) -> Any:
        self.requests.append((method, path))
        if self.login_page:
            return "<!doctype html><title>Log in</title>"
        if path.startswith("/api/v1/"):
            return self._kubernetes(path, query)
        if self.token is not None and headers.get("Authorization") != f"Bearer {self.token}":
            raise Refused(401, "Request is unauthenticated: the token has expired")
        if path.startswith("/ml_metadata."):
            if not self.metadata_store:
                raise Refused(404, "page not found")
            return answer_metadata(self, path.rpartition("/")[2], body)
        for verb, pattern, handle in self._routes():
            match = re.fullmatch(pattern, path)
            if match and verb == method:
                return handle(*match.groups(), query=query, body=body, headers=headers)
        raise Refused(404, f"no route for {method} {path}")

    def _routes(self) -> list[tuple[str, str, Callable[..., Any]]]:
        v2, one = "/apis/v2beta1", "/([^/:]+)"
        return [
            ("GET", f"{v2}/healthz", lambda **_: {"multi_user": self.namespaces is not None}),
            ("GET", f"{v2}/experiments", self._list(self.experiments, "experiments")),
            ("POST", f"{v2}/experiments", self._create_experiment),
            ("GET", f"{v2}/pipelines", self._list(self.pipelines, "pipelines")),
            ("POST", f"{v2}/pipelines", self._create_pipeline),
            ("POST", f"{v2}/pipelines/upload_version", self._upload_version),
            ("GET", f"{v2}/pipelines{one}/versions", self._list_versions),
            ("GET", f"{v2}/pipelines{one}/versions{one}", self._get_version),
            ("GET", f"{v2}/runs", self._list(self.runs, "runs")),
            ("POST", f"{v2}/runs", self._create_run),
            ("GET", f"{v2}/runs{one}", self._get_run),
            ("POST", f"{v2}/runs{one}:terminate", self._terminate_run),
            ("GET", f"{v2}/recurringruns", self._list(self.schedules, "recurringRuns")),
            ("POST", f"{v2}/recurringruns", self._create_schedule),
            ("POST", f"{v2}/recurringruns{one}:enable", self._switch_schedule("ENABLE")),
            ("POST", f"{v2}/recurringruns{one}:disable", self._switch_schedule("DISABLE")),
            (
                "DELETE",
                f"{v2}/recurringruns{one}",
                lambda key, **_: self._found(self.schedules, key) and self.schedules.pop(key) and {},
            ),
            ("GET", f"/apis/v1alpha1/runs{one}/nodes{one}/log", self._log),
        ]

    def _found(self, kept: dict[str, Any], key: str) -> Any:
        if key not in kept:
            raise Refused(404, f"{key} not found")
        return kept[key]

    def _check_namespace(self, namespace: str | None) -> None:
        if self.namespaces is None and namespace:
            raise Refused(400, "Invalid input error: In single-user mode, namespace must be empty")
        if self.namespaces is not None and not namespace:
            raise Refused(400, "Invalid input error: Invalid resource references. Namespace is empty")
        if self.namespaces is not None and namespace not in self.namespaces:
            raise Refused(403, f"User 'ann' is not authorized in namespace {namespace}")

    def _list(self, kept: dict[str, Any], name: str) -> Callable[..., Any]:
        def listed(query: dict[str, str], **_: Any) -> Any:
            self._check_namespace(query.get("namespace"))
            return _page(list(kept.values()), name, query)

        return listed

    def _create_experiment(self, body: bytes, **_: Any) -> Any:
        experiment = _model(body, "V2beta1Experiment")
        self._check_namespace(experiment.namespace)
        experiment.experiment_id = _key()
        return self.experiments.setdefault(experiment.experiment_id, experiment)

    def _create_pipeline(self, body: bytes, **_: Any) -> Any:
        pipeline = _model(body, "V2beta1Pipeline")
        self._check_namespace(pipeline.namespace)
        pipeline.pipeline_id = _key()
        return self.pipelines.setdefault(pipeline.pipeline_id, pipeline)

    def _upload_version(self, query: dict[str, str], body: bytes, headers: Any, **_: Any) -> Any:
        self._found(self.pipelines, query["pipelineid"])
        if any(version.display_name == query["name"] for version in self.versions.values()):
            raise Refused(409, f"already exist error: the name {query['name']}")
        message = BytesParser(policy=HTTP).parsebytes(
            b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body
        )
        (part,) = [
            part
            for part in message.iter_parts()
            if part.get_param("name", header="content-disposition") == "uploadfile"
        ]
        parts = documents(part.get_content())
        spec = parts[0] if len(parts) == 1 else {"pipeline_spec": parts[0], "platform_spec": parts[1]}
        version = api.V2beta1PipelineVersion(
            pipeline_id=query["pipelineid"],
            pipeline_version_id=_key(),
            display_name=query["name"],
            created_at=START,
            pipeline_spec=spec,
        )
        return self.versions.setdefault(version.pipeline_version_id, version)

    def _list_versions(self, pipeline_id: str, query: dict[str, str], **_: Any) -> Any:
        self._found(self.pipelines, pipeline_id)
        own = [version for version in self.versions.values() if version.pipeline_id == pipeline_id]
        return _page(own, "pipeline_versions", query)

    def _get_version(self, pipeline_id: str, version_id: str, **_: Any) -> Any:
        self._found(self.pipelines, pipeline_id)
        return self._found(self.versions, version_id)

    def _checked(self, started: Any) -> None:
        """A run or a schedule has an experiment, one source of its pipeline, and exactly that pipeline's parameters."""
        self._found(self.experiments, started.experiment_id)
        if (started.pipeline_spec is None) == (started.pipeline_version_reference is None):
            raise Refused(400, "give a pipeline spec or a version")
        if started.pipeline_version_reference:
            self._found(self.versions, started.pipeline_version_reference.pipeline_version_id)
        wanted = set(self.spec(started)["root"].get("inputDefinitions", {}).get("parameters", {}))
        if wanted != set(started.runtime_config.parameters or {}):
            raise Refused(400, "the parameters are not the pipeline's")

    def _create_run(self, body: bytes, **_: Any) -> Any:
        run = _model(body, "V2beta1Run")
        self._checked(run)
        run.run_id, run.state = _key(), "RUNNING"
        run.created_at = START + timedelta(minutes=len(self.runs))
        details = [_detail("root"), _detail("root-driver")]
        for key, _task in self._in_order(run):
            link = api.PipelineTaskDetailChildTask(pod_name=f"unifl-{key}-1")
            details += [_detail(key, [link]), _detail(f"{key}-driver"), _detail("executor")]
        run.run_details = api.V2beta1RunDetails(task_details=details)
        return self.runs.setdefault(run.run_id, run)

    def _get_run(self, run_id: str, **_: Any) -> Any:
        run = self._found(self.runs, run_id)
        if run.state == "RUNNING" and self.tasks_per_look:
            self.finish(run_id, self.tasks_per_look)
        return run

    def _terminate_run(self, run_id: str, **_: Any) -> Any:
        self._found(self.runs, run_id).state = "CANCELING"
        return {}

    def _create_schedule(self, body: bytes, **_: Any) -> Any:
        schedule = _model(body, "V2beta1RecurringRun")
        self._checked(schedule)
        schedule.recurring_run_id, schedule.created_at = _key(), START
        schedule.status = "ENABLED"
        return self.schedules.setdefault(schedule.recurring_run_id, schedule)

    def _switch_schedule(self, mode: str) -> Callable[..., Any]:
        def switch(key: str, **_: Any) -> Any:
            schedule = self._found(self.schedules, key)
            schedule.mode, schedule.status = mode, f"{mode}D"
            return {}

        return switch

    def _log(self, run_id: str, node_id: str, **_: Any) -> Any:
        self._found(self.runs, run_id)
        if (run_id, node_id) not in self.logs:
            raise Refused(500, f"failed to get the log of {node_id}")
        return self.logs[run_id, node_id]

    def _kubernetes(self, path: str, query: dict[str, str]) -> Any:
        parts = path.split("/")
        if len(parts) == 6:
            label, _, value = query["labelSelector"].partition("=")
            pods = [pod for pod in self.pods if pod["metadata"]["labels"].get(label) == value]
            return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}
        if query["container"] != "main" or parts[6] not in self.pod_logs:
            raise Refused(404, "no such pod")
        return self.pod_logs[parts[6]]


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            address = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(address.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, kind = 200, "application/json"
            try:
                answer = server.answer(self.command, address.path, query, self.headers, body)
            except Refused as error:
                status = error.status
                answer = {"error": error.message, "code": 13, "message": error.message, "details": []}
            if isinstance(answer, bytes):
                content, kind = answer, "application/grpc-web+proto"
            elif isinstance(answer, str):
                content, kind = answer.encode(), "text/html" if answer.startswith("<") else "text/plain"
            else:
                content = json.dumps(_SERIALISER.sanitize_for_serialization(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, *_: Any) -> None:
            """Stay silent."""

    return Handler


def _model(body: bytes, kind: str) -> Any:
    """A request's body as one of the client's models."""
    return _SERIALISER._ApiClient__deserialize(json.loads(body), kind)


def _page(kept: list[Any], name: str, query: dict[str, str]) -> dict[str, Any]:
    for predicate in json.loads(query.get("filter", "{}")).get("predicates", []):
        assert predicate["operation"] in ("EQUALS", 1)
        kept = [each for each in kept if getattr(each, predicate["key"]) == predicate["stringValue"]]
    if query.get("sort_by") == "created_at desc":
        kept = sorted(kept, key=lambda each: each.created_at, reverse=True)
    size, start = int(query.get("page_size") or 10), int(query.get("page_token") or 0)
    page: dict[str, Any] = {name: kept[start : start + size]}
    if start + size < len(kept):
        page["next_page_token"] = str(start + size)
    return page


def _detail(name: str, links: list[Any] | None = None) -> Any:
    return api.V2beta1PipelineTaskDetail(task_id=_key(), display_name=name, child_tasks=links)


def _key() -> str:
    return str(uuid.uuid4())
