"""Settings of reward training (arXiv 2404.05595 §3.2), importable without torch so that `unifl --help` stays fast."""

from __future__ import annotations

from pydantic import Field

from unifl.core.settings import StepSettings


class HeadSettings(StepSettings):
    """How the head is trained."""

    epochs: int = Field(12, ge=1, description="passes over the pairs; validation accuracy is flat from about 8 on")
    batch_size: int = Field(64, ge=2, description="pairs an update")
    learning_rate: float = Field(
        1e-3, gt=0, description="peak of AdamW's one-cycle schedule; measured, 3e-4..3e-3 agree"
    )
    weight_decay: float = Field(0.05, ge=0, description="AdamW; measured, 0.05..0.5 agree")
    dropout: float = Field(0.3, ge=0, lt=1, description="on the hidden layer, half of it on the features")
    hidden: int = Field(64, ge=1, description="width of the hidden layer; 128 is no more accurate")
    text: bool = Field(True, description="read the prompt; the paper's r(c, x) does")
    text_width: int = Field(16, ge=1, description="width to which the prompt's 384 features are projected")
    seed: int = Field(0, ge=0, description="initial weights, order of the pairs, dropout, bootstrap")
