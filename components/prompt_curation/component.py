"""Kubeflow component of the step `prompt_curation`; the step itself is `unifl.steps.prompt_curation`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def prompt_curation(
    prompts: dsl.Input[dsl.Dataset],
    settings: str,
    code_version: str,
    selected_prompts: dsl.Output[dsl.Dataset],
    details: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Select rich and diverse prompts: semantic filter, then nearest-neighbour compression.

    Active prompt selection, arXiv 2404.05595, Algorithm 2.
    """
    from unifl.core.task import run_task

    run_task("prompt_curation", locals())
