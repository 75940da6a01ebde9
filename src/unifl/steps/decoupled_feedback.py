"""Model 1a -> model 1: decoupled feedback learning (arXiv 2404.05595 §3.2), four rewards as hinges, from pure noise.

A reward pulls until the image scores as preferred images do (alpha) and then lets go, which is what keeps colors from
over-saturating; the prompts are those that active prompt selection has kept. With `lambda_perceptual` the perceptual
terms join the same updates: the paper's L1 = L_pefl + L_aes as one sum. For the ablation of decoupling one global
reward may stand in the place of the four.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from unifl.core.step import Metrics, Paths, StepContext, StepDefinition
from unifl.data.vocabulary import AXES
from unifl.feedback.settings import AestheticSettings, PerceptualSettings


class DecoupledFeedbackSettings(PerceptualSettings, AestheticSettings):
    """Settings of L_aes, of L_pefl where it joins, and of the engine."""

    lambda_perceptual: float = Field(
        0.0,
        ge=0,
        description="Weight of L_pefl in the same updates; 0 when perceptual_feedback has trained on it before. The "
        "paper adds both with weight 1.",
    )

    lambda_global: float = Field(
        1.0,
        ge=0,
        description="Weight of reward_global, where it stands in the place of the four axes; ReFL has one reward.",
    )
    alpha_offset_global: float = Field(0.0, description="As alpha_offset_color, for reward_global.")

    def perceptual_terms(self) -> bool:
        return self.lambda_perceptual > 0

    @model_validator(mode="after")
    def _something_to_learn(self) -> DecoupledFeedbackSettings:
        if not (self.axis_weights() and self.lambda_aesthetic > 0):
            raise ValueError("lambda_aesthetic or the weights of all four axes are 0: there is nothing to learn")
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
        "reward_global": "reward model folder of the axis global, in the place of the four; an ablation",
        "selected_prompts": "Parquet of prompts that prompt_curation has kept",
        "images": "folder of image shards; for the perceptual and the diffusion term, where they have weight",
        "segmenter": "folder of the instance segmenter; for the perceptual term, where it has weight",
        "judges": "folder of judges; for the guard, where it is on",
        "scorer": "folder of the image-text scorer; for the guard, where it is on",
    },
    optional_inputs=frozenset({"judges", "scorer", "reward_global", *(f"reward_{axis}" for axis in AXES)}),
    outputs={"tuned_model": "folder with the tuned UNet, base.json and training.jsonl"},
    settings=DecoupledFeedbackSettings,
)


def run(inputs: Paths, outputs: Paths, settings: DecoupledFeedbackSettings, context: StepContext) -> Metrics:
    """Train the UNet on the sum of the hinges, and of what else has weight."""
    from unifl.data.contracts import open_images
    from unifl.feedback import assembly

    adapter = assembly.open_model(inputs["base_model"], inputs["model"], mixed_precision=settings.mixed_precision)
    rewards = assembly.open_rewards(inputs)
    features = assembly.sentence_features()
    images = open_images(inputs["images"])
    terms = [
        assembly.aesthetic_term(settings, rewards, inputs["selected_prompts"], features),
        assembly.diffusion_term(settings, images),
    ]
    if settings.perceptual_terms():
        terms.append(assembly.perceptual_term(settings, images, inputs["segmenter"], settings.lambda_perceptual))
    return assembly.tune(
        adapter,
        terms,
        settings,
        base=inputs["base_model"],
        output=outputs["tuned_model"],
        stage=STEP.name,
        context=context,
        guard=assembly.open_guard(settings, inputs, images, context),
    )
