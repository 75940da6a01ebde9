"""A fake server, a small pushed checkout, and the command line called as `python -m pipelines` calls it."""

import contextlib
import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.compiling import documents
from tests.cluster.fake_server import FakeServer

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = "https://git.example.org/unifl.git"
COPIED = (
    ".dvc/config",
    ".dvc/.gitignore",
    "data/dvc.yaml",
    "data/dvc.lock",
    "data/expectations",
    "pipelines/presets",
    ".gitignore",
)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def run_id(self) -> str:
        return next(line.removeprefix("run ") for line in self.out.splitlines() if line.startswith("run "))

    @property
    def schedule_id(self) -> str:
        return next(line.removeprefix("schedule ") for line in self.out.splitlines() if line.startswith("schedule "))


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


def copy_of_this_checkout(folder: Path) -> Path:
    """What a submission reads of this checkout, as a git repository in `folder` that is pushed to ORIGIN."""
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "config", "user.name", "test")
    git(folder, "config", "user.email", "test@example.org")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A copy")
    git(folder, "remote", "add", "origin", ORIGIN)
    git(folder, "update-ref", "refs/remotes/origin/main", "HEAD")
    return folder


@pytest.fixture(scope="session")
def pushed_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_this_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture
def checkout(pushed_checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder of a command; what a test changes in it is undone."""
    monkeypatch.chdir(pushed_checkout)
    yield pushed_checkout
    git(pushed_checkout, "reset", "--quiet", "--hard", "refs/remotes/origin/main")
    git(pushed_checkout, "clean", "-fdq", "-e", ".dvc")


@pytest.fixture(autouse=True)
def no_cluster_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "KF_PIPELINES_ENDPOINT",
        "KF_PIPELINES_UI_ENDPOINT",
        "KF_PIPELINES_SA_TOKEN_PATH",
        "KFP_NAMESPACE",
        "KUBERNETES_SERVICE_HOST",
        "KF_PIPELINES_DEFAULT_EXPERIMENT_NAME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    import kfp

    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "no-context.json"))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> Callable[..., Ended]:
    """Call the command line; the fake server is its cluster unless the environment says otherwise."""
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.host)

    def call(*arguments: Any) -> Ended:
        from pipelines.__main__ import main

        monkeypatch.setattr(sys, "argv", ["pipelines", *map(str, arguments)])
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        return Ended(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def compiled_dag() -> dict[str, Any]:
    """The committed pipeline, as the server keeps it."""
    document, *_ = documents((ROOT / "pipelines/compiled/feedback_learning.yaml").read_text(encoding="utf-8"))
    return document


@pytest.fixture(scope="session")
def demo_parameters() -> dict[str, str]:
    """What a run of the preset `demo` was submitted with."""
    from pipelines.settings import parameters, task_settings

    return parameters(task_settings(ROOT / "pipelines/presets/demo.yaml", ["resolve_data.revision=abc"]))


@pytest.fixture
def started(server: FakeServer, compiled_dag: dict[str, Any], demo_parameters: dict[str, str]) -> str:
    """The id of a run of the DAG that has just begun."""
    return server.start(compiled_dag, demo_parameters)
