"""Calibration of held-out preferences against values computed by hand, by scikit-learn and by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.calibration import calibration_curve

from unifl.rewards.calibration import calibration, confidence, expected_calibration_error, reliability, temperature


def votes(count: int, seed: int, annotators: int = 5, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions, and shares of votes cast with a probability whose logit is the predicted one times `sharpness`."""
    rng = np.random.default_rng(seed)
    logits = np.abs(rng.normal(size=count)) * 1.5
    chance = 1 / (1 + np.exp(-sharpness * logits))
    return 1 / (1 + np.exp(-logits)), rng.binomial(annotators, chance) / annotators


def test_a_pair_is_read_from_the_side_that_scores_higher() -> None:
    predicted, observed = confidence(
        preferred=np.array([2.0, 0.0]), rejected=np.array([1.0, 3.0]), margins=np.array([0.2, 0.6]), logit_scale=2.0
    )
    assert predicted == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-6))])
    assert observed == pytest.approx([0.6, 0.2])  # 3 of 5 votes for the first; 4 of 5 against the second


def test_equal_scores_predict_a_half_and_see_a_half() -> None:
    predicted, observed = confidence(np.ones(1), np.ones(1), np.ones(1), 5.0)
    assert (predicted[0], observed[0]) == (0.5, 0.5)


def test_which_side_won_the_vote_does_not_bias_the_curve() -> None:
    """Read from the winners of the vote, a perfect model would look too modest; read from the model it does not."""
    rng = np.random.default_rng(0)
    difference = rng.normal(size=40_000)
    share = rng.binomial(5, 1 / (1 + np.exp(-difference))) / 5
    winner = np.where(share > 0.5, difference, -difference)
    predicted, observed = confidence(winner, np.zeros_like(winner), np.abs(2 * share - 1), 1.0)
    assert predicted.mean() == pytest.approx(observed.mean(), abs=0.005)
    assert expected_calibration_error(predicted, observed) < 0.01
    from_winner = 1 / (1 + np.exp(-winner))
    assert np.maximum(share, 1 - share).mean() - from_winner.mean() > 0.05


def test_the_curve_is_scikit_learns() -> None:
    predicted, observed = votes(500, seed=1, annotators=1)
    bins = reliability(predicted, observed, bins=10)
    seen, meant = calibration_curve(observed, predicted, n_bins=20)  # twenty over [0, 1] are ten over [0.5, 1]
    assert [one.predicted for one in bins] == pytest.approx(meant.tolist())
    assert [one.observed for one in bins] == pytest.approx(seen.tolist())
    assert sum(one.pairs for one in bins) == 500


def test_expected_calibration_error_by_hand() -> None:
    """Bins [0.5, 0.75) and [0.75, 1]: means .6 and .9 predicted, .5 and .7 observed; 2/5 of .1 and 3/5 of .2."""
    predicted = np.array([0.55, 0.65, 0.8, 0.9, 1.0])
    observed = np.array([0.4, 0.6, 1.0, 0.5, 0.6])
    assert expected_calibration_error(predicted, observed, bins=2) == pytest.approx(0.4 * 0.1 + 0.6 * 0.2)


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 15))
def test_the_error_is_the_mean_gap_of_the_curve_weighted_by_its_pairs(seed: int, count: int, bins: int) -> None:
    predicted, observed = votes(count, seed)
    curve = reliability(predicted, observed, bins)
    expected = sum(one.pairs * abs(one.predicted - one.observed) for one in curve) / count
    assert expected_calibration_error(predicted, observed, bins) == pytest.approx(expected)
    assert all(one.low <= one.observed <= one.high for one in curve)
    assert all(one.low_edge - 1e-9 <= one.predicted <= one.high_edge + 1e-9 for one in curve)


def test_intervals_of_a_bin_are_jeffreys() -> None:
    predicted, observed = np.full(10, 0.72), np.array([1.0] * 7 + [0.0] * 3)
    (one,) = reliability(predicted, observed)
    assert (one.low, one.high) == pytest.approx(beta(7.5, 3.5).ppf([0.025, 0.975]).tolist())


def test_intervals_of_the_curve_cover_the_truth_about_as_often_as_they_say() -> None:
    covered = []
    for seed in range(200):
        predicted, observed = votes(300, seed, annotators=1)
        covered += [one.low <= one.predicted <= one.high for one in reliability(predicted, observed)]
    assert 0.92 < np.mean(covered) < 0.99


def test_temperature_is_the_one_that_a_grid_finds() -> None:
    predicted, observed = votes(4000, seed=3, sharpness=0.4)
    logits = np.log(predicted / (1 - predicted))
    grid = np.linspace(0.5, 6, 1101)
    loss = [
        -np.mean(observed * np.log(p) + (1 - observed) * np.log(1 - p))
        for p in (1 / (1 + np.exp(-logits / one)) for one in grid)
    ]
    assert temperature(predicted, observed) == pytest.approx(grid[np.argmin(loss)], abs=0.01)
    assert temperature(predicted, observed) == pytest.approx(1 / 0.4, rel=0.1)


def test_a_model_surer_than_its_annotators_is_said_to_be() -> None:
    modest = calibration(*votes(2000, seed=4, sharpness=0.4), seed=0)
    right = calibration(*votes(2000, seed=4, sharpness=1.0), seed=0)
    assert modest["overconfidence"] > 0.1
    assert modest["ece_low"] <= modest["ece"] <= modest["ece_high"]
    assert modest["ece_low"] > right["ece_high"]
    assert right["temperature"] == pytest.approx(1, abs=0.1)


def test_probabilities_of_one_do_not_break_the_temperature() -> None:
    assert 1 < temperature(np.ones(20), np.array([1.0] * 19 + [0.0])) < 100


def test_the_same_seed_gives_the_same_interval() -> None:
    predicted, observed = votes(100, seed=5)
    assert calibration(predicted, observed, seed=1) == calibration(predicted, observed, seed=1)
