"""`python -m images audit`: a security update that an image lacks is named, one that it has is not."""

import re
import subprocess
from collections.abc import Iterator

import pytest

from images.audit import pending_updates
from images.engine import docker
from tests.containers.conftest import Image

pytestmark = pytest.mark.containers

OUTDATED = "unifl-test-audit:0"


@pytest.fixture
def outdated(built: dict[str, Image]) -> Iterator[str]:
    """The data image, had it been built when Debian's first libssl3 of this release was the newest."""
    older = "/^Package: libssl3$/,/^Version:/s/^Version: .*/Version: 3.0.1-1/"
    lines = [
        f"FROM {built['data'].reference}",
        "USER 0",
        f"RUN sed -i '{older}' /var/lib/dpkg/status",
        "USER 1000:1000",
    ]
    command = ["docker", "build", "--quiet", "--network", "none", "--tag", OUTDATED, "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True, capture_output=True)
    yield OUTDATED
    docker("rmi", "--force", OUTDATED)


def test_a_security_update_that_an_image_lacks_is_named(outdated: str, built: dict[str, Image]) -> None:
    found = {one.package: one for one in pending_updates(outdated)}
    assert found["libssl3"].installed == "3.0.1-1"
    assert re.match(r"3\.0\.\d+-", found["libssl3"].fixed)
    others = {one.package for one in pending_updates(built["data"].reference)} - {"libssl3"}
    assert found.keys() - {"libssl3"} == others
