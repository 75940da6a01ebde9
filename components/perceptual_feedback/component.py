"""Kubeflow component of the step `perceptual_feedback`; the step itself is `unifl.steps.perceptual_feedback`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def perceptual_feedback(
    base_model: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    segmenter: dsl.Input[dsl.Model],
    judges: dsl.Input[dsl.Model],
    scorer: dsl.Input[dsl.Model],
    settings: str,
    code_version: str,
    tuned_model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Tune the base model with structure and style feedback from frozen perception models.

    Perceptual feedback learning (PeFL), arXiv 2404.05595 3.1; the first half of stage 1.
    """
    from unifl.cluster.parallel import run_parallel_task

    run_parallel_task("perceptual_feedback", locals())
