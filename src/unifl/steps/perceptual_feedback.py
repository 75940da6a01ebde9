"""Base model -> model 1a: perceptual feedback learning (PeFL, arXiv 2404.05595 §3.1), structure and style together.

Structure is the instance segmenter's own loss against exact masks, style the distance of VGG-16 Gram matrices; both
look at one shared decode of each predicted image.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from unifl.core.step import Metrics, Paths, StepContext, StepDefinition
from unifl.feedback.settings import EngineSettings


class PerceptualFeedbackSettings(EngineSettings):
    """Weights of the feedbacks and the part of the trajectory they act on."""

    lambda_structure: float = Field(1.0, ge=0, description="Weight of the instance loss; the paper gives none.")
    lambda_style: float = Field(1.0, ge=0, description="Weight of the Gram distance; the paper gives none.")
    lambda_edges: float = Field(0.0, ge=0, description="Weight of edge feedback, which the paper names as an option.")
    style_layer_weights: tuple[float, float, float, float] = Field(
        (6.9e-10, 6.0e-10, 5.5e-9, 6.7e-4),
        description="Weights of relu1_2, relu2_2, relu3_3, relu4_3: the reciprocal of the mean squared norm of each "
        "layer's Gram matrices (48 embedded training images), so that layers count alike.",
    )
    noise_to: int = Field(10, ge=0, description="T_a: step index the real latent is noised to (paper, of 20).")
    grad_t_max: int = Field(5, ge=0, description="The optimised step is drawn from [0, grad_t_max] (paper).")

    @model_validator(mode="after")
    def _steps_fit(self) -> PerceptualFeedbackSettings:
        if not self.grad_t_max <= self.noise_to < self.steps:
            raise ValueError(
                f"grad_t_max {self.grad_t_max} <= noise_to {self.noise_to} < steps {self.steps} does not hold"
            )
        if not self.lambda_structure + self.lambda_style + self.lambda_edges > 0:
            raise ValueError("lambda_structure, lambda_style and lambda_edges are all 0: there is nothing to learn")
        return self


STEP = StepDefinition(
    name="perceptual_feedback",
    summary="Tune with structure and style feedback (PeFL, stage 1a).",
    inputs={
        "base_model": "folder of the base model (diffusers layout)",
        "images": "folder of image shards with captions, styles and masks",
        "segmenter": "folder of the instance segmenter",
    },
    outputs={"tuned_model": "folder with the tuned UNet, base.json and training.jsonl"},
    settings=PerceptualFeedbackSettings,
)


def run(inputs: Paths, outputs: Paths, settings: PerceptualFeedbackSettings, context: StepContext) -> Metrics:
    """Train the UNet on the sum of the perceptual losses. Raises DataContractError for a concept without a detector."""
    from unifl.data.contracts import open_images
    from unifl.feedback import assembly
    from unifl.feedback.batches import ImageBatches
    from unifl.feedback.engine import Term
    from unifl.feedback.objectives.perceptual import PerceptualObjective, perceptual_feedbacks

    adapter = assembly.open_model(inputs["base_model"], mixed_precision=settings.mixed_precision)
    images = open_images(inputs["images"])
    feedbacks = perceptual_feedbacks(
        images,
        inputs["segmenter"],
        adapter.device,
        structure=settings.lambda_structure,
        style=settings.lambda_style,
        edges=settings.lambda_edges,
        style_layer_weights=settings.style_layer_weights,
    )
    objective = PerceptualObjective(feedbacks, assembly.trajectory(settings, settings.grad_t_max), settings.noise_to)
    batches = ImageBatches(images, settings.batch_size, settings.seed, with_masks=settings.lambda_structure > 0)
    terms = [Term(objective, batches), assembly.diffusion_term(settings, images)]
    return assembly.tune(
        adapter,
        terms,
        settings,
        base=inputs["base_model"],
        output=outputs["tuned_model"],
        stage=STEP.name,
        context=context,
    )
