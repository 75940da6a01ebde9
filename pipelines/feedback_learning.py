"""The DAG of UniFL (arXiv 2404.05595 §3, both stages): data and preferences in, a few-step model and its verdict out.

    resolve_data - validate_data -+- prompt_curation -----------+--------------------+
                                  +- reward_model x4 -----------+--------------------+
                                  +- perceptual_feedback - decoupled_feedback - adversarial_feedback
                                                                                     |
                                                                  evaluation - quality_gate

The same function compiles for a cluster and runs on `kfp.local`; where its tasks run is data, in `pipelines.placement`.
The four axes are unrolled: some back ends lose a retry inside ParallelFor.
"""

from kfp import dsl

from components.adversarial_feedback.component import adversarial_feedback
from components.decoupled_feedback.component import decoupled_feedback
from components.evaluation.component import evaluation
from components.perceptual_feedback.component import perceptual_feedback
from components.prompt_curation.component import prompt_curation
from components.quality_gate.component import quality_gate
from components.resolve_data.component import resolve_data
from components.reward_model.component import reward_model
from components.validate_data.component import validate_data
from pipelines.placement import Placement, place

NAME = "unifl-feedback-learning"


def feedback_learning(placement: Placement):
    """The pipeline, with its tasks placed by `placement`.

    Its parameters: `code_version`, the digest of the source that the run was submitted with (caches go by it), and one
    JSON string of settings a task. Revision and digests of the data are resolved before submission and stand in
    `resolve_data_settings`; an axis stands in the settings of its reward model.
    """

    @dsl.pipeline(
        name=NAME,
        description="Unified feedback learning: a base model, images and preferences in, a few-step model out.",
    )
    def pipeline(
        code_version: str,
        resolve_data_settings: str,
        validate_data_settings: str,
        prompt_curation_settings: str,
        reward_model_color_settings: str,
        reward_model_layout_settings: str,
        reward_model_lighting_settings: str,
        reward_model_detail_settings: str,
        perceptual_feedback_settings: str,
        decoupled_feedback_settings: str,
        adversarial_feedback_settings: str,
        evaluation_settings: str,
        quality_gate_settings: str,
    ):
        data = resolve_data(settings=resolve_data_settings, code_version=code_version)
        place(data, "resolve_data", placement)
        given = data.outputs

        validated = validate_data(
            images=given["images"],
            prompts=given["prompts"],
            preferences=given["preferences"],
            settings=validate_data_settings,
            code_version=code_version,
        )
        place(validated, "validate_data", placement)

        curated = prompt_curation(
            prompts=given["prompts"], settings=prompt_curation_settings, code_version=code_version
        ).after(validated)
        place(curated, "prompt_curation", placement)

        rewards = {}
        for axis, settings in {
            "color": reward_model_color_settings,
            "layout": reward_model_layout_settings,
            "lighting": reward_model_lighting_settings,
            "detail": reward_model_detail_settings,
        }.items():
            reward = reward_model(
                preferences=given["preferences"], images=given["images"], settings=settings, code_version=code_version
            ).after(validated)
            place(reward, f"reward_model_{axis}", placement)
            rewards[f"reward_{axis}"] = reward.outputs["reward_model"]

        perceptual = perceptual_feedback(
            base_model=given["base_model"],
            images=given["images"],
            segmenter=given["segmenter"],
            settings=perceptual_feedback_settings,
            code_version=code_version,
        ).after(validated)
        place(perceptual, "perceptual_feedback", placement)

        decoupled = decoupled_feedback(
            base_model=given["base_model"],
            model=perceptual.outputs["tuned_model"],
            **rewards,
            selected_prompts=curated.outputs["selected_prompts"],
            settings=decoupled_feedback_settings,
            code_version=code_version,
        )
        place(decoupled, "decoupled_feedback", placement)

        adversarial = adversarial_feedback(
            base_model=given["base_model"],
            model=decoupled.outputs["tuned_model"],
            **rewards,
            selected_prompts=curated.outputs["selected_prompts"],
            images=given["images"],
            settings=adversarial_feedback_settings,
            code_version=code_version,
        )
        place(adversarial, "adversarial_feedback", placement)

        evaluated = evaluation(
            base_model=given["base_model"],
            stage1=decoupled.outputs["tuned_model"],
            stage2=adversarial.outputs["tuned_model"],
            judges=given["judges"],
            scorer=given["scorer"],
            images=given["images"],
            settings=evaluation_settings,
            code_version=code_version,
        )
        place(evaluated, "evaluation", placement)

        gate = quality_gate(
            evaluation=evaluated.outputs["evaluation"], settings=quality_gate_settings, code_version=code_version
        )
        place(gate, "quality_gate", placement)

    return pipeline
