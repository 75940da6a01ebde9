"""Kubeflow component of the step `autoencoder`; the step itself is `unifl.steps.autoencoder`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def autoencoder(
    images: dsl.Input[dsl.Dataset],
    settings: str,
    code_version: str,
    autoencoder: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Train the autoencoder of the embedded latent diffusion model (images to latents and back).

    For maintainers: the DAG takes the base model as given.
    """
    from unifl.core.task import run_task

    run_task("autoencoder", locals())
