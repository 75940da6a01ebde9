"""Kubeflow component of the step `judge_models`; the step itself is `unifl.steps.judge_models`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def judge_models(
    icons: dsl.Input[dsl.Dataset],
    images: dsl.Input[dsl.Dataset],
    settings: str,
    code_version: str,
    judges: dsl.Output[dsl.Model],
    scorer: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Train the judges, the style classifier and the image-text scorer that evaluation uses.

    For maintainers: the DAG takes its result as given.
    """
    from unifl.core.task import run_task

    run_task("judge_models", locals())
