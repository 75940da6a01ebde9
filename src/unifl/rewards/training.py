"""Training of one axis's reward model: Bradley-Terry on cached features, then alpha and what the report shows.

Second half of arXiv 2404.05595 §3.2. The trunk is frozen, so the images are seen once and the head is trained on their
features in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unifl.core.errors import DivergenceError
from unifl.core.progress import progress
from unifl.rewards.calibration import calibration, confidence
from unifl.rewards.losses import bootstrap_interval, bradley_terry_loss, pair_accuracy
from unifl.rewards.model import RewardHead
from unifl.rewards.pairs import Reference, VotedPair
from unifl.rewards.settings import HeadSettings

HISTOGRAM_BINS = 30

Features = Mapping[Reference, npt.NDArray[np.float16]]
TextFeatures = Mapping[str, npt.NDArray[np.float16]]


@dataclass(frozen=True)
class PairTensors:
    """Pairs as indices into one matrix of features: preferred [M], rejected [M], text [M, 384] or None, weights [M]."""

    features: Tensor
    preferred: Tensor
    rejected: Tensor
    text: Tensor | None
    weights: Tensor

    @classmethod
    def of(cls, pairs: Sequence[VotedPair], features: Features, text: TextFeatures | None) -> PairTensors:
        """Gather the features of `pairs`; each distinct image has one row."""
        references = sorted({side for pair in pairs for side in (pair.preferred, pair.rejected)})
        row = {reference: index for index, reference in enumerate(references)}
        return cls(
            torch.from_numpy(np.stack([features[reference] for reference in references])).float(),
            torch.tensor([row[pair.preferred] for pair in pairs]),
            torch.tensor([row[pair.rejected] for pair in pairs]),
            None if text is None else torch.from_numpy(np.stack([text[pair.prompt] for pair in pairs])).float(),
            torch.tensor([pair.margin for pair in pairs], dtype=torch.float32),
        )

    def scores(self, head: RewardHead) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Standardised scores of the preferred and of the rejected sides, [M] each."""
        head.eval()
        with torch.inference_mode():
            preferred = head(self.features[self.preferred], self.text)
            rejected = head(self.features[self.rejected], self.text)
        return preferred.numpy(), rejected.numpy()


@dataclass
class TrainedHead:
    """A trained head with its curve: one dictionary an epoch (update, loss, validation_loss, validation_accuracy)."""

    head: RewardHead
    updates: int
    curve: list[dict[str, float]] = field(default_factory=list)


def train_head(training: PairTensors, validation: PairTensors, settings: HeadSettings, description: str) -> TrainedHead:
    """Train a head with the Bradley-Terry loss weighted by the votes' margins, then standardise its scores.

    Raises DivergenceError when the loss is not a number.
    """
    torch.manual_seed(settings.seed)
    order = np.random.default_rng([settings.seed, 1])
    text_width = settings.text_width if training.text is not None else 0
    head = RewardHead(training.features.shape[1], settings.hidden, text_width, settings.dropout)
    head.mean.copy_(training.features.mean(dim=0))
    deviation = training.features.std(dim=0)
    # A feature that hardly varies must not be blown up: floor at a hundredth of the typical deviation.
    head.deviation.copy_(deviation.clamp(min=max(1e-2 * float(deviation.mean()), 1e-6)))
    normalised = head.normalised(training.features)

    count = len(training.preferred)
    batch = min(settings.batch_size, count)
    batches = count // batch
    updates = settings.epochs * batches
    optimiser = torch.optim.AdamW(head.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=updates + 1, pct_start=0.1
    )
    trained = TrainedHead(head, updates)
    shown = iter(progress(updates, description, "updates"))
    for epoch in range(settings.epochs):
        head.train()
        total = 0.0
        shuffled = torch.from_numpy(order.permutation(count))
        for chosen in shuffled[: batches * batch].split(batch):
            text = None if training.text is None else training.text[chosen].repeat(2, 1)
            sides = torch.cat([training.preferred[chosen], training.rejected[chosen]])
            preferred, rejected = head.raw(normalised[sides], text).chunk(2)
            loss = bradley_terry_loss(preferred, rejected, training.weights[chosen])
            if not torch.isfinite(loss):
                raise DivergenceError(
                    f"the Bradley-Terry loss is {loss.item()} in epoch {epoch + 1}",
                    expected="a finite number",
                    remedy="lower learning_rate",
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
            next(shown)
        trained.curve.append(_curve_point(head, validation, (epoch + 1) * batches, total / batches))
    for _ in shown:
        pass
    _standardise(head, training)
    return trained


def _curve_point(head: RewardHead, validation: PairTensors, update: int, loss: float) -> dict[str, float]:
    preferred, rejected = validation.scores(head)  # score statistics are still (0, 1): these are raw logits
    validation_loss = bradley_terry_loss(torch.from_numpy(preferred), torch.from_numpy(rejected), validation.weights)
    return {
        "update": update,
        "loss": loss,
        "validation_loss": float(validation_loss),
        "validation_accuracy": pair_accuracy(preferred, rejected),
    }


def _standardise(head: RewardHead, training: PairTensors) -> None:
    preferred, rejected = training.scores(head)
    both = np.concatenate([preferred, rejected])
    if not both.std() > 0:
        raise DivergenceError(
            "the reward model gives every image the same score",
            expected="scores that differ",
            remedy="train longer, or check that the votes are not random",
        )
    head.score_mean.fill_(float(both.mean()))
    head.score_deviation.fill_(float(both.std()))


@dataclass(frozen=True)
class Validation:
    """Figures of the validation pairs; intervals are 95 % bootstrap intervals over pairs."""

    alpha: float
    alpha_interval: tuple[float, float]
    accuracy: float
    accuracy_interval: tuple[float, float]
    highest_score: float
    details: dict[str, Any]


def validate(head: RewardHead, pairs: Sequence[VotedPair], tensors: PairTensors, seed: int) -> Validation:
    """Alpha (mean score of the preferred sides), accuracy, highest score, histograms, accuracy by operation and
    calibration."""
    preferred, rejected = tensors.scores(head)
    right = (preferred > rejected) + 0.5 * (preferred == rejected)
    edges = np.linspace(
        min(preferred.min(), rejected.min()), max(preferred.max(), rejected.max()), HISTOGRAM_BINS + 1
    ).astype(np.float64)
    edges[-1] = np.nextafter(edges[-1], np.inf)
    margins = np.array([pair.margin for pair in pairs])
    operations: dict[str, list[float]] = {}
    for pair, hit in zip(pairs, right, strict=True):
        operations.setdefault(pair.operation, []).append(float(hit))
    details = {
        "histograms": {
            "edges": [round(float(edge), 4) for edge in edges],
            "preferred": np.histogram(preferred, edges)[0].tolist(),
            "rejected": np.histogram(rejected, edges)[0].tolist(),
        },
        "operations": {
            name: {"pairs": len(hits), "accuracy": round(float(np.mean(hits)), 4)}
            for name, hits in sorted(operations.items())
        },
        "calibration": calibration(*confidence(preferred, rejected, margins, float(head.score_deviation)), seed),
    }
    return Validation(
        float(preferred.mean()),
        bootstrap_interval(preferred, seed),
        pair_accuracy(preferred, rejected),
        bootstrap_interval(right, seed),
        max(float(preferred.max()), float(rejected.max())),
        details,
    )
