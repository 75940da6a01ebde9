"""What is in the images, and what isn't: user, file system, size, labels, history, bill of materials."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from images.build import BILLS, ROOT, lock_digest, revision
from images.engine import docker, inspected
from tests.containers.conftest import Image
from unifl.core.digest import code_version

pytestmark = pytest.mark.containers

MEGABYTE = 10**6
LARGEST = {"data": 700 * MEGABYTE, "train": 2500 * MEGABYTE}

SECRET_OR_ADDRESS = re.compile(r"https?://|git\\+ssh|token|password|secret|api[_-]?key|PIP_", re.IGNORECASE)


def test_the_image_runs_as_a_numeric_user_that_is_not_root(image: Image) -> None:
    # Kubernetes' runAsNonRoot can't judge a name.
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", image.inspected()["Config"]["User"])
    assert image.output("id", "-u").strip() == "1000"


def test_the_user_can_change_nothing_in_the_image(image: Image) -> None:
    search = "find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/dev/*' -not -path '/tmp*' -print"
    found = image.run("sh", "-c", search, options=("--rm", "--network", "none")).stdout.split()
    assert set(found) <= {"/var/tmp", "/run/lock"}


def test_the_size_is_within_its_mark(image: Image) -> None:
    size = image.inspected()["Size"]
    print(image.name, f"{size / MEGABYTE:.0f} MB")
    assert size <= LARGEST[image.name]


def test_labels_tell_commit_code_and_locks(image: Image) -> None:
    labels = image.inspected()["Config"]["Labels"]
    assert labels["org.opencontainers.image.revision"] == revision()
    assert labels["io.unifl.code-version"] == code_version()
    assert labels["io.unifl.lock.sha256"] == lock_digest(image.name, "cpu")
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == image.entry["tag"]


def test_the_code_in_the_image_is_the_code_that_was_submitted(image: Image) -> None:
    program = "from unifl.core.digest import code_version; print(code_version())"
    assert image.output("python3", "-c", program).strip() == code_version()


def test_history_and_settings_hold_no_address_secret_or_host_name(image: Image) -> None:
    base, configuration = image.entry["built"]["base"], image.inspected()["Config"]
    ours = {*history(image.reference), *configuration["Labels"].values(), *configuration["Env"]}
    added = ours - {*history(base), *(inspected(base)["Config"]["Env"] or [])}
    assert len(added) > 20
    pip = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    of_this_machine = {socket.gethostname(), *re.findall(r"https?://[^\s'\"]+|/[^\s'\"]+", pip.stdout)}
    for line in added:
        assert not SECRET_OR_ADDRESS.findall(line)
        assert not [name for name in of_this_machine if len(name) > 3 and name in line]


def history(reference: str) -> list[str]:
    """The command of every layer, the newest first."""
    return docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", reference).splitlines()


def test_no_compiler_downloader_or_configuration_of_pip_is_left_and_no_pip_beside_the_packages(image: Image) -> None:
    program = "for tool in gcc git curl wget; do command -v $tool; done; "
    program += "find / -xdev \\( -name pip.conf -o -name .netrc \\) 2>/dev/null; true"
    assert image.output("sh", "-c", program) == ""
    assert "No module named pip" in image.run("python3", "-m", "pip", "--version").stderr


def test_the_data_image_has_no_torch(built: dict[str, Image]) -> None:
    assert "No module named 'torch'" in built["data"].run("python3", "-c", "import torch").stderr
    assert built["train"].output("python3", "-c", "import torch; print(torch.__version__)").startswith("2.13.0")


def test_the_bill_of_materials_lists_what_the_locks_pin_and_is_valid(image: Image) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (BILLS / f"{image.name}.cdx.json").read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert bill["metadata"]["component"]["hashes"][0]["content"] == image.inspected()["Id"].removeprefix("sha256:")
    listed = {
        (part["name"], part["version"].partition("+")[0])
        for part in bill["components"]
        if part["purl"].startswith("pkg:pypi/")
    }
    assert listed - {("unifl", image.entry["tag"])} == pinned(image.name)
    assert any(part["purl"].startswith("pkg:deb/debian/libc6@") for part in bill["components"])


def pinned(name: str) -> set[tuple[str, str]]:
    locks = [ROOT / "images" / name / "requirements.lock"]
    if name == "train":
        locks += [ROOT / "images" / "train" / "torch-cpu.lock", ROOT / "requirements" / "models-hed.lock"]
    return {pin for lock in locks for pin in re.findall(r"^([a-z0-9-]+)==(\S+)", Path(lock).read_text(), re.MULTILINE)}
