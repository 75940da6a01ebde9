"""Trains the examiners' heads on views of the shared trunk: axis judges, style, concept, image-text scorer.

Judges by Bradley-Terry as reward models are (arXiv 2404.05595 eq. 5), classifiers by cross-entropy, the scorer by the
symmetric contrastive loss of CLIP (arXiv 2103.00020). Losses are pure functions; the loop is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unifl.evaluation.heads import ConceptHead, ImageTextHead, PooledHead, StyleHead
from unifl.evaluation.judge_pairs import JudgePairs
from unifl.evaluation.trunk import Views
from unifl.perception.one_cycle import Checkpoints, OneCycle
from unifl.perception.precision import frozen_precision

BATCH = 128
WEIGHT_DECAY = 0.05
Head = TypeVar("Head", bound=nn.Module)


def bradley_terry(a: Tensor, b: Tensor, votes: Tensor) -> Tensor:
    """-E[v log σ(a - b) + (1 - v) log σ(b - a)] for scores a, b [P] and the share v of votes for a (eq. 5)."""
    return F.binary_cross_entropy_with_logits(a - b, votes)


def spread_cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of logits [N, C] against a distribution spread evenly over the wanted classes, bool [N, C]."""
    target = wanted.float() / wanted.sum(1, keepdim=True)
    return -(target * logits.log_softmax(1)).sum(1).mean()


def contrastive(images: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric cross-entropy of unit vectors images and texts [N, D], row i belonging to row i (CLIP figure 3)."""
    logits = images @ texts.T * log_scale.clamp(max=4.6).exp()
    right = torch.arange(len(logits))
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def fit(
    head: Head,
    loss: Callable[[Tensor], Tensor],
    rows: int,
    *,
    passes: int,
    learning_rate: float,
    description: str,
    seed: int,
    batch: int = BATCH,
    checkpoints: Checkpoints | None = None,
) -> Head:
    """Run AdamW with a one-cycle schedule over `passes` shuffled passes; `loss` takes row numbers. Returns the head,
    in evaluation mode. With `checkpoints` it goes on from the last one. Raises DivergenceError when a loss is not
    finite, SettingsError when the checkpoint is of another training.
    """
    per_pass = max(1, rows // batch)
    if checkpoints is not None:
        about = {"description": description, "rows": rows, "batch": batch}
        checkpoints = replace(checkpoints, identity={**checkpoints.identity, **about})
    training = OneCycle(
        head,
        updates=passes * per_pass,
        learning_rate=learning_rate,
        weight_decay=WEIGHT_DECAY,
        seed=seed,
        description=description,
        checkpoints=checkpoints,
    )

    def batch_loss(done: int) -> Tensor:
        if done % per_pass == 0:
            training.order = torch.randperm(rows, generator=training.generator)
        start = done % per_pass * batch
        return loss(training.order[start : start + batch])

    training.run(batch_loss)
    return head


def train_judge(
    pooled: Tensor, pairs: JudgePairs, *, passes: int, seed: int, axis: str, checkpoints: Checkpoints | None = None
) -> PooledHead:
    """A judge from pooled features [M, D] of the pairs' images."""
    torch.manual_seed(seed)
    head = PooledHead(pooled.shape[1], hidden=64, outputs=1)
    head.standardised.fit(pooled)
    a, b = torch.from_numpy(pairs.a), torch.from_numpy(pairs.b)
    votes = torch.from_numpy(pairs.votes).float()

    def loss(rows: Tensor) -> Tensor:
        scores = head(pooled[torch.cat([a[rows], b[rows]])])[:, 0]
        return bradley_terry(scores[: len(rows)], scores[len(rows) :], votes[rows])

    return fit(
        head,
        loss,
        len(pairs.a),
        passes=passes,
        learning_rate=2e-3,
        description=f"judge of {axis}",
        seed=seed,
        checkpoints=checkpoints,
    )


def train_style(
    views: Views,
    labels: Tensor,
    styles: int,
    *,
    passes: int,
    seed: int,
    hidden: int,
    checkpoints: Checkpoints | None = None,
) -> StyleHead:
    """A style classifier from views and labels int64 [N]."""
    torch.manual_seed(seed)
    head = StyleHead(views.cells_width, hidden, views.pooled.shape[1], styles)
    head.standardised.fit(views.pooled)

    def loss(rows: Tensor) -> Tensor:
        with frozen_precision("cpu"):
            logits = head(views[rows])
        return F.cross_entropy(logits.float(), labels[rows], label_smoothing=0.05)

    return fit(
        head,
        loss,
        len(views),
        passes=passes,
        learning_rate=2e-3,
        description="style classifier",
        seed=seed,
        checkpoints=checkpoints,
    )


def train_concept(
    views: Views, wanted: Tensor, *, passes: int, seed: int, hidden: int, checkpoints: Checkpoints | None = None
) -> ConceptHead:
    """A concept classifier from views and bool labels [N, concepts], at least one true in each row."""
    torch.manual_seed(seed)
    head = ConceptHead(views.cells_width, hidden, wanted.shape[1])

    def loss(rows: Tensor) -> Tensor:
        with frozen_precision("cpu"):
            logits = head(views[rows])
        return spread_cross_entropy(logits.float(), wanted[rows])

    return fit(
        head,
        loss,
        len(views),
        passes=passes,
        learning_rate=2e-3,
        description="concept classifier",
        seed=seed,
        checkpoints=checkpoints,
    )


def train_scorer(
    views: Views,
    texts: Tensor,
    *,
    passes: int,
    seed: int,
    hidden: int,
    joint: int,
    checkpoints: Checkpoints | None = None,
) -> ImageTextHead:
    """An image-text scorer from views and text features [N, 384] of their captions."""
    torch.manual_seed(seed)
    head = ImageTextHead(views.cells_width, hidden, views.pooled.shape[1], texts.shape[1], joint)
    head.standardised.fit(views.pooled)

    def loss(rows: Tensor) -> Tensor:
        with frozen_precision("cpu"):
            images, words = head.images(views[rows]), head.texts(texts[rows])
        return contrastive(images.float(), words.float(), head.temperature)

    return fit(
        head,
        loss,
        len(views),
        passes=passes,
        learning_rate=1e-3,
        description="image-text scorer",
        seed=seed,
        batch=256,
        checkpoints=checkpoints,
    )


def multi_hot(words: Sequence[Sequence[str]], vocabulary: Sequence[str]) -> Tensor:
    """Bool [N, len(vocabulary)]: which words of the vocabulary each row has."""
    index = {word: number for number, word in enumerate(vocabulary)}
    table = np.zeros((len(words), len(vocabulary)), bool)
    for row, present in enumerate(words):
        table[row, [index[word] for word in present]] = True
    return torch.from_numpy(table)
