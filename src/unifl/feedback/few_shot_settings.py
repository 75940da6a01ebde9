"""Settings of few-shot adaptation: the start that is learned over known styles, and a new style learned from it.

Light to import (no torch). Defaults are Reptile's (arXiv 1803.02999) where it has them, else measured
(docs/few_shot.md).
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from unifl.feedback.settings import EngineSettings


class FewShotSettings(EngineSettings):
    """The engine's settings with what both steps share: LoRA, no warm-up, few images."""

    images: int = Field(20, ge=1, description="Images of a style to learn it from; 20 is what few-shot means here.")
    batch_size: int = Field(10, ge=1, description="Images an update: half of them, so that two updates see all.")
    warmup_updates: int = Field(0, ge=0, description="None: there are only a few updates.")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="None: an average over a few updates would lag behind.")
    lora_rank: int = Field(8, ge=1, description="Rank of LoRA; 8 is common in diffusers' examples.")
    diffusion_weight: float = Field(1.0, gt=0, description="Weight of the diffusion loss: the only term.")
    diffusion_min_snr: float = Field(5.0, ge=0, description="Gamma of min-SNR, as the embedded base was trained with.")

    @model_validator(mode="after")
    def _no_guard(self) -> Self:
        if self.guard_every:
            raise ValueError("guard_every must be 0: the guard's pictures are of other styles than the one learned")
        return self


class FewShotStartSettings(FewShotSettings):
    """Reptile over the styles of the training images."""

    learning_rate: float = Field(2e-3, gt=0, description="AdamW on LoRA, in the inner loop.")
    updates: int = Field(8, ge=1, description="k, updates of the inner loop; Reptile's experiments have 5 to 10.")
    rounds: int = Field(120, ge=1, description="Outer steps; with the other defaults 960 updates, as measured.")
    tasks_a_round: int = Field(1, ge=1, description="Styles whose adapted weights are averaged in an outer step.")
    outer_rate: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Epsilon of the first outer step; falls linearly to 0, as in Reptile's experiments.",
    )
    phrase: str = Field(
        "new style",
        min_length=1,
        description="Words that stand for the style in every caption, instead of its own: a style that the base can "
        "draw when it is named teaches nothing. An adaptation uses the same words.",
    )
    styles: tuple[str, ...] | None = Field(None, description="Styles to learn over; None takes all training images'.")
    left_out: tuple[str, ...] = Field((), description="Styles not to learn over, for instance to choose settings on.")
    recolor: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Share of tasks of painted styles whose color channels change places (and turn negative): styles "
        "that the base has never seen, as a new one is (arXiv 2007.05549 calls it meta-augmentation).",
    )

    @model_validator(mode="after")
    def _no_average(self) -> Self:
        if self.ema_decay:
            raise ValueError("ema_decay must be 0: Reptile takes the last weights of a task, not their average")
        return self


class StyleAdaptationSettings(FewShotSettings):
    """One style from a few images."""

    style: str | None = Field(None, description="The style, as the images name it; every call must give it.")
    learning_rate: float = Field(1e-2, gt=0, description="AdamW on LoRA; chosen on a left-out style, docs/few_shot.md.")
    updates: int = Field(20, ge=1, description="Updates from the start; see docs/few_shot.md for what they buy.")
    phrase: str | None = Field(
        None,
        min_length=1,
        description="Words that stand for the style in captions; None takes the start's, or without one the "
        "images' own captions.",
    )
