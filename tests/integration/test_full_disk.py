"""A disk that is really full: a step says so in one line, leaves nothing half-written, and works once there is room."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.checkout import ROOT, Checkout
from unifl.core.errors import StorageError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root"),
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_with_the_remedy_and_nothing_half_written(small_disk: Path) -> None:
    here = Checkout(ROOT)
    command = [
        *("-m", "unifl", "embedded_prompts", "--set", "count=20000"),
        *("--prompts", str(small_disk / "prompts.parquet"), "--record", str(small_disk / "record.json")),
    ]
    full = here.python(*command)
    assert full.returncode == StorageError.exit_code, full.stderr
    line = full.stderr.strip().splitlines()[-1]
    assert line.startswith("unifl: embedded_prompts: ")
    assert "no space left" in line
    assert "prompts.parquet" in line
    assert "remedy: free some space" in line
    assert list(small_disk.rglob("*")) == []

    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    again = here.python(*command)
    assert again.returncode == 0, again.stderr
    assert sorted(file.name for file in small_disk.iterdir()) == ["prompts.parquet", "record.json"]
