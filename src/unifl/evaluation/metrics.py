"""The figures an evaluation reports, as pure functions of feature and score arrays, each with its 95 % interval.

They stand behind `unifl.steps.evaluation` and compare models as arXiv 2404.05595 §4 (experiments) does: a distance to
real images, agreement with the prompt, and preferences between two models on the same prompts.

Conventions
    KID   unbiased MMD² with the kernel (x·y/d + 1)³ (arXiv 1801.01401 §4), times 1,000. It may be slightly negative.
    FID   Fréchet distance of two Gaussians (arXiv 1706.08500) on features projected to a fixed PCA basis.
Few images make a Fréchet distance of 1,280 raw features noise; KID is unbiased at any size, so it leads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

KID_SCALE = 1000.0
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, `low <= high`, all three in the unit of the figure."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high}

    def disjoint_from(self, other: Estimate) -> bool:
        """True when the two intervals share no point."""
        return self.high < other.low or other.high < self.low


@dataclass(frozen=True)
class Draws:
    """An estimate together with its bootstrap draws [B], kept so that two figures drawn alike can be subtracted."""

    value: float
    draws: Array

    def estimate(self) -> Estimate:
        low, high = np.quantile(self.draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Estimate(self.value, float(low), float(high))

    def minus(self, other: Draws) -> Estimate:
        """The difference of two figures whose draws used the same resamples (paired comparison)."""
        return Draws(self.value - other.value, self.draws - other.draws).estimate()


# -------------------------------------------------------------------------------- distances to real images


def polynomial_kernel(x: Array, y: Array) -> Array:
    """k(x, y) = (x·y / d + 1)³ for rows of x [m, d] and y [n, d] -> [m, n] (arXiv 1801.01401 §4)."""
    return np.asarray((x @ y.T / x.shape[1] + 1.0) ** 3, dtype=np.float64)


def mmd2(x: Array, y: Array) -> float:
    """The unbiased squared maximum mean discrepancy of samples x [m, d] and y [n, d], m and n at least 2."""
    _need_features(x, y)
    return kid(x, y, resamples=1).value / KID_SCALE


def kid(
    generated: Array,
    reference: Array,
    resamples: int = 1000,
    seed: int = 0,
    own: NDArray[np.int64] | None = None,
) -> Draws:
    """KID x 1,000 of generated [m, d] against reference [n, d], with bootstrap draws over images of both sides.

    own int64 [m]: the reference image with which each generated one shares its content (its caption, or of which it is
    a reconstruction). Those pairs are left out, since the estimate is unbiased for independent pairs only (Gretton et
    al. 2012, lemma 6), and an image is resampled together with its own reference: both sides hold the same content, and
    that part of the chance does not touch their distance.

    A resample is a count an image; pairs of an image with itself are left out of it, so that repeated images do not
    bias the unbiased estimate upward. Equal seeds and sizes give equal counts: draws of two models over the same
    prompts are therefore paired, and `Draws.minus` compares them.
    """
    _need_features(generated, reference)
    kxx = polynomial_kernel(generated, generated)
    kyy = polynomial_kernel(reference, reference)
    kxy = polynomial_kernel(generated, reference)
    allowed = np.ones_like(kxy)
    if own is not None:
        allowed[np.arange(len(own)), own] = 0
    ones_x, ones_y = np.ones((1, len(generated))), np.ones((1, len(reference)))
    value = _weighted_mmd2(kxx, kyy, kxy, ones_x, ones_y, allowed)[0]
    counts_y = _counts(len(reference), resamples, seed)
    counts_x = _counts(len(generated), resamples, seed + 1) if own is None else counts_y[:, own]
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = _weighted_mmd2(kxx, kyy, kxy, counts_x, counts_y, allowed)
    draws = draws[np.isfinite(draws)]  # among a handful of images a resample may hold one image alone: it has no pairs
    return Draws(float(value) * KID_SCALE, draws * KID_SCALE)


def _weighted_mmd2(kxx: Array, kyy: Array, kxy: Array, wx: Array, wy: Array, allowed: Array) -> Array:
    """Unbiased MMD² for each row of image weights wx [B, m] and wy [B, n], over allowed pairs [m, n] across -> [B]."""

    def within(kernel: Array, weights: Array) -> Array:
        itself = (weights**2) @ np.diagonal(kernel)
        pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
        return np.asarray((((weights @ kernel) * weights).sum(1) - itself) / pairs)

    across = ((wx @ (kxy * allowed)) * wy).sum(1) / ((wx @ allowed) * wy).sum(1)
    return np.asarray(within(kxx, wx) + within(kyy, wy) - 2 * across)


@dataclass(frozen=True)
class Projection:
    """A fixed PCA basis: centred features times `components` [k, d], fitted once on real training images."""

    mean: Array
    components: Array

    @classmethod
    def fit(cls, features: Array, dimensions: int) -> Projection:
        """The `dimensions` leading principal directions of features [n, d], n larger than `dimensions`."""
        if len(features) <= dimensions:
            raise ValueError(f"{dimensions} principal directions need more than {len(features)} images")
        mean = features.mean(0)
        values, vectors = np.linalg.eigh(np.cov(features - mean, rowvar=False))
        leading = vectors[:, np.argsort(values)[::-1][:dimensions]].T
        signs = np.sign(leading[np.arange(dimensions), np.abs(leading).argmax(1)])
        return cls(mean, leading * signs[:, None])

    def __call__(self, features: Array) -> Array:
        return np.asarray((features - self.mean) @ self.components.T)


def frechet_distance(x: Array, y: Array) -> float:
    """Squared Fréchet distance of Gaussians fitted to x [m, k] and y [n, k] (arXiv 1706.08500 eq. 6)."""
    _need_features(x, y)
    sx, sy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(sx)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ sy @ root), 0, None)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(sx) + np.trace(sy) - 2 * cross)


def fid(
    generated: Array,
    reference: Array,
    resamples: int = 200,
    seed: int = 0,
    own: NDArray[np.int64] | None = None,
) -> Draws:
    """Fréchet distance of projected features [m, k] and [n, k] with bootstrap draws over images of both sides.

    A resample repeats images, which inflates the distance; the draws are shifted back so that their mean is the value.
    own as in `kid`: images are resampled together with their own references.
    """
    value = frechet_distance(generated, reference)
    counts_y = _counts(len(reference), resamples, seed)
    counts_x = _counts(len(generated), resamples, seed + 1) if own is None else counts_y[:, own]
    draws = np.array(
        [
            frechet_distance(_repeated(generated, x), _repeated(reference, y))
            for x, y in zip(counts_x, counts_y, strict=True)
            if x.sum() >= 2
        ]
    )
    return Draws(value, draws - draws.mean() + value)


# -------------------------------------------------------------------------------- means, shares, preferences


def mean(values: Array | Sequence[float], resamples: int = 1000, seed: int = 0) -> Draws:
    """The mean of one score an image [n] with bootstrap draws; equal seeds pair two models over the same prompts."""
    array = _need_scores(values)
    return Draws(float(array.mean()), _counts(len(array), resamples, seed) @ array / len(array))


def share(hits: NDArray[np.bool_] | Sequence[bool]) -> Estimate:
    """The share of true values with Wilson's interval, which stays inside [0, 1] near both ends."""
    array = np.asarray(hits, dtype=bool)
    _need_scores(array)
    interval = stats.binomtest(int(array.sum()), len(array)).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(float(array.mean()), float(interval.low), float(interval.high))


def votes(ours: Array, theirs: Array) -> Array:
    """What a jury says of each pair of images: +1 ours, -1 theirs, 0 a tie.

    ours and theirs: [judges, n] scores of two models on the same n prompts; a judge votes for the higher score and
    the majority of the judges decides.
    """
    if ours.shape != theirs.shape or ours.ndim != 2:
        raise ValueError(f"a jury needs two equal [judges, images] arrays, not {ours.shape} and {theirs.shape}")
    return np.asarray(np.sign(np.sign(ours - theirs).sum(0)), dtype=np.float64)


def preference_points(ours: Array, theirs: Array, resamples: int = 1000, seed: int = 0) -> Draws:
    """Share of pairs won minus share lost, in points of 100, by `votes` (user study of arXiv 2404.05595 §4)."""
    return mean(100.0 * votes(ours, theirs), resamples, seed)


def recall_at(similarities: Array, k: int) -> NDArray[np.bool_]:
    """Whether the right text is among the k nearest of each image: similarities [n, n], right on the diagonal."""
    better = (similarities > np.diagonal(similarities)[:, None]).sum(1)
    return np.asarray(better < k)


def bootstrap(statistic: Callable[[NDArray[np.intp]], float], count: int, resamples: int, seed: int) -> Draws:
    """Draws of any statistic of image indices: `statistic(indices)` is called once whole and once a resample."""
    rng = np.random.default_rng(seed)
    draws = np.array([statistic(rng.integers(0, count, count)) for _ in range(resamples)])
    return Draws(statistic(np.arange(count)), draws)


def _counts(images: int, resamples: int, seed: int) -> Array:
    """How often each of `images` is drawn in each resample [B, n]; every row sums to n."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float64)


def _repeated(features: Array, counts: Array) -> Array:
    """Each row as often as it was drawn."""
    return np.asarray(np.repeat(features, counts.astype(int), axis=0))


def _need_features(x: Array, y: Array) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"a distance needs two [images >= 2, d] arrays of equal d, not {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("features hold NaN or infinity")


def _need_scores(values: Array | NDArray[np.bool_] | Sequence[float]) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"a mean needs a non-empty row of finite scores, not shape {array.shape}")
    return array
