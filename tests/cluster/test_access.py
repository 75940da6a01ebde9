"""What goes wrong between here and the cluster: one line with a remedy, and a documented exit code."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, Ended
from tests.cluster.fake_server import FakeServer

pytestmark = pytest.mark.integration

Call = Callable[..., Ended]

VERBS = [
    ("status", "nobody"),
    ("cancel", "nobody"),
    ("logs", "nobody", "evaluation"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_a_cluster_the_option_and_the_variable_are_named(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    ended = call("status")
    assert ended.code == 9
    assert ended.err == "no cluster is named; remedy: give --host or set KF_PIPELINES_ENDPOINT\n"


def test_a_cluster_that_does_not_answer_is_one_line(call: Call) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    ended = call("status", "--host", address)
    assert ended.code == 9
    assert ended.err.startswith(f"no cluster answers at {address}: ")
    assert "kubectl port-forward" in ended.err
    assert ended.err.count("\n") == 1
    assert ended.out == ""


def test_a_login_page_is_not_taken_for_the_cluster(call: Call, server: FakeServer) -> None:
    server.login_page = True
    ended = call("status")
    assert ended.code == 9
    assert "is not Kubeflow Pipelines; it may be a login page" in ended.err


def test_a_token_is_read_from_its_file_and_an_expired_one_is_refused(
    call: Call, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "fresh"
    token = tmp_path / "token"
    token.write_text("old")
    refused = call("status", "--token-file", token)
    assert refused.code == 10
    assert "does not accept the token (401): Request is unauthenticated: the token has expired" in refused.err
    assert "make a new token" in refused.err
    assert refused.err.count("\n") == 1
    token.write_text("fresh")
    assert call("status", "--token-file", token).code == 0
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token))
    assert call("status").code == 0


def test_a_missing_token_file_is_named(call: Call, tmp_path: Path) -> None:
    ended = call("status", "--token-file", tmp_path / "none")
    assert ended.code == 10
    assert f"the token file does not exist (file {tmp_path / 'none'})" in ended.err


def test_a_namespace_of_others_is_forbidden(call: Call, server: FakeServer) -> None:
    server.namespaces = {"ann"}
    assert call("status", "--namespace", "ann").code == 0
    ended = call("status", "--namespace", "bob")
    assert ended.code == 10
    assert "not allowed in namespace bob (403): User 'ann' is not authorized in namespace bob" in ended.err
    assert "--namespace" in ended.err


def test_a_missing_or_needless_namespace_is_told(call: Call, server: FakeServer) -> None:
    needless = call("status", "--namespace", "ann")
    assert needless.code == 10
    assert "the namespace ann is wrong: Invalid input error: In single-user mode" in needless.err
    server.namespaces = {"ann"}
    missing = call("status")
    assert missing.code == 10
    assert "the namespace (none given) is wrong" in missing.err


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_an_unknown_run_is_one_line_with_code_11(call: Call, verb: tuple[str, ...]) -> None:
    ended = call(*verb)
    assert ended.code == 11
    assert ended.err.startswith("there is no run nobody; remedy: ")
    assert ended.err.count("\n") == 1


def test_the_module_ends_with_the_same_code_and_line(server: FakeServer) -> None:
    environment = {**os.environ, "KF_PIPELINES_ENDPOINT": server.host, "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(
        [sys.executable, "-m", "pipelines", "cancel", "nobody"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 11
    assert ended.stderr.startswith("there is no run nobody; ")
    assert ended.stdout == ""


@pytest.mark.parametrize("verb", ["submit", "schedule create", "status", "logs", "cancel", "rerun"])
def test_help_names_every_way_to_the_cluster(call: Call, verb: str) -> None:
    ended = call(*verb.split(), "--help")
    assert ended.code == 0
    for word in ("KF_PIPELINES_ENDPOINT", "KFP_NAMESPACE", "KF_PIPELINES_SA_TOKEN_PATH"):
        assert word in ended.out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['pipelines', 'submit', '--help']\n"
        "import pipelines.__main__ as m\n"
        "try:\n    m.main()\nfinally:\n"
        "    assert not {'kfp', 'kfp_server_api', 'dvc', 'pandas', 'kubernetes', 'rich'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, check=True
    )
