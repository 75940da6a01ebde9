"""Kubeflow component of the step `base_model`; the step itself is `unifl.steps.base_model`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def base_model(
    images: dsl.Input[dsl.Dataset],
    autoencoder: dsl.Input[dsl.Model],
    settings: str,
    code_version: str,
    base_model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Train the embedded latent diffusion model that the pipeline starts from.

    For maintainers: the DAG takes its result as given.
    """
    from unifl.core.task import run_task

    run_task("base_model", locals())
