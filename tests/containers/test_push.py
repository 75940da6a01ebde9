"""`python -m images push` against a real registry on this machine: what it writes is a digest that can be pulled."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import components
from images.base import TEST_BASE
from images.build import MANIFESTS, push
from images.engine import answers, docker
from tests.containers.conftest import REQUIRED_VARIABLE, missing
from unifl.core.digest import code_version
from unifl.core.errors import UniflError

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an empty registry of images, Debian's own."""
    if shutil.which("docker") is None or not answers():
        missing("no Docker engine answers: `make test-containers`")
    if shutil.which("docker-registry") is None:
        if not os.environ.get(REQUIRED_VARIABLE):
            missing("docker-registry is not installed: `make test-containers`")
        install = ["apt-get", "--quiet", "install", "--yes", "--no-install-recommends", "docker-registry"]
        subprocess.run(install, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    configuration = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
    }
    (folder / "config.yml").write_text(json.dumps(configuration), encoding="utf-8")
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_for(f"http://{address}/v2/")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for(address: str) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"{address} does not answer")


@pytest.fixture
def files(tmp_path: Path, registry: str) -> Iterator[tuple[Path, Path]]:
    """A file of digests with a small local image as `data`, and a copy of the manifests' file."""
    (tmp_path / "content").write_text(str(tmp_path), encoding="utf-8")
    archive = tmp_path / "content.tar"
    subprocess.run(["tar", "--create", "--file", str(archive), "--directory", str(tmp_path), "content"], check=True)
    image_id = docker("import", str(archive), "unifl-test-push:0").strip()
    entry = {"repository": "unifl-pipelines/python-train", "tag": "0.1.0", "digest": None}
    built = {"image_id": image_id, "base": "scratch", "code_version": code_version()}
    digests, manifests = tmp_path / "digests.json", tmp_path / "kustomization.yaml"
    write(digests, {"train": {**entry, "built": built}})
    shutil.copyfile(MANIFESTS, manifests)
    yield digests, manifests
    docker("rmi", "--force", image_id)


def write(file: Path, entries: dict[str, Any]) -> None:
    file.write_text(json.dumps(entries), encoding="utf-8")


def test_a_pushed_image_is_named_by_the_digest_that_pulls_it(
    files: tuple[Path, Path], registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests, manifests = files
    image_id = json.loads(digests.read_text(encoding="utf-8"))["train"]["built"]["image_id"]
    (entry,) = push(["train"], f"{registry}/unifl", digests, manifests)
    monkeypatch.setenv(components.IMAGES_VARIABLE, str(digests))
    reference = components.image("train")
    assert reference == f"{registry}/unifl/python-train@{entry['digest']}"
    assert manifests.read_text(encoding="utf-8").count(entry["digest"]) == 1
    docker("rmi", "--force", image_id)
    docker("pull", reference)
    assert docker("image", "inspect", "--format", "{{.Id}}", reference).strip() == image_id


@pytest.mark.parametrize(
    ("built", "reason"),
    [({"base": TEST_BASE}, "stands on a base for tests"), ({"code_version": "0" * 64}, "not built from this source")],
)
def test_an_image_that_no_cluster_should_run_is_not_pushed(
    files: tuple[Path, Path], built: dict[str, str], reason: str
) -> None:
    digests, manifests = files
    entries = json.loads(digests.read_text(encoding="utf-8"))
    entries["train"]["built"].update(built)
    write(digests, entries)
    with pytest.raises(UniflError, match=reason):
        push(["train"], "registry.example/unifl", digests, manifests)
    assert json.loads(digests.read_text(encoding="utf-8")) == entries
