"""A server that stands for Google Cloud's and Kubernetes' interfaces: it says "done" to everything and keeps the list.

It shows that a command line is complete and what it would ask for; it knows nothing of what the real services would
say.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DONE = {
    "name": "operations/done",
    "status": "DONE",
    "done": True,
    "response": {},
    "etag": "ZXRhZw==",
    "bindings": [],
    "projectNumber": "123456789012",
    "endpoint": "203.0.113.7",
    "masterAuth": {"clusterCaCertificate": "bm9uZQ=="},
}
RECORDED = "/recorded"


class Recorder:
    """The server; `requests` holds "METHOD PATH" of every request."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.path == RECORDED:
                    content = json.dumps(recorder.requests).encode()
                else:
                    recorder.requests.append(f"{self.command} {self.path}")
                    answer = {**DONE, "selfLink": f"{recorder.host}{self.path}"}
                    if "/repositories" in self.path:  # its operations have long names
                        answer["name"] = (
                            self.path.partition("/v1/")[2].partition("/repositories")[0] + "/operations/done"
                        )
                    if "/aggregated/" in self.path:
                        answer["items"] = {}
                    content = json.dumps({**answer, "targetLink": answer["selfLink"]}).encode()
                # No object is there yet.
                missing = self.command == "GET" and "/storage/v1/" in self.path and "/o/" in self.path
                self.send_response(404 if missing else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
