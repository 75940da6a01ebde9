"""A Kubernetes API as far as TrainJobs go, over HTTP: it keeps state, and runs a TrainJob's command as real processes.

Each node of a job is `bash -c` in a folder of its own, with the variables that Kubeflow Trainer sets for torchrun. The
training runtime is the one of `manifests/base`.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "manifests" / "base" / "training_runtime.yaml"
TRAINER = "/apis/trainer.kubeflow.org/v1alpha1"
NAMESPACE = "unifl"
TIME = "2026-03-01T09:00:00Z"


@dataclass
class Node:
    """One node of a TrainJob: its process and the file of its output."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def phase(self) -> str:
        code = self.process.poll()
        return "Running" if code is None else "Succeeded" if code == 0 else "Failed"


@dataclass
class FakeKubernetes:
    """Serves until `close`. `requests` are "METHOD path"; `refuse` maps a part of a path to (status, body)."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    quotas: dict[str, str] = field(default_factory=dict)
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes: dict[str, list[Node]] = field(default_factory=dict)
    posted: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                path = self.path.partition("?")[0]
                fake.requests.append(f"{self.command} {path}")
                status, content = fake.handle(self.command, path, body)
                text = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        for name in list(self.nodes):
            self._end(name, signal.SIGKILL)
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self) -> Path:
        """A kubeconfig that leads here."""
        address = f"http://127.0.0.1:{self._server.server_address[1]}"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": address}}],
            "users": [{"name": "fake", "user": {"token": "a-token"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": NAMESPACE}}],
        }
        file = self.home / "kubeconfig"
        file.write_text(yaml.safe_dump(content))
        return file

    def handle(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        for part, answer in self.refuse.items():
            if part in f"{method} {path}":
                return answer
        if path == f"{TRAINER}/clustertrainingruntimes/unifl-torch":
            return 200, self.runtime()
        if path == f"{TRAINER}/namespaces/{NAMESPACE}/trainjobs" and method == "POST":
            return self._create(body)
        if match := re.fullmatch(f"{TRAINER}/namespaces/{NAMESPACE}/trainjobs/([^/]+)", path):
            return self._job(method, match[1])
        if path == f"/api/v1/namespaces/{NAMESPACE}/pods":
            return 200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self._pods()}
        if match := re.fullmatch(rf"/api/v1/namespaces/{NAMESPACE}/pods/(.+)-node-0-(\d+)/log", path):
            return 200, self.nodes[match[1]][int(match[2])].log.read_text()
        if path == f"/api/v1/namespaces/{NAMESPACE}/resourcequotas":
            quota = {"metadata": {"name": "unifl"}, "spec": {"hard": self.quotas}}
            return 200, {"kind": "ResourceQuotaList", "apiVersion": "v1", "metadata": {}, "items": [quota]}
        return self._absent(path)

    def runtime(self) -> dict[str, Any]:
        runtime: dict[str, Any] = yaml.safe_load(RUNTIME.read_text(encoding="utf-8"))
        return runtime

    def _absent(self, path: str) -> tuple[int, Any]:
        return 404, {"kind": "Status", "status": "Failure", "reason": "NotFound", "message": f"{path} not found"}

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        name, trainer = body["metadata"]["name"], body["spec"]["trainer"]
        if name in self.jobs:
            message = f'trainjobs.trainer.kubeflow.org "{name}" already exists'
            return 409, {"kind": "Status", "status": "Failure", "reason": "AlreadyExists", "message": message}
        self.posted.append(json.loads(json.dumps(body)))
        body["metadata"] |= {"namespace": NAMESPACE, "creationTimestamp": TIME}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.jobs[name], self.nodes[name] = body, []
        for rank in range(trainer["numNodes"]):
            place = self.home / f"{name}-{rank}"
            place.mkdir(exist_ok=True)
            torchrun = {
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": "1",
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            }
            with (place / "log").open("wb") as log:
                process = subprocess.Popen(
                    trainer["command"],
                    cwd=place,
                    env={**os.environ, **self.environment, **torchrun},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.nodes[name].append(Node(process, place / "log"))
        return 201, body

    def _job(self, method: str, name: str) -> tuple[int, Any]:
        if name not in self.jobs:
            return self._absent(name)
        if method == "DELETE":
            self._end(name, signal.SIGTERM)
            del self.jobs[name]
            return 200, {"kind": "Status", "status": "Success", "details": {"name": name, "kind": "trainjobs"}}
        phases = {node.phase for node in self.nodes[name]}
        ended = "Failed" if "Failed" in phases else "Complete" if phases == {"Succeeded"} else None
        status = {}
        if ended:
            condition = {"type": ended, "status": "True", "reason": ended, "message": ended, "lastTransitionTime": TIME}
            status = {"conditions": [condition]}
        return 200, {**self.jobs[name], "status": status}

    def _end(self, name: str, number: int) -> None:
        for node in self.nodes[name]:
            if node.process.poll() is None:
                os.killpg(node.process.pid, number)
        for node in self.nodes[name]:
            node.process.wait(60)

    def _pods(self) -> list[dict[str, Any]]:
        return [
            {
                "metadata": {
                    "name": f"{name}-node-0-{rank}",
                    "creationTimestamp": TIME,
                    "labels": {
                        "jobset.sigs.k8s.io/jobset-name": name,
                        "jobset.sigs.k8s.io/replicatedjob-name": "node",
                        "batch.kubernetes.io/job-completion-index": str(rank),
                    },
                },
                "spec": {"containers": [{"name": "node", "resources": {}}]},
                "status": {"phase": node.phase},
            }
            for name in self.jobs
            for rank, node in enumerate(self.nodes[name])
        ]
