"""How long a task takes in its image until its own work begins: container, Kubeflow's executor, libraries."""

import importlib
import json
import subprocess
import time
from typing import Any

import pytest

from tests.containers.conftest import READ_ONLY, Image
from unifl.core.errors import SettingsError
from unifl.core.task import BEGIN_LINE

pytestmark = pytest.mark.containers

COLD_START_SECONDS = 6.0
TRIES = 3
"""The best counts: what else the machine does delays one start, not the image."""

STEPS = {
    "data": ("preflight", "resolve_data", "validate_data", "quality_gate", "publish", "run_summary"),
    "train": (
        *("prompt_curation", "reward_model", "perceptual_feedback", "decoupled_feedback", "adversarial_feedback"),
        *("evaluation", "autoencoder", "base_model", "segmentation_model", "judge_models"),
    ),
}
LIBRARIES = {
    "data": ("pandas", "pyarrow.parquet", "great_expectations", "dvc.api", "google.cloud.storage"),
    "train": ("torch", "diffusers:StableDiffusionPipeline", "transformers:CLIPTextModel", "peft:LoraConfig"),
}
"""The slow ones, all together; diffusers and transformers load a module when a name of it is asked for."""

IMPORTS = """
import importlib, json, resource, sys
for library in sys.argv[1:]:
    module, _, name = library.partition(":")
    module = importlib.import_module(module)
    name and getattr(module, name)
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps(used.ru_utime + used.ru_stime))
"""


def start_as_kubeflow_does(image: Image, step: str) -> tuple[float, int, str]:
    """Run the component's own command with a run's code version that is not the image's.

    Returns seconds of wall time until the step begins, its exit code and its log.
    """
    specification = getattr(importlib.import_module(f"components.{step}.component"), step).component_spec
    container = specification.implementation.container
    executor_input = json.dumps(executor_input_of(specification))
    arguments = [executor_input if argument == "{{$}}" else argument for argument in container.args]
    began, begun, log = time.monotonic(), None, []
    command = ["docker", "run", *READ_ONLY, image.reference, *container.command, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as task:
        for line in task.stdout or ():
            log.append(line)
            if begun is None and BEGIN_LINE in line:
                begun = time.monotonic() - began
    assert begun is not None, "".join(log)
    return begun, task.returncode, "".join(log)


def executor_input_of(specification: Any) -> dict[str, Any]:
    """What Kubeflow tells the executor: the task's parameters, and where its artifacts lie."""

    def artifacts(names: list[str]) -> dict[str, Any]:
        kind = {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}
        return {name: {"artifacts": [{"name": name, "uri": f"/tmp/{name}", "type": kind}]} for name in names}

    parameters = {"settings": "{}", "code_version": "another", "status": {"state": "SUCCEEDED"}}
    inputs, outputs = specification.inputs or {}, specification.outputs or {}
    return {
        "inputs": {
            "parameterValues": {name: value for name, value in parameters.items() if name in inputs},
            "artifacts": artifacts([name for name in inputs if name not in parameters]),
        },
        "outputs": {"outputFile": "/tmp/executor_output.json", "artifacts": artifacts(list(outputs))},
    }


def test_every_step_begins_on_a_read_only_root_without_network_within_its_time(image: Image) -> None:
    measured = {}
    for step in STEPS[image.name]:
        tries = [start_as_kubeflow_does(image, step) for _ in range(TRIES)]
        measured[step] = [round(seconds, 2) for seconds, _, _ in tries]
        for _, exit_code, log in tries:
            assert exit_code == SettingsError.exit_code, log
            assert f"{step}: the run was submitted with code another, this task runs" in log
    print(image.name, measured)
    assert max(min(tries) for tries in measured.values()) <= COLD_START_SECONDS


def test_the_libraries_are_loaded_within_the_same_time(image: Image) -> None:
    measured = [json.loads(image.output("python3", "-c", IMPORTS, *LIBRARIES[image.name])) for _ in range(TRIES)]
    print(image.name, [round(seconds, 2) for seconds in measured])
    assert min(measured) <= COLD_START_SECONDS


def test_every_step_explains_itself(image: Image) -> None:
    for step in STEPS[image.name]:
        assert f"unifl {step}" in image.output("unifl", step, "--help")
