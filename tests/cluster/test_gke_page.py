"""Every command of docs/gke.md, in its order, with its placeholders filled.

Shell, sed, kustomize and `python -m pipelines` do what they do (the latter against the stateful test server). kubectl
and gcloud are the real programs too; they talk to a server that only records, so their command lines and requests are
checked, and nothing of what Google Cloud or a cluster would make of them.
"""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import ROOT, git
from tests.cluster.fake_server import FakeServer
from tests.cluster.recorder import RECORDED, Recorder

PAGE = ROOT / "docs" / "gke.md"
PLACEHOLDERS = {"your-project": "acme-vision", "someone@example.org": "ana@acme.example"}
KUBECTL_MISTAKES = (
    "unknown flag",
    "unknown shorthand",
    "unknown command",
    "flag needs an argument",
    "error: exactly one",
)
ENDPOINTS = {
    "artifactregistry": "/",
    "cloudresourcemanager": "/",
    "compute": "/compute/v1/",
    "container": "/",
    "dns": "/dns/v1/",
    "iam": "/",
    "serviceusage": "/",
    "storage": "/storage/v1/",
}

pytestmark = pytest.mark.timeout(1800)


def blocks() -> list[str]:
    """The page's code blocks, and commands in running text, in the page's order."""
    text = PAGE.read_text(encoding="utf-8")
    text = text.partition("## What was tried")[0]
    inline = r"`((?:gcloud|kubectl|python -m pipelines|unifl) [^`\n]+)`"
    found = re.findall(rf"^```\n(.*?)^```|{inline}", text, flags=re.DOTALL | re.MULTILINE)
    return [block or line for block, line in found]


@dataclass(frozen=True)
class Walked:
    """What walking through the page left: calls of each program, and the folder in which it was walked through."""

    calls: list[list[str]]
    folder: Path
    out: str
    recorder: Recorder


def shim(folder: Path, name: str, body: str) -> None:
    file = folder / name
    file.write_text(f"#!/usr/bin/env bash\n{body}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close()


@pytest.fixture(scope="module")
def walked(pushed_checkout: Path, recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Walked:
    home = tmp_path_factory.mktemp("walk")
    folder = home / "checkout"
    shutil.copytree(pushed_checkout, folder)
    for name in ("manifests", "images", "pipelines"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "runs" / "latest").mkdir(parents=True)
    (folder / "runs" / "latest" / "report.html").write_text("a report")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "The rest")
    git(folder, "init", "--quiet", "--bare", str(home / "pushed.git"))
    git(folder, "config", f"url.{home / 'pushed.git'}.pushInsteadOf", "https://git.example.org/unifl.git")
    git(folder, "checkout", "--quiet", "-B", "main")
    git(folder, "branch", "--quiet", "--set-upstream-to", "origin/main")

    programs = home / "programs"
    programs.mkdir()
    record = f'printf \'%q \' "${{0##*/}}" "$@" >> {home}/calls; echo >> {home}/calls'
    kubectl = Path(sys.executable).with_name("kubectl")
    shim(programs, "gcloud", f'{record}\n[[ "$*" == *projectNumber* ]] && echo 123456789012 || true')
    shim(
        programs,
        "kubectl",
        f'{record}\n[ "$1" = kustomize ] && exec {kubectl} "$@"\n{kubectl} "$@" 2>&1 | sed "s/^/kubectl: /" || true',
    )
    shim(programs, "python", f'{record}\nexec {sys.executable} "$@"')
    shim(programs, "unifl", f'{record}\nexec {sys.executable} -m unifl "$@"')
    shim(programs, "less", "exec cat")

    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "recorder",
        "contexts": [{"name": "recorder", "context": {"cluster": "recorder", "user": "nobody"}}],
        "clusters": [{"name": "recorder", "cluster": {"server": recorder.host}}],
        "users": [{"name": "nobody", "user": {}}],
    }
    (home / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    script = "\n".join(["set -euo pipefail", *blocks()])
    for placeholder, name in PLACEHOLDERS.items():
        assert placeholder in script
        script = script.replace(placeholder, name)
    server = FakeServer()
    server.tasks_per_look = 100
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("KF_", "KFP_", "CLOUDSDK_"))},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "KUBECONFIG": str(home / "kubeconfig"),
        "KF_PIPELINES_ENDPOINT": server.host,
    }
    # The page opens a port to Kubeflow and names it; here the test server has another one.
    script = script.replace("http://localhost:8080", server.host)
    ended = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=1500
    )
    server.close()
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    calls = [shlex.split(line) for line in (home / "calls").read_text().splitlines()]
    return Walked(calls, folder, ended.stdout, recorder)


def test_the_page_runs_from_its_first_command_to_its_last(walked: Walked) -> None:
    programs = [call[0] for call in walked.calls]
    assert programs.count("gcloud") >= 36
    assert programs.count("kubectl") >= 8
    assert programs.count("python") >= 4


def test_no_placeholder_is_left_in_the_manifests_that_were_made(walked: Walked) -> None:
    mine = "".join(path.read_text() for path in (walked.folder / "manifests/overlays/mine").glob("*.yaml"))
    assert "acme-vision" in mine
    assert "my-project" not in mine.replace("s/my-project/", "")
    assert "acme-vision-unifl-artifacts" in walked.out


def test_kubectl_understands_its_command_lines(walked: Walked) -> None:
    answers = [line for line in walked.out.splitlines() if line.startswith("kubectl: ")]
    assert not [line for line in answers if any(mistake in line for mistake in KUBECTL_MISTAKES)]
    assert [request for request in walked.recorder.requests if request.startswith("GET /api")]


def test_a_run_and_a_schedule_are_on_the_server(walked: Walked) -> None:
    assert re.search(r"^run [0-9a-f-]+$", walked.out, re.MULTILINE)
    assert re.search(r"^schedule [0-9a-f-]+$", walked.out, re.MULTILINE)


def test_gcloud_accepts_its_command_lines_and_sends_its_requests(walked: Walked, tmp_path: Path) -> None:
    program = shutil.which("gcloud")
    if program is None:
        pytest.skip("gcloud is not installed; it comes with the package google-cloud-cli")
    sdk = Path(program).resolve().parents[1]
    bundled = sdk / "platform" / "bundledpythonunix" / "bin" / "python3"
    called = [call[1:] for call in walked.calls if call[0] == "gcloud"]
    files = tmp_path / "commands.json", tmp_path / "ended.json"
    files[0].write_text(json.dumps(called))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CORE_PROJECT": "acme-vision",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "RECORDED_REQUESTS": walked.recorder.host + RECORDED,
        **{
            f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{name.upper()}": walked.recorder.host + path
            for name, path in ENDPOINTS.items()
        },
    }
    runner = Path(__file__).with_name("gcloud_runner.py")
    ended = subprocess.run(
        [str(bundled if bundled.exists() else sys.executable), str(runner), str(sdk), *map(str, files)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    for arguments, (code, said, requests) in zip(called, json.loads(files[1].read_text()), strict=True):
        line = shlex.join(["gcloud", *arguments])
        # 2 is what gcloud's parser ends with; what comes later is the recorder's doing.
        assert code != 2, f"{line}\n{said}"
        assert "unrecognized arguments" not in said, f"{line}\n{said}"
        assert requests or arguments[0] == "config", f"nothing was sent by {line}\n{said}"
