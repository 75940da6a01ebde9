"""Kubeflow component of the step `preflight`; the step itself is `unifl.steps.preflight`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def preflight(
    settings: str,
    code_version: str,
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
    resolve_data_settings: str = "",
    validate_data_settings: str = "",
    prompt_curation_settings: str = "",
    reward_model_color_settings: str = "",
    reward_model_layout_settings: str = "",
    reward_model_lighting_settings: str = "",
    reward_model_detail_settings: str = "",
    perceptual_feedback_settings: str = "",
    decoupled_feedback_settings: str = "",
    adversarial_feedback_settings: str = "",
    evaluation_settings: str = "",
    quality_gate_settings: str = "",
):
    """Check settings, data, secrets, images, quota and disk of a run before its first GPU starts.

    The settings of every step come in as that step will get them; an empty one belongs to no step of this pipeline.
    """
    from unifl.core.settings import settings_with
    from unifl.core.task import run_task

    given = dict(locals())
    steps = {
        name.removesuffix("_settings"): text for name, text in given.items() if name.endswith("_settings") and text
    }
    run_task("preflight", {**given, "settings": settings_with(settings, steps=steps)})
