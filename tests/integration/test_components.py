"""Every component says the same as its step, imports nothing heavy, and has the README that its source generates."""

import ast
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import components
from components.readme import FOLDER, component_names, outdated
from pipelines.settings import TASKS
from unifl.core.step import step_definition

COMMON_INPUTS = {"settings", "code_version"}
FROM_THE_RUN = {"preflight": {f"{task}_settings" for task in TASKS}, "run_summary": {"status"}}
COMMON_OUTPUTS = {"metrics", "record"}

pytestmark = pytest.mark.integration


def spec(name: str) -> Any:
    return getattr(importlib.import_module(f"components.{name}.component"), name).component_spec


@pytest.mark.parametrize("name", component_names())
def test_component_takes_and_gives_what_its_step_does(name: str) -> None:
    step = step_definition(name)
    taken = set(spec(name).inputs)
    from_the_run = FROM_THE_RUN.get(name, set())
    assert taken - step.optional_inputs - from_the_run == set(step.inputs) - step.optional_inputs | COMMON_INPUTS
    assert taken - COMMON_INPUTS - from_the_run <= set(step.inputs)
    assert set(spec(name).outputs) == set(step.outputs) | COMMON_OUTPUTS


@pytest.mark.parametrize("name", component_names())
def test_component_imports_only_kfp_and_the_standard_library_at_the_top(name: str) -> None:
    tree = ast.parse((FOLDER / name / "component.py").read_text(encoding="utf-8"))
    imported = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    roots = {module.split(".")[0] for module in imported if module}
    assert roots <= {"kfp", "components", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", component_names())
def test_component_installs_nothing_at_run_time(name: str) -> None:
    container = spec(name).implementation.container
    assert "pip install" not in " ".join([*container.command, *container.args])


def test_readmes_are_what_the_components_generate() -> None:
    assert not [str(file) for file in outdated()], "run `python -m components.readme`"


def test_an_image_is_named_by_digest_once_it_was_pushed_and_by_tag_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = f"sha256:{'a' * 64}"
    entries = {
        "data": {"repository": "registry.example/python-data", "tag": "0.1.0", "digest": digest},
        "train": {"repository": "unifl-pipelines/python-train", "tag": "0.1.0", "digest": None},
    }
    file = tmp_path / "digests.json"
    file.write_text(json.dumps(entries), encoding="utf-8")
    monkeypatch.setenv(components.IMAGES_VARIABLE, str(file))
    assert components.image("data") == f"registry.example/python-data@{digest}"
    assert components.image("train") == "unifl-pipelines/python-train:0.1.0"
    assert components.images_without_digest() == ["train"]
    with pytest.raises(KeyError):
        components.image("no-such-image")


def test_the_committed_file_names_an_image_for_every_component() -> None:
    used = {spec(name).implementation.container.image for name in component_names()}
    assert used == {components.image("data"), components.image("train")}
