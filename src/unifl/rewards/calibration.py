"""Are the probabilities that a reward model predicts those with which annotators vote? Reliability curve and its error.

Bradley-Terry reads a difference of scores as a probability (arXiv 2404.05595 §3.2). Here that probability meets the
share of the votes on held-out pairs, in bins (arXiv 1706.04599 §2). A pair is read from the side that the model scores
higher, so predictions lie in [0.5, 1]: read from the winners of the vote, even a perfect model would look too modest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

BINS = 10  # of width 0.05 over [0.5, 1]; with 500 pairs the sparse ones hold some 10 (the ECE of Guo et al. takes 15)
_HIGHEST_TEMPERATURE = 100.0


@dataclass(frozen=True)
class Bin:
    """The pairs whose predicted probability lies in [low_edge, high_edge): how many, and means of both sides.

    `low` and `high` bound the observed share with 95 %.
    """

    low_edge: float
    high_edge: float
    pairs: int
    predicted: float
    observed: float
    low: float
    high: float


def confidence(
    preferred: npt.NDArray[np.floating], rejected: npt.NDArray[np.floating], margins: Array, logit_scale: float
) -> tuple[Array, Array]:
    """Of each pair the predicted probability that its higher scored side is preferred, and that side's share of votes.

    preferred and rejected: scores [M] of the two sides of the vote; margins [M] in (0, 1] as in `VotedPair`;
    logit_scale turns a difference of scores into a logit. Both results are [M], the first in [0.5, 1].
    """
    from scipy.special import expit

    difference = np.asarray(preferred, dtype=np.float64) - np.asarray(rejected, dtype=np.float64)
    winners_share = (1 + margins) / 2
    observed = np.where(difference > 0, winners_share, np.where(difference < 0, 1 - winners_share, 0.5))
    return np.asarray(expit(np.abs(difference) * logit_scale)), observed


def reliability(predicted: Array, observed: Array, bins: int = BINS) -> list[Bin]:
    """The bins that hold a pair, in ascending order; predicted [M] in [0.5, 1], observed [M] in [0, 1].

    The interval is Jeffreys' (Brown, Cai and DasGupta 2001) with a pair as one vote, as if all its annotators voted
    alike: it is rather too wide than too narrow, and not empty for a bin of one pair.
    """
    from scipy.stats import beta

    edges = np.linspace(0.5, 1.0, bins + 1)
    found = []
    for number, inside in enumerate(_members(predicted, bins)):
        count = int(inside.sum())
        if count:
            votes = float(observed[inside].sum())
            low, high = beta.interval(0.95, votes + 0.5, count - votes + 0.5)
            mean = votes / count
            found.append(
                Bin(
                    float(edges[number]),
                    float(edges[number + 1]),
                    count,
                    float(predicted[inside].mean()),
                    mean,
                    min(float(low), mean),
                    max(float(high), mean),
                )
            )
    return found


def expected_calibration_error(predicted: Array, observed: Array, bins: int = BINS) -> float:
    """ECE: the distance of predicted and observed means, averaged over the bins by their pairs (1706.04599 eq. 3)."""
    gaps = [abs(float((predicted[inside] - observed[inside]).sum())) for inside in _members(predicted, bins)]
    return sum(gaps) / len(predicted)


def temperature(predicted: Array, observed: Array) -> float:
    """By what the logits have to be divided to fit the votes best (least cross-entropy, 1706.04599 §4.2); 1 is right.

    It lies between 0.01 and 100, the bounds of the search.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logit

    logits = logit(np.clip(predicted, 0.5, 1 - 1e-12))

    def cross_entropy(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(observed * np.logaddexp(0, -scaled) + (1 - observed) * np.logaddexp(0, scaled)))

    bound = float(np.log(_HIGHEST_TEMPERATURE))
    return float(np.exp(minimize_scalar(cross_entropy, bounds=(-bound, bound), method="bounded").x))


def calibration(predicted: Array, observed: Array, seed: int, resamples: int = 1000) -> dict[str, Any]:
    """What details.json says: bins, ECE with its 95 % bootstrap interval over pairs, excess of confidence, temperature.

    `overconfidence` is the mean of predicted minus observed: above 0 the model is surer than the annotators agree.
    Resampling adds chance, which raises an absolute difference: draws are shifted back onto the value.
    """
    rng = np.random.default_rng([seed, 0xECE])
    error = expected_calibration_error(predicted, observed)
    draws = np.empty(resamples)
    for number in range(resamples):
        chosen = rng.integers(len(predicted), size=len(predicted))
        draws[number] = expected_calibration_error(predicted[chosen], observed[chosen])
    low, high = np.quantile(draws - draws.mean() + error, [0.025, 0.975])
    bins = reliability(predicted, observed)
    return {
        "bins": [{name: _rounded(value) for name, value in vars(one).items()} for one in bins],
        "ece": _rounded(error),
        "ece_low": _rounded(max(0.0, float(low))),
        "ece_high": _rounded(float(high)),
        "overconfidence": _rounded(float((predicted - observed).mean())),
        "temperature": _rounded(temperature(predicted, observed)),
    }


def _members(predicted: Array, bins: int) -> list[npt.NDArray[np.bool_]]:
    number = np.minimum((np.asarray(predicted) - 0.5) * 2 * bins, bins - 1).astype(int)
    return [number == one for one in range(bins)]


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 4)
