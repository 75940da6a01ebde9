"""As much of the Kubernetes API as preflight asks for: quotas of a namespace and the groups of the API, over TLS.

Its answers are the official client's own models; `pod` leaves what a pod finds of its service account in a folder.
"""

import ipaddress
import json
import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kubernetes import client

NAMESPACE = "unifl"


class FakeQuota:
    """Serves until `close`. `status` other than 200 is the answer to everything."""

    def __init__(self, folder: Path) -> None:
        self.hard: dict[str, str] = {}
        self.used: dict[str, str] = {}
        self.groups = ["apps", "batch"]
        self.status = 200
        self.token = "a-token"
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, answer = fake.answer(self.path, self.headers.get("Authorization"))
                content = json.dumps(client.ApiClient().sanitize_for_serialization(answer)).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Stay silent."""

        self.folder = folder
        folder.mkdir()
        (folder / "namespace").write_text(NAMESPACE)
        (folder / "token").write_text("a-token\n")
        certificate(folder / "ca.crt", folder / "server.key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "ca.crt", folder / "server.key")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, authorization: str | None) -> tuple[int, Any]:
        status = 401 if authorization != f"Bearer {self.token}" else self.status
        if status != 200:
            return status, client.V1Status(status="Failure", code=status, message="no")
        if path == f"/api/v1/namespaces/{NAMESPACE}/resourcequotas":
            quota = client.V1ResourceQuota(
                metadata=client.V1ObjectMeta(name="unifl", namespace=NAMESPACE),
                spec=client.V1ResourceQuotaSpec(hard=self.hard),
                status=client.V1ResourceQuotaStatus(hard=self.hard, used=self.used),
            )
            return 200, client.V1ResourceQuotaList(items=[quota])
        if path == "/apis":
            version = client.V1GroupVersionForDiscovery(group_version="x/v1", version="v1")
            return 200, client.V1APIGroupList(
                groups=[client.V1APIGroup(name=name, versions=[version]) for name in self.groups]
            )
        return 404, client.V1Status(status="Failure", code=404, message=f"{path} not found")


def certificate(certificate_file: Path, key_file: Path) -> None:
    """Write a certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
