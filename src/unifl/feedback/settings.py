"""Settings of the feedback engine, shared by the three tuning steps; light to import (no torch).

Where arXiv 2404.05595 is silent (learning rate, batch size, weights), defaults come from the sibling papers it names:
ReFL (ImageReward, arXiv 2304.05977) and ByteEdit (arXiv 2404.04860).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field, model_validator

from unifl.core.settings import StepSettings
from unifl.data.vocabulary import AXES


class EngineSettings(StepSettings):
    """How long, how fast and on which parameters an objective trains."""

    updates: int = Field(200, ge=1, description="Updates of the UNet. The paper says 200 A100-hours a stage.")
    batch_size: int = Field(16, ge=1, description="Images an update and objective. The paper gives none; two cores.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients add up to one update.")
    learning_rate: float = Field(1e-5, gt=0, description="AdamW, ReFL's value (arXiv 2304.05977).")
    warmup_updates: int = Field(
        20, ge=0, description="Updates of linear warm-up; ByteEdit takes 1,000 of a far longer run (arXiv 2404.04860)."
    )
    weight_decay: float = Field(1e-2, ge=0, description="AdamW's own default (torch), which ReFL keeps.")
    clip: float = Field(1.0, gt=0, description="Largest gradient norm; 1.0 as in diffusers' training scripts.")
    ema_decay: float = Field(
        0.9999,
        ge=0,
        lt=1,
        description="Decay of the averaged weights that are saved, reached by (1 + n) / (10 + n) after n updates "
        "(diffusers' EMAModel); ByteEdit's value. 0 saves the last weights.",
    )
    lora_rank: int = Field(0, ge=0, description="0 tunes all weights of the UNet; else the rank of LoRA on attention.")
    steps: int = Field(20, ge=1, le=1000, description="DDIM steps of a trajectory (paper, section on implementation).")
    spacing: Literal["trailing", "leading", "linspace"] = Field(
        "trailing", description="Timestep spacing; trailing starts at pure noise (arXiv 2305.08891)."
    )
    gradient_steps: int = Field(1, ge=1, description="Steps that carry the gradient; the paper's one, K of DRaFT-K.")
    guidance_scale: float = Field(
        1.0, ge=1, description="Classifier-free guidance while training; 1 is off, as in ReFL and the paper."
    )
    balance_steps: bool = Field(
        False,
        description="Scale each sample's gradient by signal / sigma of its step, so that all steps count alike; off is "
        "the paper's loss as written. Measured on the embedded base, norm of the adversarial gradient at step index "
        "0, 5, 10, 15, 19: 3, 9, 22, 48, 99 when off.",
    )
    diffusion_weight: float = Field(
        0.0, ge=0, description="Weight of the plain diffusion loss beside the feedback: none in the paper, one in ReFL."
    )
    diffusion_min_snr: float = Field(
        0.0,
        ge=0,
        description="0 takes the diffusion loss as Stable Diffusion does; above, gamma of min-SNR weighting (arXiv "
        "2303.09556, 5 there) in v-prediction's form, with which the embedded base was trained.",
    )
    views: int = Field(
        0,
        ge=0,
        description="Multi-view feedback: each decoded image is judged whole and in so many crops and flips of it "
        "besides. 0 is the paper's. Of the frozen rewards color and lighting look at views (layout and detail would "
        "score the crop and the resampling); perceptual references are cut alike.",
    )
    view_crop_min: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Smallest share of the sides that a view shows. Measured on validation images: at 0.8 scores agree "
        "with those of the whole image (correlation 0.83-0.85; 0.71-0.79 at 0.7), and the segmenter's loss is 0.43 "
        "(0.31 whole, 0.72 at 0.7).",
    )
    view_crop_max: float = Field(1.0, gt=0, le=1, description="Largest share; 1 shows all, at most mirrored.")
    view_flips: bool = Field(True, description="Whether half of the views are mirrored left to right.")
    mixed_precision: bool = Field(
        True, description="The UNet computes in bfloat16 where the processor does so natively; its weights are float32."
    )
    gradient_checkpointing: bool = Field(False, description="Less memory for more time in the UNet's gradient step.")
    guard_every: int = Field(
        0,
        ge=0,
        description="Updates between two looks of the over-optimization guard; 0 for none. Where KID or the judges are "
        "worse than at the best look, beyond the paired 95 % interval, training stops and the best weights are kept.",
    )
    guard_images: int = Field(
        100, ge=2, description="Pictures a look; captions and real images of the validation split."
    )
    guard_steps: int = Field(20, ge=1, description="DDIM steps of those pictures.")
    guard_guidance_scale: float = Field(1.5, ge=1, description="Their guidance; the evaluation's own default.")
    collapse_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Training is refused to go on once the deviation of the generated pictures (median of 5 updates), "
        "over a batch or within a picture, is below this share of where it started. 0 never looks.",
    )
    collapse_gradient: float = Field(
        20.0,
        ge=0,
        description="The same once the gradient's norm (median of 5 updates) is above so many times its running median "
        "over 50; the most in 20 sound runs of the three steps was 2.5 times. 0 never looks.",
    )
    checkpoint_every: int = Field(25, ge=1, description="Updates between two checkpoints (a kill costs at most these).")
    checkpoint_seconds: float = Field(
        30.0,
        gt=0,
        description="A checkpoint after the first update that ends so long after the last one, if checkpoint_every "
        "does not come first: with updates and checkpoints of some seconds a kill costs less than a minute. Where a "
        "checkpoint takes longer, docs/scale.md says what is best.",
    )
    seed: int = Field(0, ge=0, description="Everything random follows from it.")

    @model_validator(mode="after")
    def _views_fit(self) -> Self:
        if self.view_crop_min > self.view_crop_max:
            raise ValueError(f"view_crop_min {self.view_crop_min} is above view_crop_max {self.view_crop_max}")
        return self


class PerceptualSettings(EngineSettings):
    """The perceptual terms L_pefl (§3.1): their weights and the part of the trajectory they act on."""

    lambda_structure: float = Field(1.0, ge=0, description="Weight of the instance loss; the paper gives none.")
    lambda_semantic: float = Field(
        0.0,
        ge=0,
        description="Weight of layout feedback by semantic segmentation: per-pixel cross-entropy of concepts, the "
        "paper's third visual property. lambda_layout is another thing, the weight of the layout reward.",
    )
    lambda_style: float = Field(1.0, ge=0, description="Weight of the Gram distance; the paper gives none.")
    lambda_content: float = Field(
        0.0,
        ge=0,
        description="Weight of the distance of VGG-16's maps, place by place (arXiv 1603.08155 eq. 2; of a diffusion "
        "model's own prediction: arXiv 2401.00110). The paper's framework takes any perception model.",
    )
    lambda_edges: float = Field(0.0, ge=0, description="Weight of edge feedback, which the paper names as an option.")
    style_layer_weights: tuple[float, float, float, float] = Field(
        (6.9e-10, 6.0e-10, 5.5e-9, 6.7e-4),
        description="Weights of relu1_2, relu2_2, relu3_3, relu4_3: the reciprocal of the mean squared norm of each "
        "layer's Gram matrices (48 embedded training images), so that layers count alike.",
    )
    noise_to: int = Field(10, ge=0, description="T_a: step index the real latent is noised to (paper, of 20).")
    grad_t_max: int = Field(5, ge=0, description="The optimised step is drawn from [0, grad_t_max] (paper).")

    def needs_masks(self) -> bool:
        """Whether a term compares with the objects of the real images."""
        return self.lambda_structure > 0 or self.lambda_semantic > 0

    def perceptual_terms(self) -> bool:
        """Whether they have any weight in this step; their settings are checked only then."""
        return True

    @model_validator(mode="after")
    def _perceptual_steps_fit(self) -> Self:
        if not self.perceptual_terms():
            return self
        if not self.grad_t_max <= self.noise_to < self.steps:
            raise ValueError(
                f"grad_t_max {self.grad_t_max} <= noise_to {self.noise_to} < steps {self.steps} does not hold"
            )
        names = [f"lambda_{name}" for name in ("structure", "semantic", "style", "content", "edges")]
        if not any(getattr(self, name) for name in names):
            raise ValueError(f"{', '.join(names[:-1])} and {names[-1]} are all 0: there is nothing to learn")
        return self


class AestheticSettings(EngineSettings):
    """The decoupled aesthetic term L_aes, which stage 1 and stage 2 share (§3.2, §3.3)."""

    lambda_aesthetic: float = Field(1.0, ge=0, description="Weight of the sum of hinges; the paper gives none.")
    lambda_color: float = Field(1.0, ge=0, description="Weight of the axis in the sum; the paper adds them plainly.")
    lambda_layout: float = Field(1.0, ge=0, description="As lambda_color.")
    lambda_lighting: float = Field(1.0, ge=0, description="As lambda_color.")
    lambda_detail: float = Field(1.0, ge=0, description="As lambda_color.")
    alpha_offset_color: float = Field(
        0.0,
        description="Added to the reward model's alpha, in standard deviations of its scores. The step reward_model "
        "has lowered the alpha of detail already (paper, ablation of alpha: high values add noise).",
    )
    alpha_offset_layout: float = Field(0.0, description="As alpha_offset_color.")
    alpha_offset_lighting: float = Field(0.0, description="As alpha_offset_color.")
    alpha_offset_detail: float = Field(0.0, description="As alpha_offset_color.")
    aesthetic_last_stop: int = Field(
        5,
        ge=0,
        description="The optimised step of L_aes is drawn from 0 to this index, 0 being the last of sampling; "
        "the last quarter, as ReFL's last 10 of 40 steps.",
    )

    @model_validator(mode="after")
    def _aesthetic_steps_fit(self) -> Self:
        if self.aesthetic_last_stop >= self.steps:
            raise ValueError(f"aesthetic_last_stop {self.aesthetic_last_stop} is not below steps {self.steps}")
        return self

    def axis_weights(self, axes: Iterable[str] = AXES) -> dict[str, float]:
        """Weight of each axis whose weight is not zero."""
        weights = {axis: float(getattr(self, f"lambda_{axis}")) for axis in axes}
        return {axis: weight for axis, weight in weights.items() if weight > 0}

    def alpha_offsets(self, axes: Iterable[str] = AXES) -> dict[str, float]:
        """What is added to the alpha of each axis."""
        return {axis: float(getattr(self, f"alpha_offset_{axis}")) for axis in axes}
