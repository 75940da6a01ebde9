"""The Bradley-Terry loss and the figures that judge it equal values computed by hand."""

import numpy as np
import pytest
import torch

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
