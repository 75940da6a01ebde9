"""The metadata server of a GKE node, as a pod with Workload Identity finds it: short-lived tokens of one identity.

What it answers follows https://cloud.google.com/compute/docs/metadata; google-auth is pointed at it by the variables
that it has for that.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

ACCOUNTS = "/computeMetadata/v1/instance/service-accounts"


class MetadataServer:
    """Hands out `token` to those who ask as Google's libraries do; `identity` is None for a pod without one."""

    def __init__(self, project: str, identity: str | None) -> None:
        self.project, self.identity = project, identity
        self.token, self.lifetime_seconds = "ya29.workload-identity", 3600
        self.asked: list[str] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.host = f"127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What leads google-auth here: one variable for its questions, one for its look whether there is a server."""
        return {"GCE_METADATA_HOST": self.host, "GCE_METADATA_IP": self.host}

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, path: str) -> tuple[int, str, str]:
        """Status, content type and content."""
        if path in ("", "/"):
            return 200, "application/text", "computeMetadata/"
        if path == "/computeMetadata/v1/project/project-id":
            return 200, "application/text", self.project
        if not path.startswith(f"{ACCOUNTS}/") or self.identity is None:
            return 404, "text/html", "not found"
        account, _, what = path.removeprefix(f"{ACCOUNTS}/").partition("/")
        if account not in ("default", self.identity):
            return 404, "text/html", "not found"
        if what == "token":
            content = {"access_token": self.token, "expires_in": self.lifetime_seconds, "token_type": "Bearer"}
            return 200, "application/json", json.dumps(content)
        if what == "":
            scopes = ["https://www.googleapis.com/auth/cloud-platform"]
            content = {"aliases": ["default"], "email": self.identity, "scopes": scopes}
            return 200, "application/json", json.dumps(content)
        return 404, "text/html", "not found"


def _handler(server: MetadataServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            server.asked.append(path)
            # A request that a browser could be led to make gets no token.
            named = self.headers.get("Metadata-Flavor") == "Google"
            status, kind, content = server.answer(path) if named else (403, "text/html", "Missing Metadata-Flavor")
            self.send_response(status)
            self.send_header("Metadata-Flavor", "Google")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
