"""Base model -> model 1a: perceptual feedback learning (PeFL, arXiv 2404.05595 §3.1), structure and style together.

Structure is the instance segmenter's own loss against exact masks, style the distance of VGG-16 Gram matrices; both
look at one shared decode of each predicted image.
"""

from __future__ import annotations

from pydantic import Field

from unifl.core.step import Metrics, Paths, StepContext, StepDefinition
from unifl.feedback.settings import PerceptualSettings


class PerceptualFeedbackSettings(PerceptualSettings):
    """Settings of L_pefl and of the engine."""

    updates: int = Field(
        200,
        ge=0,
        description="Updates of the UNet. 0 passes the base on as it is, for a stage 1 of one sum: decoupled_feedback "
        "with lambda_perceptual.",
    )


STEP = StepDefinition(
    name="perceptual_feedback",
    summary="Tune with structure and style feedback (PeFL, stage 1a).",
    inputs={
        "base_model": "folder of the base model (diffusers layout)",
        "images": "folder of image shards with captions, styles and masks",
        "segmenter": "folder of the instance segmenter",
        "judges": "folder of judges; for the guard, where it is on",
        "scorer": "folder of the image-text scorer; for the guard, where it is on",
    },
    optional_inputs=frozenset({"judges", "scorer"}),
    outputs={"tuned_model": "folder with the tuned UNet, base.json and training.jsonl"},
    settings=PerceptualFeedbackSettings,
)


def run(inputs: Paths, outputs: Paths, settings: PerceptualFeedbackSettings, context: StepContext) -> Metrics:
    """Train the UNet on the sum of the perceptual losses. Raises DataContractError for a concept without a detector."""
    from unifl.data.contracts import open_images
    from unifl.feedback import assembly

    if not settings.updates:
        return assembly.pass_on(inputs["base_model"], outputs["tuned_model"], stage=STEP.name)
    adapter = assembly.open_model(inputs["base_model"], mixed_precision=settings.mixed_precision)
    images = open_images(inputs["images"])
    return assembly.tune(
        adapter,
        [
            assembly.perceptual_term(settings, images, inputs["segmenter"]),
            assembly.diffusion_term(settings, images),
        ],
        settings,
        base=inputs["base_model"],
        output=outputs["tuned_model"],
        stage=STEP.name,
        context=context,
        guard=assembly.open_guard(settings, inputs, images, context),
    )
