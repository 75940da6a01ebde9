"""Kubeflow component of the step `validate_data`; the step itself is `unifl.steps.validate_data`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def validate_data(
    images: dsl.Input[dsl.Dataset],
    prompts: dsl.Input[dsl.Dataset],
    preferences: dsl.Input[dsl.Dataset],
    settings: str,
    code_version: str,
    report: dsl.Output[dsl.HTML],
    verdict: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Check images, prompts and preferences against their contracts and expectations.

    A failed check ends the run before any accelerator time is spent.
    """
    from unifl.core.task import run_task

    run_task("validate_data", locals())
