"""Kubeflow component of the step `reward_model`; the step itself is `unifl.steps.reward_model`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def reward_model(
    preferences: dsl.Input[dsl.Dataset],
    images: dsl.Input[dsl.Dataset],
    settings: str,
    code_version: str,
    reward_model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Train the reward model of one axis on its preference pairs (Bradley-Terry) and set its hinge alpha.

    Decoupled feedback learning, arXiv 2404.05595 3.2. The axis is in the settings.
    """
    from unifl.core.task import run_task

    run_task("reward_model", locals())
