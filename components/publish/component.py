"""Kubeflow component of the step `publish`; the step itself is `unifl.steps.publish`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def publish(
    base_model: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    records: dsl.Input[dsl.Artifact],
    settings: str,
    code_version: str,
    release: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Make the released folder: loadable model, model card, records and checksums.

    Runs in a pipeline of its own, under another identity than training.
    """
    from unifl.core.task import run_task

    run_task("publish", locals())
