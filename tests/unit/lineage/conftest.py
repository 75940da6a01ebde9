"""One small run for all tests of this folder, copied for each."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.lineage.family import make_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("UNIFL_CHECKPOINTS", str(root / ".cache"))
        make_run(root)
    return root


@pytest.fixture
def checkout(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a finished run, and the working folder of the test."""
    root = tmp_path / "checkout"
    shutil.copytree(finished_run, root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    return root
