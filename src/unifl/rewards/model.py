"""A reward model: a frozen image trunk and a text encoder under a small trained head that scores one axis.

Feedback learning back-propagates through its score (arXiv 2404.05595 §3.2, hinge on alpha), and adversarial feedback
learning goes on training a copy of the *detail* reward as its discriminator (§3.3).
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from unifl.core.errors import ModelLoadError
from unifl.perception import minilm
from unifl.perception.efficientnet import EfficientNetLite, Variant
from unifl.perception.minilm import SentenceEncoder
from unifl.rewards.features import feature_width, image_features

Axis = Literal["color", "layout", "lighting", "detail", "global"]  # global: one reward for all four, ImageReward's way
Text = Tensor | Sequence[str]
_SOFT_LIMIT = 6.0  # standard deviations at which an unusual feature stops counting for more

CONFIG, WEIGHTS, DETAILS = "config.json", "model.safetensors", "details.json"


class RewardConfig(BaseModel):
    """What a reward model folder says of itself.

    Scores are in standard deviations of the training scores, around their mean, so that the alphas of different axes
    compare. `alpha` is the hinge of decoupled feedback: mean validation score of preferred images plus `alpha_offset`,
    with a 95 % interval. `logit_scale` turns a difference of scores into a Bradley-Terry logit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    axis: Axis
    trunk: Variant
    trunk_sha256: str
    text: bool
    text_sha256: str | None
    text_width: int
    hidden: int
    alpha: float
    alpha_low: float
    alpha_high: float
    alpha_offset: float
    validation_accuracy: float
    validation_accuracy_low: float
    validation_accuracy_high: float
    training_pairs: int
    validation_pairs: int
    logit_scale: float
    synthetic_preferences: bool


class RewardHead(nn.Module):
    """Features [N, D] and text features [N, 384] -> raw score [N]. Statistics of the training features are buffers."""

    mean: Tensor
    deviation: Tensor
    score_mean: Tensor
    score_deviation: Tensor

    def __init__(self, width: int, hidden: int, text_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.register_buffer("score_mean", torch.zeros(()))
        self.register_buffer("score_deviation", torch.ones(()))
        self.text = nn.Linear(minilm.WIDTH, text_width) if text_width else None
        self.hidden = nn.Linear(width + text_width, hidden)
        self.output = nn.Linear(hidden, 1)
        self.dropout = dropout

    def forward(self, features: Tensor, text: Tensor | None) -> Tensor:
        """Standardised scores [N]."""
        return (self.raw(self.normalised(features), text) - self.score_mean) / self.score_deviation

    def normalised(self, features: Tensor) -> Tensor:
        """Features in standard deviations, softly limited to plus or minus six."""
        standardised = (features.float() - self.mean) / self.deviation
        return _SOFT_LIMIT * torch.tanh(standardised / _SOFT_LIMIT)

    def raw(self, normalised: Tensor, text: Tensor | None) -> Tensor:
        """Bradley-Terry logits [N] of normalised features."""
        x = F.dropout(normalised, self.dropout / 2, self.training)
        if self.text is not None:
            if text is None:
                raise ValueError("this reward model reads the prompt: text features are missing")
            # Rows of length 1 become rows of unit variance.
            x = torch.cat([x, self.text(text.float() * minilm.WIDTH**0.5)], dim=1)
        x = F.dropout(F.silu(self.hidden(x)), self.dropout, self.training)
        score: Tensor = self.output(x).squeeze(1)
        return score


class RewardModel(nn.Module):
    """r_d(x, c): the score of one axis, differentiable in the image, frozen unless `discriminator` made it.

    `config.alpha` is the hinge. Models that were loaded in one process on one device share their trunk.
    """

    def __init__(self, config: RewardConfig, head: RewardHead, trunk: EfficientNetLite) -> None:
        super().__init__()
        self.config = config
        self.head = head
        self.trunk = trunk
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> RewardModel:
        """Load what `save` wrote. Raises ModelLoadError when a file is missing, unreadable or of another trunk."""
        config = _read_config(folder)
        trunk = shared_trunk(config.trunk, str(device))
        if trunk.sha256 != config.trunk_sha256:
            raise ModelLoadError(
                "the reward model was trained on another trunk",
                file=folder / CONFIG,
                expected=f"trunk_sha256 {trunk.sha256}",
                remedy="train the reward model again with the installed trunk",
            )
        head = RewardHead(feature_width(trunk), config.hidden, config.text_width)
        try:
            head.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ModelLoadError(
                f"the reward model's weights are unreadable: {error}",
                file=folder / WEIGHTS,
                expected="the file that the step reward_model wrote",
                remedy="run the step reward_model again",
            ) from error
        return cls(config, head.to(device), trunk)

    def save(self, folder: Path) -> None:
        """Write model.safetensors (the head; the trunk is named by its SHA-256) and config.json into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in self.head.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        (folder / CONFIG).write_text(self.config.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def score(self, images: Tensor, text: Text | None = None) -> Tensor:
        """Scores [N] float32 of images float [N, 3, H, W] in [0, 1]; `text` is prompts or their features [N, 384].

        Raises ValueError when the model reads prompts and `text` is None.
        """
        return self.head_scores(image_features(self.trunk, images), text)

    def forward(self, images: Tensor, text: Text | None = None) -> Tensor:
        """Same as `score`."""
        return self.score(images, text)

    def head_scores(self, features: Tensor, text: Text | None) -> Tensor:
        """Scores [N] of `image_features` that are already there."""
        scores: Tensor = self.head(features, _text_features(text, features.device) if self.config.text else None)
        return scores

    def discriminator(self, blocks: int = 0) -> RewardModel:
        """An independent, trainable copy that starts from this reward: r_a of adversarial feedback learning.

        Trainable are the head and, with `blocks` > 0, the last `blocks` residual blocks and the last convolution of a
        trunk of its own (with 0 it goes on sharing the frozen trunk). `trainable` lists them.
        """
        trunk = copy.deepcopy(self.trunk) if blocks else self.trunk
        twin = RewardModel(self.config, copy.deepcopy(self.head), trunk)
        twin.head.requires_grad_(True)
        if blocks:
            for block in trunk.blocks[-blocks:]:
                block.requires_grad_(True)
            trunk.head.requires_grad_(True)
        return twin

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that require gradients: what a checkpoint of a discriminator must hold."""
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)


def score_all(models: Sequence[RewardModel], images: Tensor, text: Text | None = None) -> list[Tensor]:
    """`[model.score(images, text) for model in models]`, with each distinct trunk run once and prompts encoded once."""
    features: dict[int, Tensor] = {}
    encoded = None if text is None else _text_features(text, images.device)
    scores = []
    for model in models:
        if id(model.trunk) not in features:
            features[id(model.trunk)] = image_features(model.trunk, images)
        scores.append(model.head_scores(features[id(model.trunk)], encoded))
    return scores


@functools.cache
def shared_trunk(variant: Variant, device: str = "cpu") -> EfficientNetLite:
    """The process's one frozen trunk of a variant on a device."""
    return EfficientNetLite(variant).to(device)


@functools.cache
def sentence_encoder() -> SentenceEncoder:
    """The process's one sentence encoder."""
    return SentenceEncoder()


def _text_features(text: Text | None, device: torch.device) -> Tensor | None:
    if text is None or isinstance(text, Tensor):
        return text
    return torch.from_numpy(sentence_encoder().encode(text)).to(device)


def _read_config(folder: Path) -> RewardConfig:
    path = folder / CONFIG
    remedy = "run the step reward_model again"
    try:
        return RewardConfig.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ModelLoadError("there is no reward model", file=folder, expected=f"a {CONFIG}", remedy=remedy) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelLoadError(f"{where}: {first['msg']}", file=path, expected="a reward model", remedy=remedy) from error
    except ValueError as error:
        raise ModelLoadError(f"not JSON: {error}", file=path, expected="a reward model", remedy=remedy) from error
