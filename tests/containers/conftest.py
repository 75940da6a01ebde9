"""The images that `make test-containers` built; without them these tests are skipped, or fail where they must run."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components import IMAGES_VARIABLE
from images.engine import answers, inspected
from unifl.core.digest import code_version

REQUIRED_VARIABLE = "UNIFL_REQUIRE_CONTAINERS"
"""Set by `make test-containers`: what is missing is a failure there."""

READ_ONLY = ("--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")
"""How Kubernetes' restricted standard would run a step, and without a network."""


@dataclass(frozen=True)
class Image:
    """A built image and what `images/digests.json` says of it."""

    name: str
    reference: str
    entry: dict[str, Any]

    def run(self, *command: str, options: tuple[str, ...] = READ_ONLY) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "run", *options, self.reference, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def output(self, *command: str) -> str:
        """What a command in a container of this image prints; it has to succeed."""
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def inspected(self) -> dict[str, Any]:
        return inspected(self.reference)


def missing(reason: str) -> None:
    """Skip, or fail where the containers are what is tested."""
    if os.environ.get(REQUIRED_VARIABLE):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def built() -> dict[str, Image]:
    """The images by name, as they were built from this source."""
    file = os.environ.get(IMAGES_VARIABLE)
    if shutil.which("docker") is None or not answers():
        missing("no Docker engine answers: `make test-containers`")
    if not file or not Path(file).exists():
        missing(f"{IMAGES_VARIABLE} names no file of built images: `make test-containers`")
    entries = json.loads(Path(str(file)).read_text(encoding="utf-8"))
    stale = [name for name, entry in entries.items() if (entry["built"] or {}).get("code_version") != code_version()]
    if stale:
        missing(f"not built from this source: {', '.join(stale)}; `make test-containers`")
    return {name: Image(name, f"{entry['repository']}:{entry['tag']}", entry) for name, entry in entries.items()}


@pytest.fixture(params=["data", "train"])
def image(request: pytest.FixtureRequest, built: dict[str, Image]) -> Image:
    return built[request.param]
