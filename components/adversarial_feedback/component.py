"""Kubeflow component of the step `adversarial_feedback`; the step itself is `unifl.steps.adversarial_feedback`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def adversarial_feedback(
    base_model: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    reward_color: dsl.Input[dsl.Model],
    reward_layout: dsl.Input[dsl.Model],
    reward_lighting: dsl.Input[dsl.Model],
    reward_detail: dsl.Input[dsl.Model],
    selected_prompts: dsl.Input[dsl.Dataset],
    images: dsl.Input[dsl.Dataset],
    judges: dsl.Input[dsl.Model],
    scorer: dsl.Input[dsl.Model],
    settings: str,
    code_version: str,
    tuned_model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Tune the model for few steps, with the detail reward model as moving discriminator.

    Adversarial feedback learning, arXiv 2404.05595 3.3; stage 2.
    """
    from unifl.cluster.parallel import run_parallel_task

    run_parallel_task("adversarial_feedback", locals())
