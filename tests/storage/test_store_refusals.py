"""What goes wrong with buckets and credentials: one line that says so, a remedy, and nothing left behind."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.front import Front
from unifl.core.errors import StorageError
from unifl.data.store import open_place, pull, push
from unifl.data.store_bucket import READING


def refused(front: Front, root: str, model: Path) -> str:
    """The line that sending `model` is refused with; no bytes of an object may have been sent."""
    with pytest.raises(StorageError) as caught:
        push(model, root)
    line = str(caught.value)
    assert "\n" not in line
    assert root in line
    assert "remedy: " in line
    assert not front.writes()
    return line


def test_a_missing_bucket_is_named(front: Front, model: Path, tmp_path: Path) -> None:
    assert "there is no such bucket" in refused(front, "gs://no-such-bucket/store", model)
    with pytest.raises(StorageError, match="no such bucket"):
        pull(f"gs://no-such-bucket/sets/{'0' * 64}", tmp_path / "fetched")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_missing_rights_are_named_with_the_role_that_gives_them(front: Front, bucket: str, model: Path) -> None:
    front.granted = list(READING)
    line = refused(front, f"gs://{bucket}", model)
    assert "no right to storage.objects.create, storage.objects.delete" in line
    assert "roles/storage.objectUser" in line


def test_who_may_only_read_can_fetch(front: Front, bucket: str, model: Path, tmp_path: Path) -> None:
    stored = push(model, f"gs://{bucket}")
    front.granted = list(READING)
    pull(stored.address, tmp_path / "fetched")
    front.granted = ["storage.objects.list"]
    with pytest.raises(StorageError, match=r"no right to storage\.objects\.get .*objectViewer"):
        pull(stored.address, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((403, "billing is disabled"), "no right to do this: billing is disabled"),
        ((401, "Invalid Credentials"), "does not accept the credentials"),
        ((400, "something odd"), "answers with an error: something odd"),
    ],
)
def test_a_refusal_of_the_bucket_is_one_line(
    front: Front, bucket: str, model: Path, answer: tuple[int, str], words: str
) -> None:
    front.refusal = answer
    assert words in refused(front, f"gs://{bucket}", model)


def test_rights_that_end_in_the_middle_leave_nothing_that_can_be_read(front: Front, bucket: str, model: Path) -> None:
    def end_rights(method: str, path: str, query: dict[str, str], body: bytes) -> None:
        if method == "POST" and "/upload" in path and len(front.writes()) == 2:
            front.refusal = (403, "the right was withdrawn")

    front.before = end_rights
    with pytest.raises(StorageError, match="the right was withdrawn"):
        push(model, f"gs://{bucket}", name="latest", workers=1)
    front.before, front.refusal = (lambda *_: None), None
    assert not [key for key in open_place(f"gs://{bucket}").objects("") if key.startswith(("manifests/", "names/"))]


@pytest.fixture
def token_server() -> Iterator[str]:
    """Google's token service as it answers to a key that was withdrawn."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = b'{"error": "invalid_grant", "error_description": "Token has been expired or revoked."}'
            self.send_response(400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/token"
    server.shutdown()
    server.server_close()


def service_account_key(token_uri: str, file: Path) -> Path:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    about = {
        "type": "service_account",
        "client_email": "someone@project.iam.gserviceaccount.com",
        "token_uri": token_uri,
        "private_key": key.decode(),
        "private_key_id": "1",
        "project_id": "project",
    }
    file.write_text(json.dumps(about))
    return file


def pushed_by_command(
    model: Path, root: str, monkeypatch: pytest.MonkeyPatch, key: Path
) -> subprocess.CompletedProcess[str]:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    command = [sys.executable, "-m", "unifl", "store", "push", str(model), root]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)


def test_expired_credentials_are_one_line_and_code_8(
    model: Path, tmp_path: Path, token_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = service_account_key(token_server, tmp_path / "key.json")
    ended = pushed_by_command(model, "gs://some-bucket/store", monkeypatch, key)
    assert ended.returncode == 8, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "does not accept the credentials" in ended.stderr
    assert "expired or revoked" in ended.stderr
    assert "gcloud auth application-default login" in ended.stderr
    assert "PRIVATE KEY" not in ended.stderr


def test_missing_credentials_are_one_line_and_code_8(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = pushed_by_command(model, "gs://some-bucket/store", monkeypatch, tmp_path / "none.json")
    assert ended.returncode == 8, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "or there are none" in ended.stderr


def test_the_commands_send_check_and_fetch(front: Front, bucket: str, model: Path, tmp_path: Path) -> None:
    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "unifl", "store", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    address = command("push", str(model), f"gs://{bucket}/store", "--name", "latest")
    assert command("verify", address).endswith("4 files, 1120013 bytes, all as recorded")
    fetched = command("pull", f"gs://{bucket}/store/names/latest", str(tmp_path / "fetched"))
    assert fetched == f"{address.rpartition('/')[2]}  {tmp_path / 'fetched'}"
