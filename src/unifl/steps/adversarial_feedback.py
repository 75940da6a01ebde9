"""Model 1 -> model 2: adversarial feedback learning (arXiv 2404.05595 §3.3), for sampling in few steps.

The detail reward goes on learning as a discriminator of real against predicted images while the optimised step ranges
over the whole trajectory; the aesthetic term is kept, so that beauty does not decay.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from unifl.core.step import Metrics, Paths, StepContext, StepDefinition
from unifl.feedback.settings import AestheticSettings


class AdversarialFeedbackSettings(AestheticSettings):
    """Settings of L_G and L_D beside those of L_aes and of the engine."""

    adversarial_weight: float = Field(0.05, gt=0, description="Weight of L_G; ByteEdit's value (arXiv 2404.04860).")
    adversarial_last_stop: int | None = Field(
        None,
        ge=0,
        description="The optimised step of L_G is drawn from 0, the last of sampling, to this index; the whole "
        "trajectory when null, as in the paper, which compares with its last steps alone.",
    )
    discriminator_learning_rate: float = Field(
        1e-4,
        ge=0,
        description="AdamW of the discriminator. The paper gives none: ten times the UNet's. 0 freezes it, with which "
        "the paper compares.",
    )
    discriminator_blocks: int = Field(
        2,
        ge=0,
        le=16,
        description="Last trunk blocks that learn beside the head. The paper trains r_a without naming frozen parts.",
    )
    real_images: Literal["autoencoder", "raw"] = Field(
        "autoencoder",
        description="Real images as the autoencoder gives them back, or raw: the discriminator must not win by "
        "spotting the autoencoder.",
    )

    @model_validator(mode="after")
    def _adversarial_steps_fit(self) -> AdversarialFeedbackSettings:
        if self.adversarial_last_stop is not None and self.adversarial_last_stop >= self.steps:
            raise ValueError(f"adversarial_last_stop {self.adversarial_last_stop} is not below steps {self.steps}")
        return self

    def last_stop(self) -> int:
        """The noisiest step index that L_G optimises."""
        return self.steps - 1 if self.adversarial_last_stop is None else self.adversarial_last_stop


STEP = StepDefinition(
    name="adversarial_feedback",
    summary="Tune for few steps with a reward model as discriminator (stage 2).",
    inputs={
        "base_model": "folder of the base model (diffusers layout)",
        "model": "tuned model folder of decoupled_feedback",
        "reward_color": "reward model folder of the axis color",
        "reward_layout": "reward model folder of the axis layout",
        "reward_lighting": "reward model folder of the axis lighting",
        "reward_detail": "reward model folder of the axis detail; the discriminator starts from it",
        "selected_prompts": "Parquet of prompts that prompt_curation has kept",
        "images": "folder of image shards: the real images",
        "judges": "folder of judges; for the guard, where it is on",
        "scorer": "folder of the image-text scorer; for the guard, where it is on",
    },
    optional_inputs=frozenset({"judges", "scorer"}),
    outputs={"tuned_model": "folder with the tuned UNet, base.json and training.jsonl"},
    settings=AdversarialFeedbackSettings,
)


def run(inputs: Paths, outputs: Paths, settings: AdversarialFeedbackSettings, context: StepContext) -> Metrics:
    """Train UNet and discriminator in turn; the aesthetic term has batches and trajectories of its own."""
    from unifl.data.contracts import open_images
    from unifl.feedback import assembly
    from unifl.feedback.batches import ImageBatches
    from unifl.feedback.engine import Term
    from unifl.feedback.objectives.adversarial import AdversarialObjective

    adapter = assembly.open_model(inputs["base_model"], inputs["model"], mixed_precision=settings.mixed_precision)
    rewards = assembly.open_rewards(inputs)
    features = assembly.sentence_features()
    images = open_images(inputs["images"])
    objective = AdversarialObjective(
        rewards["detail"].discriminator(settings.discriminator_blocks),
        assembly.trajectory(settings, settings.last_stop()),
        features,
        learning_rate=settings.discriminator_learning_rate,
        real_images=settings.real_images,
        views=assembly.multi_view(settings),
    )
    terms = [
        Term(objective, ImageBatches(images, settings.batch_size, settings.seed), settings.adversarial_weight),
        assembly.diffusion_term(settings, images),
    ]
    if settings.lambda_aesthetic > 0:
        terms.append(assembly.aesthetic_term(settings, rewards, inputs["selected_prompts"], features))
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
