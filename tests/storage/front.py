"""A front for the storage emulator: adds what the emulator lacks of Google Cloud Storage, and what networks do.

It passes requests on to the real emulator, enforces generation preconditions as the real service does, counts what went
over the wire, and can cut, hold, damage or refuse requests.
"""

import http.client
import json
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request: what object it is about, how many bytes it carried, and the status that it was answered with."""

    method: str
    path: str
    query: dict[str, str]
    name: str
    sent: int
    status: int


class Front:
    """The front and its wishes. Hooks get the request before it is passed on, as (method, path, query, body)."""

    def __init__(self, emulator_port: int) -> None:
        self.emulator_port = emulator_port
        self.asked: list[Asked] = []
        self.granted: list[str] | None = None
        """The permissions that this user has; None for all."""
        self.token: str | None = None
        """The bearer token that every request must bring; None for none."""
        self.refusal: tuple[int, str] | None = None
        """Status and message of every answer; None to pass requests on."""
        self.before: Callable[[str, str, dict[str, str], bytes], None] = lambda *_: None
        """Called with every request; may wait, or raise ConnectionError to cut the connection."""
        self.damage: Callable[[str, str, bytes], bytes] = lambda _method, _path, content: content
        """What becomes of the bytes of an upload's or download's body on the way."""
        self._names: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.host = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def uploads(self) -> list[Asked]:
        """The requests that carried the bytes of objects, or joined them."""
        return [each for each in self.asked if each.method in ("POST", "PUT") and each.sent and each.status < 300]

    def writes(self) -> list[Asked]:
        """The requests that begin the writing of an object."""
        beginning = [each for each in self.asked if each.method == "POST" and each.name]
        return [each for each in beginning if "upload_id" not in each.query]

    def answer(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        address = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(address.query, keep_blank_values=True).items()}
        self.before(method, address.path, query, body)
        about = self._names.get(query.get("upload_id", ""), ("", self._object(address.path, query, body)))[1]
        name = unquote(about.partition("/o/")[2])
        authorisation = {key.lower(): value for key, value in headers.items()}.get("authorization")
        if self.token and authorisation != f"Bearer {self.token}":
            status, content = 401, _error(401, "Invalid Credentials")
        elif self.refusal:
            status, content = self.refusal[0], _error(*self.refusal)
        elif self.granted is not None and address.path.endswith("/iam/testPermissions"):
            asked = parse_qs(address.query)["permissions"]
            status, content = (
                200,
                json.dumps({"permissions": [each for each in asked if each in self.granted]}).encode(),
            )
        else:
            answered = self._conditioned(method, target, about, query, headers, body)
            self.asked.append(Asked(method, address.path, query, name, len(body), answered[0]))
            return answered
        self.asked.append(Asked(method, address.path, query, name, len(body), status))
        return status, {"Content-Type": "application/json"}, content

    def _conditioned(
        self, method: str, target: str, name: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Pass on unless the object is at another generation than the request says.

        A resumable upload is held to its condition when it begins and when it ends, as the real service does.
        """
        condition, path = query.get("ifGenerationMatch"), urlsplit(target).path
        if query.get("upload_id") in self._names:
            condition, _ = self._names[query["upload_id"]]
        if method in ("PUT", "POST") and path.startswith("/upload"):
            body = self.damage(method, path, body)
        if condition is None or not name:
            return self._pass_on(method, target, headers, body)
        with self._lock:
            if self.generation(name) != condition:
                return 412, {"Content-Type": "application/json"}, _error(412, "conditionNotMet")
            status, answered, content = self._pass_on(method, target, headers, body)
        if query.get("uploadType") == "resumable" and "Location" in answered:
            upload = parse_qs(urlsplit(answered["Location"]).query)["upload_id"][0]
            self._names[upload] = (condition, name)
        return status, answered, content

    def _object(self, path: str, query: dict[str, str], body: bytes) -> str:
        """`BUCKET/o/NAME`, quoted, of the object that a request writes or reads."""
        bucket, _, name = path.partition("/b/")[2].partition("/o")
        name = unquote(name.removeprefix("/").removesuffix("/compose")) or query.get("name", "")
        if not name and query.get("uploadType") == "multipart":
            name = json.loads(re.findall(rb'"name": ?("[^"]+")', body[:10_000])[0])
        elif not name and query.get("uploadType") == "resumable" and body and "upload_id" not in query:
            name = json.loads(body)["name"]
        return f"{bucket}/o/{quote(name, safe='')}" if name else ""

    def generation(self, name: str) -> str:
        status, _, content = self._pass_on("GET", f"/storage/v1/b/{name}", {}, b"")
        return str(json.loads(content)["generation"]) if status == 200 else "0"

    def _pass_on(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.emulator_port, timeout=120)
        try:
            connection.request(method, target, body or None, {**headers, "Content-Length": str(len(body))})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if method == "GET" and "media" in urlsplit(target).query:
            content = self.damage(method, urlsplit(target).path, content)
        return response.status, dict(response.getheaders()), content


def _error(status: int, message: str) -> bytes:
    return json.dumps({"error": {"code": status, "message": message}}).encode()


def _handler(front: Front) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
            dropped = ("connection", "content-length", "transfer-encoding", "accept-encoding")
            headers = {key: value for key, value in self.headers.items() if key.lower() not in dropped}
            try:
                status, answered, content = front.answer(self.command, self.path, headers, body)
            except ConnectionError:
                self.close_connection = True
                self.connection.close()
                return
            with suppress(ConnectionError):  # the client may be gone
                self.send_response(status)
                for key, value in answered.items():
                    if key.lower() not in ("content-length", "server", "date", "connection"):
                        self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
