"""A fifth axis from some 200 pairs: a start for reward heads, learned over the axes that have many pairs.

Reptile (arXiv 1803.02999) over reward training (arXiv 2404.05595 §3.2): a task is one axis and some of its pairs, its
inner loop a few updates with the Bradley-Terry loss. The trunk stays frozen, so all of it takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from unifl.core.errors import DataContractError, SettingsError
from unifl.core.settings import StepSettings
from unifl.feedback.reptile import LogLine, OuterLoop, Reptile, task_seed
from unifl.rewards.losses import bradley_terry_loss
from unifl.rewards.model import RewardHead
from unifl.rewards.settings import HeadSettings
from unifl.rewards.training import PairTensors


class FewPairsSettings(StepSettings):
    """Both loops; the head's shape is that of `HeadSettings`."""

    pairs: int = Field(200, ge=2, description="pairs of a task, and of the new axis")
    updates: int = Field(20, ge=1, description="k, updates of the inner loop")
    batch_size: int = Field(50, ge=2, description="pairs an update: a quarter of them")
    learning_rate: float = Field(1e-3, gt=0, description="AdamW; constant, as there is no end to cool down to")
    rounds: int = Field(60, ge=1, description="outer steps; each takes every axis once")
    outer_rate: float = Field(1.0, gt=0, le=1, description="epsilon of the first outer step; falls linearly to 0")
    head: HeadSettings = HeadSettings()
    seed: int = Field(0, ge=0, description="pairs, batches, dropout")


def fresh_head(features: Tensor, text: bool, settings: HeadSettings, seed: int) -> RewardHead:
    """An untrained head that standardises by ``features`` [M, D], with random weights from ``seed``."""
    torch.manual_seed(seed)
    head = RewardHead(features.shape[1], settings.hidden, settings.text_width if text else 0, settings.dropout)
    head.mean.copy_(features.mean(dim=0))
    deviation = features.std(dim=0)
    head.deviation.copy_(deviation.clamp(min=max(1e-2 * float(deviation.mean()), 1e-6)))
    return head


def some_pairs(pairs: PairTensors, count: int, seed: int) -> PairTensors:
    """``count`` random pairs. Raises DataContractError when there are fewer."""
    if len(pairs.preferred) < count:
        raise DataContractError(
            f"{count} pairs are asked for, and there are {len(pairs.preferred)}",
            expected=f"pairs of at most {len(pairs.preferred)}",
            remedy=f"set pairs={len(pairs.preferred)}, or give more votes",
        )
    rows = torch.from_numpy(np.random.default_rng([seed, 0x9A]).choice(len(pairs.preferred), count, replace=False))
    text = None if pairs.text is None else pairs.text[rows]
    return replace(
        pairs, preferred=pairs.preferred[rows], rejected=pairs.rejected[rows], text=text, weights=pairs.weights[rows]
    )


def learn_pairs(
    head: RewardHead,
    pairs: PairTensors,
    settings: FewPairsSettings,
    *,
    updates: int,
    seed: int,
    after: Callable[[int], None] | None = None,
) -> list[float]:
    """Train ``head`` on pairs for a number of updates; gives the losses. ``after`` is called with each number."""
    optimiser = torch.optim.AdamW(head.parameters(), settings.learning_rate, weight_decay=settings.head.weight_decay)
    order = np.random.default_rng([seed, 1])
    torch.manual_seed(seed)
    losses, queue = [], np.empty(0, dtype=np.int64)
    batch = min(settings.batch_size, len(pairs.preferred))
    for update in range(1, updates + 1):
        head.train()
        if len(queue) < batch:
            queue = order.permutation(len(pairs.preferred))
        rows, queue = torch.from_numpy(queue[:batch]), queue[batch:]
        text = None if pairs.text is None else pairs.text[rows].repeat(2, 1)
        sides = torch.cat([pairs.preferred[rows], pairs.rejected[rows]])
        preferred, rejected = head.raw(head.normalised(pairs.features[sides]), text).chunk(2)
        loss = bradley_terry_loss(preferred, rejected, pairs.weights[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        if after is not None:
            after(update)
    return losses


def axis_start(
    axes: Mapping[str, PairTensors], settings: FewPairsSettings, checkpoints: Path, description: str = "axis start"
) -> RewardHead:
    """A head from which a new axis is learned, found over the given axes. Goes on from the last checkpoint.

    Raises SettingsError for fewer than two axes, DataContractError for one with fewer pairs than a task takes.
    """
    if len(axes) < 2:
        raise SettingsError(f"a start is learned over several axes, and there is {', '.join(axes) or 'none'}")
    names: Sequence[str] = sorted(axes)
    everything = torch.cat([axes[name].features for name in names])
    head = fresh_head(everything, axes[names[0]].text is not None, settings.head, settings.seed)
    weights = dict(head.named_parameters())

    def put(values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(values[name])

    def adapt(start: dict[str, Tensor], done: int, task: int) -> tuple[dict[str, Tensor], LogLine]:
        seed = task_seed(settings.seed, done, task)
        put(start)
        pairs = some_pairs(axes[names[task]], settings.pairs, seed)
        losses = learn_pairs(head, pairs, settings, updates=settings.updates, seed=seed)
        adapted = {name: weight.detach().clone() for name, weight in weights.items()}
        return adapted, {"axis": names[task], "loss_first": losses[0], "loss_last": losses[-1]}

    identity = settings.model_dump(mode="json") | {"axes": list(names)}
    outer = OuterLoop(settings.rounds, len(names), settings.outer_rate)
    reptile = Reptile(weights, adapt, outer, checkpoints, identity, description=description)
    reptile.run()
    put(reptile.start)
    return head.eval()
