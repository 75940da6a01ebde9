"""The images install what their steps need, in the versions that the project tests with."""

import re
from pathlib import Path

import pytest

from images.locks import IMAGES, OWN_LOCK, ROOT, closure, lock_text, project_pins
from unifl.core.errors import SettingsError


def pins(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("name", IMAGES)
def test_the_lock_is_what_its_roots_and_the_projects_locks_give(name: str) -> None:
    file = ROOT / "images" / name / "requirements.lock"
    assert file.read_text(encoding="utf-8") == lock_text(name), "run `python -m images lock`"


@pytest.mark.parametrize("lock", ["torch-cpu.lock", "torch-cuda.lock"])
def test_both_builds_of_torch_are_the_version_that_the_project_tests_with(lock: str) -> None:
    assert pins(ROOT / "images" / "train" / lock)["torch"] == project_pins()["torch"]


def test_the_build_tool_is_the_one_of_the_project() -> None:
    assert pins(ROOT / "images" / "build.lock") == {"setuptools": project_pins()["setuptools"]}


def test_the_lock_for_cuda_pins_nothing_a_second_time() -> None:
    cuda = pins(ROOT / "images" / "train" / "torch-cuda.lock")
    assert not cuda.keys() & pins(ROOT / "images" / "train" / "requirements.lock").keys()
    assert "triton" in cuda
    assert any(package.startswith("nvidia-cudnn") for package in cuda)


def test_the_data_image_has_nothing_of_torch() -> None:
    heavy = {*OWN_LOCK, "transformers", "diffusers", "accelerate", "peft", "spacy", "kubernetes"}
    assert not heavy & pins(ROOT / "images" / "data" / "requirements.lock").keys()


def test_requirements_are_followed_with_extras_and_without_them() -> None:
    assert {"requests", "urllib3", "idna"} <= closure([("requests", True)])
    assert closure([("requests", False)]) == {"requests"}
    # jsonschema's extra `format` asks for what isn't installed here; without it nothing does.
    assert "referencing" in closure([("jsonschema", True)])
    with pytest.raises(SettingsError, match="is not installed"):
        closure([("jsonschema[format]", True)])


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(SettingsError, match="no-such-package is not installed"):
        closure([("no-such-package", True)])
