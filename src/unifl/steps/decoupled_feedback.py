"""Model 1a -> model 1: decoupled feedback learning (arXiv 2404.05595 §3.2), four rewards as hinges, from pure noise.

A reward pulls until the image scores as preferred images do (alpha) and then lets go, which is what keeps colors from
over-saturating; the prompts are those that active prompt selection has kept.
"""

from __future__ import annotations

from pydantic import model_validator

from unifl.core.step import Metrics, Paths, StepContext, StepDefinition
from unifl.feedback.settings import AestheticSettings


class DecoupledFeedbackSettings(AestheticSettings):
    """Settings of L_aes and of the engine."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> DecoupledFeedbackSettings:
        if not (self.axis_weights() and self.lambda_aesthetic > 0):
            raise ValueError("lambda_aesthetic or the weights of all four axes are 0: there is nothing to learn")
        if self.diffusion_weight > 0:
            raise ValueError("diffusion_weight needs images, which this step does not take")
        return self


STEP = StepDefinition(
    name="decoupled_feedback",
    summary="Tune with the four rewards as hinges (stage 1).",
    inputs={
        "base_model": "folder of the base model (diffusers layout)",
        "model": "tuned model folder of perceptual_feedback",
        "reward_color": "reward model folder of the axis color",
        "reward_layout": "reward model folder of the axis layout",
        "reward_lighting": "reward model folder of the axis lighting",
        "reward_detail": "reward model folder of the axis detail",
        "selected_prompts": "Parquet of prompts that prompt_curation has kept",
    },
    outputs={"tuned_model": "folder with the tuned UNet, base.json and training.jsonl"},
    settings=DecoupledFeedbackSettings,
)


def run(inputs: Paths, outputs: Paths, settings: DecoupledFeedbackSettings, context: StepContext) -> Metrics:
    """Train the UNet on the sum of the hinges."""
    from unifl.feedback import assembly

    adapter = assembly.open_model(inputs["base_model"], inputs["model"], mixed_precision=settings.mixed_precision)
    rewards = assembly.open_rewards(inputs)
    features = assembly.sentence_features()
    terms = [assembly.aesthetic_term(settings, rewards, inputs["selected_prompts"], features)]
    return assembly.tune(
        adapter,
        terms,
        settings,
        base=inputs["base_model"],
        output=outputs["tuned_model"],
        stage=STEP.name,
        context=context,
    )
