"""The real storage emulator as a process of its own, a front before it, and folders to send."""

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.storage.front import Front


@pytest.fixture(scope="session")
def emulator() -> Iterator[int]:
    """The port of a storage emulator that keeps its objects in memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    arguments = ["start", "--host", "127.0.0.1", "--port", str(port), "--in-memory", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gcp_storage_emulator", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            try:
                requests.get(f"http://127.0.0.1:{port}/", timeout=5)
                break
            except requests.ConnectionError:
                assert process.poll() is None, "the emulator ended"
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def front(emulator: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """The front of the emulator, which Google's libraries take for Google Cloud Storage."""
    front = Front(emulator)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.host)
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    yield front
    front.close()


@pytest.fixture
def bucket(front: Front) -> str:
    """The name of a new, empty bucket."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    requests.post(f"{front.host}/storage/v1/b", json={"name": name}, timeout=30).raise_for_status()
    front.asked.clear()
    return name


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder like a model's: weights, a file in a folder, a small one and an empty one."""
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights.bin").write_bytes(os.urandom(1_000_000))
    (folder / "unet" / "config.json").write_text('{"layers": 2}')
    (folder / "vae.bin").write_bytes(os.urandom(120_000))
    (folder / "empty.txt").touch()
    return folder
