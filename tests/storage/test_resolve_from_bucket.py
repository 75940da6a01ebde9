"""resolve_data as in a pod: no checkout, no git program; a repository by HTTP, its data in a bucket on the emulator."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.storage.front import Front
from tests.storage.git_server import served
from tests.storage.metadata_server import MetadataServer
from unifl.core.digest import dvc_md5, sha256_path
from unifl.data.store import push
from unifl.steps.resolve_data import OUTPUTS, ResolveDataSettings

BUCKET = "bucket-of-data"
PATHS = ResolveDataSettings().paths
pytestmark = pytest.mark.timeout(900)  # every pod imports DVC anew
PROJECT, IDENTITY = "project-of-the-cluster", "unifl-pipeline@project-of-the-cluster.iam.gserviceaccount.com"
ANONYMOUS = "projectname = test\n    allow_anonymous_login = true"
CONFIG = """\
[core]
    remote = gcs
    analytics = false
['remote "gcs"']
    url = gs://{bucket}/dvc
    endpointurl = {host}
    {login}
['remote "models"']
    url = gs://{bucket}/models
    endpointurl = {host}
    {login}
"""


@dataclass(frozen=True)
class Origin:
    """A repository that others reach by `address`, its commit, and what its data and its base model were."""

    address: str
    commit: str
    data: Path
    base_model: Path


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write_data(folder: Path) -> None:
    for name, path in PATHS.items():
        target = folder / path
        if target.suffix:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f"{name} data")
        else:
            (target / "inner").mkdir(parents=True)
            (target / "inner" / "file.txt").write_text(f"{name} data")


@pytest.fixture(scope="module")
def everything(emulator: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Front, Origin]]:
    """A repository on the branch `main`, with a base model that the store sent to the bucket as a set, and all else
    there by `dvc push`; on the branch `identity` without anonymous login, on `unpushed` with prompts not sent."""
    from dvc.repo import Repo

    root, front = tmp_path_factory.mktemp("origin"), Front(emulator)
    work = root / "work"
    work.mkdir()
    git(work, "init", "-q", "-b", "main")
    with pytest.MonkeyPatch.context() as patch, served(root) as address:
        patch.setenv("STORAGE_EMULATOR_HOST", front.host)
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        patch.setenv("DVC_NO_ANALYTICS", "1")
        patch.chdir(work)
        requests.post(f"{front.host}/storage/v1/b", json={"name": BUCKET}, timeout=60).raise_for_status()
        config = work / ".dvc" / "config"
        with Repo.init(str(work)):
            config.write_text(CONFIG.format(bucket=BUCKET, host=front.host, login=ANONYMOUS))
        write_data(work)
        stored = push(work / "data" / "base_model", f"gs://{BUCKET}/models")
        shutil.move(work / "data" / "base_model", root / "base_model")
        with Repo(str(work)) as repo:
            repo.add([path for name, path in PATHS.items() if name != "base_model"])
            repo.imp_url(f"remote://models/sets/{stored.sha256}", "data/base_model", no_download=True)
            repo.push()
        git(work, "add", "-A")
        git(work, "commit", "-qm", "Data")
        commit = git(work, "rev-parse", "HEAD")
        git(work, "checkout", "-qb", "identity")
        config.write_text(CONFIG.format(bucket=BUCKET, host=front.host, login=""))
        git(work, "commit", "-qam", "Log in")
        git(work, "checkout", "-qb", "unpushed", "main")
        (work / PATHS["prompts"]).write_text("other prompts")
        with Repo(str(work)) as repo:
            repo.add(PATHS["prompts"])
        git(work, "commit", "-qam", "Commit and forget to push")
        git(work, "checkout", "-q", "--force", "main")
        with Repo(str(work)) as repo:
            repo.checkout([PATHS["prompts"]], force=True)
        git(root, "clone", "-q", "--bare", str(work), str(root / "data.git"))
        yield front, Origin(f"{address}/data.git", commit, work / "data", root / "base_model")
    front.close()


@pytest.fixture
def front(everything: tuple[Front, Origin], monkeypatch: pytest.MonkeyPatch) -> Front:
    front = everything[0]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", front.host)
    front.refusal, front.token = None, None
    front.asked.clear()
    return front


@pytest.fixture
def origin(everything: tuple[Front, Origin], front: Front) -> Origin:
    return everything[1]


def in_a_pod(
    tmp_path: Path,
    settings: dict[str, Any],
    step: str = "resolve_data",
    outputs: dict[str, Path] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run the step where there is neither a checkout nor git, as in the image."""
    pod = tmp_path / "pod"
    pod.mkdir(exist_ok=True)
    targets = outputs or {name: pod / name for name in OUTPUTS}
    given = [part for name, path in targets.items() for part in (f"--{name}", str(path))]
    command = [sys.executable, "-m", "unifl", step, *given, "--settings-json", json.dumps(settings)]
    inherited = {
        key: os.environ[key] for key in ("PYTHONPATH", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT") if key in os.environ
    }
    home = {"HOME": str(pod / "home"), "PATH": str(pod / "no-programs"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command,
        cwd=pod,
        env={**inherited, **home, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )


def settings_of(origin: Origin, **more: Any) -> dict[str, Any]:
    return {"repository": origin.address, "revision": origin.commit, **more}


def test_a_pod_without_git_resolves_repository_revision_and_path(origin: Origin, tmp_path: Path) -> None:
    expected = {"images": dvc_md5(origin.data / "images"), "base_model": sha256_path(origin.base_model)}
    done = in_a_pod(tmp_path, settings_of(origin, expected=expected))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pod" / "images" / "inner" / "file.txt").read_text() == "images data"
    assert (tmp_path / "pod" / "prompts").read_text() == "prompts data"
    record = json.loads((tmp_path / "pod" / "images.record.json").read_text())
    materials = record["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {each["uri"] for each in materials} == {
        f"dvc+{origin.address}@{origin.commit}#{path}" for path in PATHS.values()
    }


def test_a_large_model_lies_in_the_bucket_once_for_dvc_and_kubeflow(
    front: Front, origin: Origin, tmp_path: Path
) -> None:
    """DVC's pointer and an importer of Kubeflow name the same objects; DVC's remote holds none of them."""
    from unifl.data.store import open_place

    digest = sha256_path(origin.base_model)
    held = open_place(f"gs://{BUCKET}").objects("")
    content = (origin.base_model / "inner" / "file.txt").read_bytes()
    assert [key for key, each in held.items() if each.size == len(content) and "models/" in key] == [
        f"models/sets/{digest}/inner/file.txt"
    ]
    assert not [key for key in held if dvc_md5(origin.base_model / "inner" / "file.txt")[2:] in key]
    done = in_a_pod(tmp_path, settings_of(origin))
    assert done.returncode == 0, done.stderr
    assert sha256_path(tmp_path / "pod" / "base_model") == digest
    # What Kubeflow's launcher does with an artifact's address: everything below it, by relative name.
    below = open_place(f"gs://{BUCKET}").objects(f"models/sets/{digest}")
    names = {key.removeprefix(f"models/sets/{digest}/") for key in below}
    assert names == {"inner/file.txt"}


@pytest.mark.parametrize("digest", ["0" * 64, "0" * 32 + ".dir"])
def test_a_digest_that_differs_from_the_submitted_one_is_refused(origin: Origin, tmp_path: Path, digest: str) -> None:
    done = in_a_pod(tmp_path, settings_of(origin, expected={"images": digest}))
    assert done.returncode == 3, done.stderr
    line = done.stderr.splitlines()[-1]
    assert f"images has another digest (file data/images); expected {digest}" in line
    assert not [name for name in OUTPUTS if (tmp_path / "pod" / name).exists()]


def test_a_submitted_md5_is_compared_before_anything_is_fetched(front: Front, origin: Origin, tmp_path: Path) -> None:
    in_a_pod(tmp_path, settings_of(origin, expected={"scorer": "0" * 32 + ".dir"}))
    assert not [each for each in front.asked if each.query.get("alt") == "media"]


def test_a_bucket_that_refuses_is_one_line_with_the_role(front: Front, origin: Origin, tmp_path: Path) -> None:
    front.refusal = (403, "pod@project does not have storage.objects.get access")
    done = in_a_pod(tmp_path, settings_of(origin))
    assert done.returncode == 8, done.stderr
    line = done.stderr.splitlines()[-1]
    assert "pod@project does not have storage.objects.get access" in line
    assert "roles/storage.objectViewer" in line


def test_missing_credentials_are_one_line(front: Front, origin: Origin, tmp_path: Path) -> None:
    front.token = "token-of-another"
    done = in_a_pod(tmp_path, {"repository": origin.address, "revision": "identity"}, NO_GCE_CHECK="true")
    assert done.returncode == 8, done.stderr
    assert re.search("does not accept the credentials|Invalid Credentials", done.stderr.splitlines()[-1]), done.stderr


@pytest.fixture
def identity(front: Front) -> Iterator[MetadataServer]:
    """Workload Identity: a metadata server, whose token the bucket demands of every request."""
    metadata = MetadataServer(PROJECT, IDENTITY)
    front.token = metadata.token
    yield metadata
    metadata.close()


def test_a_pod_takes_its_token_from_the_metadata_server(
    front: Front, origin: Origin, identity: MetadataServer, tmp_path: Path
) -> None:
    settings = {"repository": origin.address, "revision": "identity"}
    done = in_a_pod(tmp_path, settings, **identity.environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pod" / "images" / "inner" / "file.txt").read_text() == "images data"
    assert sha256_path(tmp_path / "pod" / "base_model") == sha256_path(origin.base_model)
    assert {each.status for each in front.asked} <= {200, 206, 404}
    assert identity.token not in done.stderr + done.stdout


def preflight_in_a_pod(tmp_path: Path, settings: dict[str, Any], **environment: str) -> tuple[int, list[str]]:
    """Exit code and problems of preflight for a run that begins with resolve_data."""
    given = {"data": True, "steps": {"resolve_data": json.dumps(settings)}}
    report = tmp_path / "report.json"
    done = in_a_pod(tmp_path, given, "preflight", {"report": report}, **environment)
    assert report.exists(), done.stderr
    return done.returncode, json.loads(report.read_text())["problems"]


def test_preflight_sees_that_the_data_can_be_fetched(
    front: Front, origin: Origin, identity: MetadataServer, tmp_path: Path
) -> None:
    settings = {"repository": origin.address, "revision": "identity"}
    assert preflight_in_a_pod(tmp_path, settings, **identity.environment) == (0, [])
    assert not [each for each in front.asked if each.query.get("alt") == "media"]


def test_preflight_names_a_bucket_without_rights_before_a_gpu_starts(
    front: Front, origin: Origin, tmp_path: Path
) -> None:
    front.refusal = (403, "pod@project does not have storage.objects.get access")
    code, (problem,) = preflight_in_a_pod(tmp_path, settings_of(origin))
    assert code == 8
    assert "no right to do this: Forbidden" in problem
    assert "remedy: give this identity roles/storage.objectViewer on the bucket" in problem


def test_preflight_names_data_that_was_never_pushed(origin: Origin, tmp_path: Path) -> None:
    code, (problem,) = preflight_in_a_pod(tmp_path, {"repository": origin.address, "revision": "unpushed"})
    assert code == 3
    assert f"prompts is not in the DVC remote gs://{BUCKET}/dvc/files/md5 (file data/prompts.parquet)" in problem
    assert "`dvc push` sends it" in problem
