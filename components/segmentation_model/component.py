"""Kubeflow component of the step `segmentation_model`; the step itself is `unifl.steps.segmentation_model`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def segmentation_model(
    icons: dsl.Input[dsl.Dataset],
    settings: str,
    code_version: str,
    segmenter: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Train the dense instance segmenter of structure feedback on exact masks.

    For maintainers: the DAG takes its result as given.
    """
    from unifl.core.task import run_task

    run_task("segmentation_model", locals())
