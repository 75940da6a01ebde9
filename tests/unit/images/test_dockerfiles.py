"""The Dockerfiles keep the linter's rules and the project's: pinned base, no root, nothing installed outside a lock."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from images.locks import IMAGES, ROOT

DOCKERFILES = [ROOT / "images" / name / "Dockerfile" for name in IMAGES]


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program, "hadolint is not installed: `make install`"
    return subprocess.run([program, "--no-color", str(file)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", DOCKERFILES, ids=IMAGES)
def test_hadolint_finds_nothing(file: Path) -> None:
    found = hadolint(file)
    assert found.returncode == 0, found.stdout


def test_hadolint_would_find_a_mistake(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN cd /tmp && apt-get install python3\n", encoding="utf-8")
    assert {"DL3006", "DL3003", "DL3008"} <= set(re.findall(r"DL\d{4}", hadolint(bad).stdout))


@pytest.mark.parametrize("file", DOCKERFILES, ids=IMAGES)
def test_the_base_is_pinned_by_digest_and_the_user_is_a_number(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert re.search(r"^ARG BASE=\S+:\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["1000:1000"]


@pytest.mark.parametrize("file", DOCKERFILES, ids=IMAGES)
def test_only_the_first_stage_installs_and_only_from_locks(file: Path) -> None:
    build, final = file.read_text(encoding="utf-8").split("\nFROM ${BASE}\n")
    assert "RUN" not in final
    commands = re.findall(r"pip\b[^&]*? install (.*?)(?:&&|\n[A-Z#]|\Z)", build.replace("\\\n", " "), re.DOTALL)
    assert commands
    for arguments in commands:
        assert "--no-deps" in arguments
        assert re.search(r"-r \S+\.lock|--target /opt/app /build", arguments)


def test_both_dockerfiles_stand_on_one_base() -> None:
    bases = {re.search(r"^ARG BASE=(\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE)[1] for file in DOCKERFILES}  # type: ignore[index]
    assert len(bases) == 1
