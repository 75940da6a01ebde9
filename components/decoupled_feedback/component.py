"""Kubeflow component of the step `decoupled_feedback`; the step itself is `unifl.steps.decoupled_feedback`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def decoupled_feedback(
    base_model: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    reward_color: dsl.Input[dsl.Model],
    reward_layout: dsl.Input[dsl.Model],
    reward_lighting: dsl.Input[dsl.Model],
    reward_detail: dsl.Input[dsl.Model],
    selected_prompts: dsl.Input[dsl.Dataset],
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
    """Tune the model with the four reward models as hinges, from pure noise.

    Decoupled aesthetic feedback, arXiv 2404.05595 3.2; the second half of stage 1.
    """
    from unifl.cluster.parallel import run_parallel_task

    run_parallel_task("decoupled_feedback", locals())
