"""Kubeflow component of the step `resolve_data`; the step itself is `unifl.steps.resolve_data`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def resolve_data(
    settings: str,
    code_version: str,
    images: dsl.Output[dsl.Dataset],
    prompts: dsl.Output[dsl.Dataset],
    preferences: dsl.Output[dsl.Dataset],
    base_model: dsl.Output[dsl.Model],
    segmenter: dsl.Output[dsl.Model],
    judges: dsl.Output[dsl.Model],
    scorer: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Fetch the run's inputs from a DVC repository at a revision and check their digests.

    arXiv 2404.05595 needs images with masks and styles (3.1), prompts and preference pairs an axis (3.2).
    Revision and digests are resolved before submission, so a cached run stays true to its parameters.
    """
    from unifl.core.task import run_task

    run_task("resolve_data", locals())
