"""The DAG's data part with the settings of the preset `demo`, each task in a container of its image."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from images.build import ROOT
from tests.containers.conftest import Image
from tests.containers.data_part import STEPS
from unifl.core.digest import code_version, sha256_path
from unifl.core.record import git

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

CONTAINER_USER = 1000


@dataclass(frozen=True)
class Finished:
    """What a run of the data part left behind."""

    artifacts: Path
    log: str
    commit: str

    def output(self, step: str, name: str) -> Path:
        """An output of a step: kfp.local keeps it in <run>/<task>/<name>."""
        (path,) = self.artifacts.glob(f"*/{step.replace('_', '-')}/{name}")
        return path

    def record(self, step: str) -> dict[str, Any]:
        statement: dict[str, Any] = json.loads(self.output(step, "record").read_text(encoding="utf-8"))
        return statement


@pytest.fixture(scope="module")
def address(built: Mapping[str, Image], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where git serves this checkout's commits."""
    folder = tmp_path_factory.mktemp("served")
    subprocess.run(["git", "clone", "--quiet", "--bare", str(ROOT), str(folder / "repository.git")], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    listen = ["--listen=127.0.0.1", f"--port={port}"]
    server = subprocess.Popen(["git", "daemon", "--export-all", f"--base-path={folder}", *listen])
    try:
        yield f"git://127.0.0.1:{port}/repository.git"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def finished(address: str, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The data part, run once."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    # A cluster's volumes belong to the pod's group in the same way (fsGroup).
    os.chown(artifacts, CONTAINER_USER, CONTAINER_USER)
    commit = git(ROOT, "rev-parse", "HEAD") or ""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.containers.data_part", str(artifacts), address, commit],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return Finished(artifacts, ended.stdout, commit)


def test_every_step_ran_in_the_image_that_its_component_names(finished: Finished, built: Mapping[str, Image]) -> None:
    for image in ("data", "train"):
        assert finished.log.count(f"Found image '{built[image].reference}'") == list(STEPS.values()).count(image)
    assert "Pulling image" not in finished.log


def test_every_output_belongs_to_the_containers_user(finished: Finished) -> None:
    owners = {path.stat().st_uid for step in STEPS for path in finished.output(step, "record").parent.rglob("*")}
    assert owners == {CONTAINER_USER}


def test_records_name_the_data_s_commit_the_code_and_the_image_s_commit(finished: Finished) -> None:
    for step in STEPS:
        text = json.dumps(finished.record(step))
        assert code_version() in text
    materials = json.dumps(finished.record("resolve_data")["predicate"]["buildDefinition"]["resolvedDependencies"])
    assert f"/repository.git@{finished.commit}#data/images" in materials


def test_the_steps_did_their_work(finished: Finished) -> None:
    import pyarrow.parquet as pq

    assert json.loads(finished.output("validate_data", "verdict").read_text(encoding="utf-8"))["passed"] is True
    assert pq.read_metadata(finished.output("prompt_curation", "selected_prompts")).num_rows == 400
    assert (finished.output("resolve_data", "base_model") / "unet").is_dir()


def test_the_records_digests_are_those_of_the_outputs(finished: Finished) -> None:
    for step in STEPS:
        for subject in finished.record(step)["subject"]:
            assert sha256_path(finished.output(step, subject["name"])) == subject["digest"]["sha256"]
