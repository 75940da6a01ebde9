"""The DAG of UniFL (arXiv 2404.05595 §3, both stages): data and preferences in, a few-step model and its verdict out.

    resolve_data - validate_data -+- prompt_curation -----------+--------------------+
                                  +- reward_model x4 -----------+--------------------+
                                  +- perceptual_feedback - decoupled_feedback - adversarial_feedback
                                                                                     |
                                                                  evaluation - quality_gate

The same function compiles for a cluster and runs on `kfp.local`; where its tasks run is data, in `pipelines.placement`.
A rerun builds it from a step on, with the outputs of a past run before that (`pipelines.dag`). The four axes are
unrolled: some back ends lose a retry inside ParallelFor.
"""

from collections.abc import Mapping
from typing import Any

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
from pipelines.dag import Addresses, Dag
from pipelines.placement import Placement
from unifl.data.vocabulary import AXES

NAME = "unifl-feedback-learning"


def feedback_learning(placement: Placement, past: Addresses | None = None):
    """The pipeline, with its tasks placed by `placement`; steps in `past` are not run, their outputs are imported.

    Its parameters: `code_version`, the digest of the source that the run was submitted with (caches go by it), and one
    JSON string of settings a task. Revision and digests of the data are resolved before submission and stand in
    `resolve_data_settings`; an axis stands in the settings of its reward model. `preflight_settings` and
    `run_summary_settings` matter on a cluster only.
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
        preflight_settings: str = "{}",
        run_summary_settings: str = "{}",
    ):
        steps = {
            "resolve_data": resolve_data_settings,
            "validate_data": validate_data_settings,
            "prompt_curation": prompt_curation_settings,
            "reward_model_color": reward_model_color_settings,
            "reward_model_layout": reward_model_layout_settings,
            "reward_model_lighting": reward_model_lighting_settings,
            "reward_model_detail": reward_model_detail_settings,
            "perceptual_feedback": perceptual_feedback_settings,
            "decoupled_feedback": decoupled_feedback_settings,
            "adversarial_feedback": adversarial_feedback_settings,
            "evaluation": evaluation_settings,
            "quality_gate": quality_gate_settings,
        }
        dag = Dag(placement, code_version, past)
        with dag.guarded(preflight_settings, run_summary_settings, steps):
            add_steps(dag, steps)

    return pipeline


def add_steps(dag: Dag, settings: Mapping[str, Any]) -> None:
    """All steps of the DAG, edge by edge; `settings` maps the tasks that run to their settings."""
    data = dag.step("resolve_data", resolve_data, settings["resolve_data"])

    validated = dag.step(
        "validate_data",
        validate_data,
        settings["validate_data"],
        images=data["images"],
        prompts=data["prompts"],
        preferences=data["preferences"],
    )

    curated = dag.step(
        "prompt_curation", prompt_curation, settings["prompt_curation"], after=validated, prompts=data["prompts"]
    )

    rewards = {}
    for axis in AXES:
        reward = dag.step(
            f"reward_model_{axis}",
            reward_model,
            settings[f"reward_model_{axis}"],
            after=validated,
            preferences=data["preferences"],
            images=data["images"],
        )
        rewards[f"reward_{axis}"] = reward["reward_model"]

    # Of the evaluation, and of the guard that may stop a tuning.
    examiners = {"judges": data["judges"], "scorer": data["scorer"]}
    perceptual = dag.step(
        "perceptual_feedback",
        perceptual_feedback,
        settings["perceptual_feedback"],
        after=validated,
        base_model=data["base_model"],
        images=data["images"],
        segmenter=data["segmenter"],
        **examiners,
    )

    decoupled = dag.step(
        "decoupled_feedback",
        decoupled_feedback,
        settings["decoupled_feedback"],
        base_model=data["base_model"],
        model=perceptual["tuned_model"],
        **rewards,
        selected_prompts=curated["selected_prompts"],
        images=data["images"],
        segmenter=data["segmenter"],
        **examiners,
    )

    adversarial = dag.step(
        "adversarial_feedback",
        adversarial_feedback,
        settings["adversarial_feedback"],
        base_model=data["base_model"],
        model=decoupled["tuned_model"],
        **rewards,
        selected_prompts=curated["selected_prompts"],
        images=data["images"],
        **examiners,
    )

    evaluated = dag.step(
        "evaluation",
        evaluation,
        settings["evaluation"],
        base_model=data["base_model"],
        stage1=decoupled["tuned_model"],
        stage2=adversarial["tuned_model"],
        images=data["images"],
        **examiners,
    )

    dag.step("quality_gate", quality_gate, settings["quality_gate"], evaluation=evaluated["evaluation"])
