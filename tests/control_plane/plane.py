"""A Kubernetes control plane of real processes on loopback: etcd, API server, controllers and scheduler.

Certificate and tokens are made anew for each one. There is no kubelet: pods are made and scheduled, and never run.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kubernetes import client, config

from tests.cluster.fake_quota import certificate
from tests.manifests.overlay import kubectl

NAMESPACE = "unifl"
FOLDER_VARIABLE = "UNIFL_CONTROL_PLANE"
RELEASE = "v1.20."
"""What `build.sh` makes; the command lines below are those of this release."""

SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
PATIENCE_SECONDS = 300.0
"""On a machine that is free everything here takes a few seconds; on one that works for others it does not."""

Found = TypeVar("Found")


class MissingProgramError(Exception):
    """A program of the control plane is not here, or is of another release; the message says which."""


def programs() -> dict[str, str]:
    """Path of each program: from the folder in $UNIFL_CONTROL_PLANE, else from the path. Raises MissingProgramError."""
    folder = os.environ.get(FOLDER_VARIABLE)
    path = os.pathsep.join([*([folder] if folder else []), os.environ.get("PATH", "")])
    found = {name: shutil.which(name, path=path) for name in ("etcd", *SERVERS, "setpriv")}
    if missing := [name for name, file in found.items() if file is None]:
        raise MissingProgramError(f"{', '.join(missing)} not found: set {FOLDER_VARIABLE} (docs/control_plane.md)")
    for name in SERVERS:
        release = subprocess.run([str(found[name]), "--version"], capture_output=True, text=True, check=False).stdout
        if not release.startswith(f"Kubernetes {RELEASE}"):
            raise MissingProgramError(f"{found[name]} is {release.strip() or 'of no release'}, not {RELEASE}x")
    return {name: str(file) for name, file in found.items()}


def eventually(
    look: Callable[[], Found | None], what: str, seconds: float = PATIENCE_SECONDS, every: float = 0.05
) -> Found:
    """What `look` finds as soon as it finds something, looking `every` so many seconds; an error after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds:.0f} s still no {what}")
        time.sleep(every)
    return found


class ControlPlane:
    """Runs from construction to `close`; `controllers` adds the controller manager and the scheduler."""

    def __init__(self, folder: Path, *, controllers: bool = True) -> None:
        self.folder = folder
        self._programs = programs()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._clients: dict[str, client.ApiClient] = {}
        self._tokens = {name: secrets.token_urlsafe(24) for name in ("admin", *SERVERS[1:])}
        self.port = free_port()
        self.address = f"https://127.0.0.1:{self.port}"
        self.ca = folder / "server.crt"
        try:
            self._start_server()
            if controllers:
                self._start_controllers()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for api in self._clients.values():
            api.close()
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start_server(self) -> None:
        etcd, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
        )
        certificate(self.ca, self.folder / "server.key")
        signing_key(self.folder / "accounts.key")
        users = [("admin", "system:masters"), *((name, "") for name in SERVERS[1:])]
        lines = [
            f'{self._tokens[name]},{name if group else f"system:{name}"},{name},"{group}"\n' for name, group in users
        ]
        (self.folder / "tokens.csv").write_text("".join(lines))
        self._run(
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--tls-cert-file={self.ca}",
            f"--tls-private-key-file={self.folder / 'server.key'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            # As on GKE: a pod that asks for a GPU gets the toleration of the taint that GPU nodes have.
            "--enable-admission-plugins=ExtendedResourceToleration",
            # Nobody is there to take the taint not-ready from Nodes again.
            "--disable-admission-plugins=TaintNodesByCondition",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / 'accounts.key'}",
            f"--service-account-signing-key-file={self.folder / 'accounts.key'}",
            "--kubelet-preferred-address-types=InternalIP",
        )
        with urllib3.PoolManager(ca_certs=str(self.ca), retries=False, timeout=5.0) as pool:
            eventually(lambda: self._is_ready(pool), "API server that is ready", every=0.25)

    def _is_ready(self, pool: urllib3.PoolManager) -> bool:
        for process in self._processes:
            if process.poll() is not None:
                logs = {
                    file.name: file.read_text(errors="replace").splitlines()[-8:] for file in self.folder.glob("*.log")
                }
                raise RuntimeError(f"{process.args} ended with code {process.returncode}: {logs}")
        try:
            bearer = {"Authorization": f"Bearer {self._tokens['admin']}"}
            return pool.request("GET", f"{self.address}/readyz", headers=bearer).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _start_controllers(self) -> None:
        manager = (
            # Nodes here have no kubelet; without these controllers nobody finds them dead.
            "--controllers=*,-nodelifecycle,-nodeipam,-cloud-node-lifecycle,-route,-service",
            f"--root-ca-file={self.ca}",
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
            "--use-service-account-credentials=true",
        )
        for name, options in (("kube-controller-manager", manager), ("kube-scheduler", ())):
            unlistening = ("--leader-elect=false", "--port=0", "--secure-port=0")
            self._run(name, f"--kubeconfig={self._kubeconfig(name)}", *unlistening, *options)

    def _run(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            # Should the tests be killed, nothing goes on without them.
            command = ["setpriv", "--pdeathsig", "TERM", self._programs[name], *options]
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder))

    def _kubeconfig(self, name: str) -> Path:
        return self.kubeconfig(self._tokens[name], name)

    def kubeconfig(self, token: str, name: str) -> Path:
        """A kubeconfig file for the bearer of `token`."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "plane",
            "clusters": [{"name": "plane", "cluster": {"server": self.address, "certificate-authority": str(self.ca)}}],
            "users": [{"name": "bearer", "user": {"token": token}}],
            "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": "bearer", "namespace": NAMESPACE}}],
        }
        file = self.folder / f"{name}.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(json.dumps(content))
        return file

    def kubectl(self, *arguments: str, given: list[dict[str, Any]] | None = None) -> subprocess.CompletedProcess[str]:
        """kubectl as an administrator, with the resources `given` as its file."""
        if given is not None:
            arguments = (*arguments, "--filename=-")
        items = {"apiVersion": "v1", "kind": "List", "items": given}
        return subprocess.run(
            [kubectl(), f"--kubeconfig={self._kubeconfig('admin')}", *arguments],
            input=None if given is None else json.dumps(items),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
        )

    def client(self, token: str | None = None) -> client.ApiClient:
        """The official client, for the bearer of `token` or an administrator."""
        bearer = token or self._tokens["admin"]
        if bearer not in self._clients:
            file = self.kubeconfig(bearer, f"bearer-{len(self._clients)}")
            self._clients[bearer] = config.new_client_from_config(str(file))
        return self._clients[bearer]

    def token(self, account: str) -> str:
        """A token of a service account of the namespace, as its pods get one."""
        request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[]))
        core = client.CoreV1Api(self.client())
        answer: Any = core.create_namespaced_service_account_token(account, NAMESPACE, request)
        return str(answer.status.token)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def signing_key(file: Path) -> None:
    """Write a key that service account tokens are signed with."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    file.touch(mode=0o600)
    file.write_bytes(pem)
