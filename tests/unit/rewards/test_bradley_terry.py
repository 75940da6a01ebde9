"""The Bradley-Terry loss and the figures that judge it equal values computed by hand."""

import numpy as np
import pytest
import torch
from scipy.special import expit, log_expit
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.metrics import roc_auc_score

from unifl.rewards.losses import bootstrap_interval, bradley_terry_loss, pair_accuracy


def test_loss_of_equal_scores_is_log_two() -> None:
    assert bradley_terry_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(np.log(2))


def test_loss_equals_minus_log_sigmoid_of_the_difference() -> None:
    preferred, rejected = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0])
    by_hand = -(np.log(1 / (1 + np.exp(-1.5))) + np.log(1 / (1 + np.exp(2.0)))) / 2
    assert bradley_terry_loss(preferred, rejected).item() == pytest.approx(by_hand, rel=1e-6)


def test_loss_does_not_change_when_all_scores_shift() -> None:
    preferred, rejected = torch.randn(8), torch.randn(8)
    shifted = bradley_terry_loss(preferred + 5, rejected + 5)
    assert torch.allclose(shifted, bradley_terry_loss(preferred, rejected), atol=1e-5)


def test_a_pair_of_weight_zero_does_not_count() -> None:
    preferred, rejected = torch.tensor([1.0, -9.0]), torch.tensor([0.0, 9.0])
    weighted = bradley_terry_loss(preferred, rejected, torch.tensor([1.0, 0.0]))
    assert torch.allclose(weighted, bradley_terry_loss(preferred[:1], rejected[:1]))


def test_loss_is_finite_for_very_wrong_scores() -> None:
    assert torch.isfinite(bradley_terry_loss(torch.tensor([-1e4]), torch.tensor([1e4])))


def test_a_tie_is_half_right() -> None:
    assert pair_accuracy(np.array([1.0, 0.0, 2.0]), np.array([0.0, 0.0, 3.0])) == pytest.approx(0.5)


def test_bootstrap_interval_agrees_with_the_normal_one_on_many_values() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    low, high = bootstrap_interval(values, seed=0)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_weighted_loss_is_the_weighted_mean_of_log_sigmoids() -> None:
    rng = np.random.default_rng(0)
    preferred, rejected, weights = rng.normal(size=9), rng.normal(size=9), rng.uniform(size=9)
    expected = -np.average(log_expit(preferred - rejected), weights=weights)
    found = bradley_terry_loss(*(torch.from_numpy(values) for values in (preferred, rejected, weights)))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_gradient_of_the_loss_is_the_probability_of_the_wrong_vote() -> None:
    """d/dr_w of -log sigma(r_w - r_l) is sigma(r_w - r_l) - 1."""
    preferred = torch.tensor([0.7], requires_grad=True)
    bradley_terry_loss(preferred, torch.tensor([-0.3])).backward()
    assert preferred.grad is not None
    assert preferred.grad.item() == pytest.approx(expit(1.0) - 1, rel=1e-5)


def test_accuracy_of_shuffled_scores_is_the_area_under_the_roc_curve() -> None:
    """Over every pair of a good and a bad image, accuracy with half a point a tie is Mann and Whitney's statistic."""
    rng = np.random.default_rng(1)
    good, bad = rng.integers(0, 6, 20).astype(float), rng.integers(0, 5, 30).astype(float)
    a, b = (one.ravel() for one in np.meshgrid(good, bad))
    labels, scores = [1] * 20 + [0] * 30, np.concatenate([good, bad])
    assert pair_accuracy(a, b) == pytest.approx(roc_auc_score(labels, scores))


def test_bootstrap_interval_agrees_with_scipys_on_skewed_values() -> None:
    values = np.random.default_rng(2).exponential(size=150)
    theirs = scipy_bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    found = bootstrap_interval(values, seed=0, resamples=5000)
    assert found == pytest.approx((theirs.low, theirs.high), rel=0.02)
