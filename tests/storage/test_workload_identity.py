"""The store and publishing in a pod with Workload Identity: every request brings the metadata server's token.

`resolve_data` does the same by DVC (test_resolve_from_bucket.py). The storage emulator's own variable would make
Google's library ask without credentials, so here the address of the front is given as another endpoint of the service.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.storage.front import Front
from tests.storage.metadata_server import MetadataServer
from tests.unit.lineage.family import make_run, publishing
from unifl.core.digest import sha256_path

IDENTITY = "unifl-publisher@project-of-the-cluster.iam.gserviceaccount.com"
Pod = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def metadata(front: Front, bucket: str) -> Iterator[MetadataServer]:
    """The metadata server of the pod's node; from here on the bucket demands its token."""
    server = MetadataServer("project-of-the-cluster", IDENTITY)
    front.token = server.token
    yield server
    server.close()


@pytest.fixture
def pod(front: Front, metadata: MetadataServer, tmp_path: Path) -> Pod:
    """Run `unifl` as a pod does: nothing but the metadata server says who it is."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        inherited = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        home = {"HOME": str(tmp_path / "home"), "API_ENDPOINT_OVERRIDE": front.host}
        environment = {**inherited, **home, **metadata.environment}
        return subprocess.run(
            [sys.executable, "-m", "unifl", *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run


def test_a_pod_sends_checks_and_fetches_with_its_own_token(
    front: Front, metadata: MetadataServer, bucket: str, model: Path, pod: Pod, tmp_path: Path
) -> None:
    sent = pod("store", "push", model, f"gs://{bucket}/store", "--name", "latest")
    assert sent.returncode == 0, sent.stderr
    for command in (("verify",), ("pull", tmp_path / "fetched")):
        done = pod("store", command[0], f"gs://{bucket}/store/names/latest", *command[1:])
        assert done.returncode == 0, done.stderr
    assert sha256_path(tmp_path / "fetched") == sha256_path(model)
    assert front.asked
    assert not [each for each in front.asked if each.status == 401]
    assert metadata.token not in sent.stdout + sent.stderr


def test_a_token_that_has_run_out_meanwhile_is_asked_for_again(
    front: Front, metadata: MetadataServer, bucket: str, model: Path, pod: Pod
) -> None:
    metadata.lifetime_seconds = 1
    done = pod("store", "push", model, f"gs://{bucket}/store")
    assert done.returncode == 0, done.stderr
    assert sum(path.endswith("/token") for path in metadata.asked) > 1


def test_a_release_is_published_with_the_publisher_s_token(
    bucket: str, pod: Pod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    (tmp_path / ".git").mkdir()
    make_run(tmp_path)
    inputs = [part for name, path in publishing(tmp_path).items() for part in (f"--{name}", path)]
    to = ("--release", tmp_path / "release", "--set", f"destination=gs://{bucket}/unifl")
    done = pod("publish", *inputs, *to)
    assert done.returncode == 0, done.stderr
    assert pod("store", "verify", f"gs://{bucket}/unifl/names/latest").returncode == 0


@pytest.mark.parametrize("way", ["no identity", "refused"])
def test_a_pod_that_the_bucket_does_not_know_is_one_line_with_the_remedy(
    front: Front, metadata: MetadataServer, bucket: str, model: Path, pod: Pod, way: str
) -> None:
    if way == "no identity":
        metadata.identity = None
    else:
        front.token = "of another"
    done = pod("store", "push", model, f"gs://{bucket}/store")
    assert done.returncode == 8, done.stderr
    (line,) = done.stderr.splitlines()
    assert "Google Cloud does not accept the credentials, or there are none" in line
    assert "bind its service account to one of Google's (Workload Identity, docs/gke.md)" in line
    assert not front.writes()
