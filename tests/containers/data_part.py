"""Runs the DAG's data part with the preset `demo`, each task in a container of its image, by KFP's own runner:

python -m tests.containers.data_part ARTIFACTS ADDRESS COMMIT

The containers run as the images' own user, with a read-only root file system and no capability. DVC clones the git
repository at ADDRESS in them, as it would on a cluster.
"""

import sys
import warnings
from pathlib import Path

from kfp import dsl, local

from components.prompt_curation.component import prompt_curation
from components.resolve_data.component import resolve_data
from components.validate_data.component import validate_data
from pipelines.dag import Dag
from pipelines.placement import THIS_MACHINE
from pipelines.settings import parameters, resolved, task_settings

STEPS = {"resolve_data": "data", "validate_data": "data", "prompt_curation": "train"}
"""Step -> the image that its component names."""


@dsl.pipeline(name="unifl-data-part")
def data_part(
    code_version: str, resolve_data_settings: str, validate_data_settings: str, prompt_curation_settings: str
):
    """The first three steps of `pipelines.feedback_learning`, wired as there."""
    dag = Dag(THIS_MACHINE, code_version)
    data = dag.step("resolve_data", resolve_data, resolve_data_settings)
    given = {name: data[name] for name in ("images", "prompts", "preferences")}
    validated = dag.step("validate_data", validate_data, validate_data_settings, **given)
    dag.step("prompt_curation", prompt_curation, prompt_curation_settings, after=validated, prompts=data["prompts"])


def main(artifacts: Path, address: str, commit: str) -> None:
    """Run it. Raises RuntimeError when a task fails."""
    overrides = [f"resolve_data.repository={address}", f"resolve_data.revision={commit}"]
    settings = parameters(resolved(task_settings("demo", overrides)))
    runner = local.DockerRunner(
        network_mode="host",
        read_only=True,
        tmpfs={"/tmp": ""},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        # Threads that wait for each other on cores that others use made the curation fifty times slower.
        environment={"OMP_NUM_THREADS": "1"},
    )
    local.init(runner, pipeline_root=str(artifacts))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*have no effect in the current local runner")
        data_part(
            **{
                name: value
                for name, value in settings.items()
                if name in data_part.pipeline_spec.root.input_definitions.parameters
            }
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
