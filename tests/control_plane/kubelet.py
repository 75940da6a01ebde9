"""As much of a node as the API server asks of one when somebody reads a pod's log: its Node, and the log over TLS."""

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kubernetes import client

from tests.cluster.fake_quota import certificate

NODE = "log-server"


class Kubelet:
    """Serves until `close`; `logs` maps a pod to what its container has printed."""

    def __init__(self, folder: Path) -> None:
        self.logs: dict[str, str] = {}
        self.asked: list[str] = []
        kubelet = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kubelet.asked.append(self.path)
                _, verb, _, pod, _ = self.path.partition("?")[0].split("/")
                log = kubelet.logs.get(pod) if verb == "containerLogs" else None
                content = (log or "there is no such container").encode()
                self.send_response(200 if log is not None else 404)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Stay silent."""

        certificate(folder / "kubelet.crt", folder / "kubelet.key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "kubelet.crt", folder / "kubelet.key")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def node(self) -> client.V1Node:
        """The Node of this machine; nothing is scheduled to it."""
        port = client.V1DaemonEndpoint(port=self._server.server_port)
        return client.V1Node(
            metadata=client.V1ObjectMeta(name=NODE),
            spec=client.V1NodeSpec(unschedulable=True),
            status=client.V1NodeStatus(
                addresses=[client.V1NodeAddress(type="InternalIP", address="127.0.0.1")],
                daemon_endpoints=client.V1NodeDaemonEndpoints(kubelet_endpoint=port),
            ),
        )
