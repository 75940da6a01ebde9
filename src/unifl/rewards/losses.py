"""The Bradley-Terry loss of reward models and the figures that judge it, as pure functions (arXiv 2404.05595 §3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Scores = npt.NDArray[np.floating]


def bradley_terry_loss(preferred: Tensor, rejected: Tensor, weights: Tensor | None = None) -> Tensor:
    """L_rm = -E log sigma(r(c, x_w) - r(c, x_l)), a scalar; the expectation is weighted by `weights` where given.

    All arguments are [N]; weights are >= 0 and not all 0.
    """
    from torch.nn.functional import softplus

    losses = softplus(rejected - preferred)
    if weights is None:
        return losses.mean()
    return (weights * losses).sum() / weights.sum()


def pair_accuracy(preferred: Scores, rejected: Scores) -> float:
    """Share of pairs whose preferred side scores higher; a tie counts one half."""
    return float(np.mean((preferred > rejected) + 0.5 * (preferred == rejected)))


def bootstrap_interval(
    values: Scores, seed: int, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` [N], as (low, high)."""
    rng = np.random.default_rng([seed, 0xB007])
    values = np.asarray(values, dtype=np.float64)
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
