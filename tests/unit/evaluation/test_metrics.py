"""Every figure of the evaluation against a second, independent way to compute it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import bootstrap as scipy_bootstrap
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import polynomial_kernel

from unifl.evaluation import metrics


def two_samples(m: int = 12, n: int = 15, d: int = 5, shift: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(m, d)) + shift, rng.normal(size=(n, d))


def test_kid_equals_the_brute_force_double_loop() -> None:
    x, y = two_samples()
    k = lambda a, b: (float(a @ b) / len(a) + 1) ** 3  # noqa: E731
    within_x = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    within_y = [k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    across = [k(a, b) for a in x for b in y]
    expected = 1000 * (np.mean(within_x) + np.mean(within_y) - 2 * np.mean(across))
    assert metrics.kid(x, y, resamples=2).value == pytest.approx(expected, rel=1e-12)
    assert 1000 * metrics.mmd2(x, y) == pytest.approx(expected, rel=1e-12)


def test_the_kernel_is_scikit_learns_polynomial_kernel() -> None:
    x, y = two_samples()
    assert metrics.polynomial_kernel(x, y) == pytest.approx(polynomial_kernel(x, y, degree=3, gamma=1 / 5, coef0=1))


def test_kid_of_two_halves_of_one_sample_is_zero_on_average() -> None:
    rng = np.random.default_rng(0)
    values = [metrics.kid(rng.normal(size=(30, 4)), rng.normal(size=(30, 4)), resamples=2).value for _ in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)


def test_the_kid_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = metrics.kid(rng.normal(size=(4000, 3)) + 0.5, rng.normal(size=(4000, 3)), resamples=2).value
    covered = 0
    for seed in range(100):
        interval = metrics.kid(rng.normal(size=(80, 3)) + 0.5, rng.normal(size=(80, 3)), 200, seed).estimate()
        covered += interval.low <= truth <= interval.high
    assert covered >= 86


def test_kid_leaves_out_pairs_of_an_image_and_its_own_reference() -> None:
    x, y = two_samples(6, 8)
    own = np.array([0, 1, 2, 3, 4, 0])
    k = lambda a, b: (float(a @ b) / len(a) + 1) ** 3  # noqa: E731
    within_x = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    within_y = [k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    across = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(y) if own[i] != j]
    expected = 1000 * (np.mean(within_x) + np.mean(within_y) - 2 * np.mean(across))
    assert metrics.kid(x, y, resamples=2, own=own).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("paired", [False, True])
def test_a_kid_draw_is_the_double_loop_over_the_images_that_were_drawn(paired: bool) -> None:
    """Every pair of different images as often as both were drawn; no image with itself, none with its own reference."""
    x, y = two_samples(6, 8)
    own = np.array([0, 1, 2, 3, 4, 0]) if paired else None
    seed, draws = 3, 4
    counts_y = np.random.default_rng(seed).multinomial(8, np.full(8, 1 / 8), size=draws)
    counts_x = (
        counts_y[:, own]
        if own is not None
        else np.random.default_rng(seed + 1).multinomial(6, np.full(6, 1 / 6), draws)
    )
    found = metrics.kid(x, y, draws, seed, own).draws
    k = lambda a, b: (float(a @ b) / len(a) + 1) ** 3  # noqa: E731
    for number in range(draws):
        rows_x = np.repeat(np.arange(6), counts_x[number])
        rows_y = np.repeat(np.arange(8), counts_y[number])
        within_x = [k(x[i], x[j]) for i in rows_x for j in rows_x if i != j]
        within_y = [k(y[i], y[j]) for i in rows_y for j in rows_y if i != j]
        across = [k(x[i], y[j]) for i in rows_x for j in rows_y if own is None or own[i] != j]
        expected = 1000 * (np.mean(within_x) + np.mean(within_y) - 2 * np.mean(across))
        assert found[number] == pytest.approx(expected, rel=1e-9)


def test_resampling_images_with_their_references_gives_the_true_spread() -> None:
    """Images that share their content with the references vary less together than apart, and the draws say so."""
    values, together, apart = [], [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        y = rng.normal(size=(60, 4)) + 0.5
        x = y + 0.3 * rng.normal(size=(60, 4)) + 0.3
        drawn = metrics.kid(x, y, 100, seed, own=np.arange(60))
        values.append(drawn.value)
        together.append(drawn.draws.std())
        apart.append(metrics.kid(x, y, 100, seed).draws.std())
    assert np.mean(together) == pytest.approx(np.std(values), rel=0.35)
    assert np.mean(apart) > 1.5 * np.mean(together)


def test_paired_draws_are_narrower_than_unpaired_ones() -> None:
    rng = np.random.default_rng(5)
    base = rng.normal(size=(100, 4))
    reference = rng.normal(size=(100, 4))
    worse, better = metrics.kid(base + 0.6, reference), metrics.kid(base + 0.5, reference)
    paired = worse.minus(better)
    unpaired = worse.minus(metrics.kid(base + 0.5, reference, seed=77))
    assert paired.low > 0
    assert paired.high - paired.low < unpaired.high - unpaired.low


def test_frechet_distance_equals_the_matrix_square_root_formula() -> None:
    x, y = two_samples(40, 50)
    sx, sy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(sx + sy - 2 * sqrtm(sx @ sy).real)
    assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_a_sample_and_itself_is_zero() -> None:
    x, _ = two_samples(40)
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_fid_draws_are_centred_on_the_value() -> None:
    x, y = two_samples(40, 50)
    draws = metrics.fid(x, y, resamples=20)
    assert draws.draws.mean() == pytest.approx(draws.value)


def test_fid_draws_spread_as_scipys_bootstrap_of_both_sides_does() -> None:
    x, y = two_samples(60, 70)
    ours = metrics.fid(x, y, resamples=300).draws

    def formula(a: np.ndarray, b: np.ndarray) -> float:
        sa, sb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sa + sb - 2 * sqrtm(sa @ sb).real))

    rng = np.random.default_rng(9)
    theirs = [formula(rng.choice(x, 60), rng.choice(y, 70)) for _ in range(300)]
    assert ours.std() == pytest.approx(np.std(theirs), rel=0.15)


def test_the_projection_is_scikit_learns_pca_up_to_sign() -> None:
    x, y = two_samples(40, 10)
    ours = metrics.Projection.fit(x, 3)(y)
    assert np.abs(ours) == pytest.approx(np.abs(PCA(3).fit(x).transform(y)), rel=1e-6)


def test_too_few_images_for_a_projection_are_named() -> None:
    with pytest.raises(ValueError, match="more than 5 images"):
        metrics.Projection.fit(np.zeros((5, 8)), 5)


def test_the_mean_interval_agrees_with_scipys_bootstrap() -> None:
    values = np.random.default_rng(2).exponential(size=200)
    ours = metrics.mean(values, resamples=4000).estimate()
    theirs = scipy_bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_the_bootstrap_of_a_statistic_agrees_with_scipys() -> None:
    values = np.random.default_rng(4).exponential(size=120)
    drawn = metrics.bootstrap(lambda rows: float(np.median(values[rows])), 120, 2000, seed=0)
    theirs = scipy_bootstrap(
        (values,), np.median, n_resamples=2000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    found = drawn.estimate()
    assert found.value == np.median(values)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), rel=0.08)


def test_wilsons_interval_of_eight_in_ten() -> None:
    """Wilson (1927) by hand: centre (p + z²/2n) / (1 + z²/n), z = 1.96."""
    z, n, p = 1.959964, 10, 0.8
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    estimate = metrics.share([True] * 8 + [False] * 2)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((p, centre - half, centre + half), rel=1e-5)


def test_the_majority_of_the_judges_decides_and_two_against_two_is_a_tie() -> None:
    ours = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=float)
    theirs = np.array([[0, 0, 1], [0, 1, 1], [0, 0, 1], [1, 1, 1]], dtype=float)
    assert metrics.votes(ours, theirs).tolist() == [1, 0, -1]
    assert metrics.preference_points(ours, theirs).value == 0


def test_points_are_the_share_won_minus_the_share_lost_by_hand() -> None:
    """One judge: three won, one lost, one tied of five are 40 points; the interval is that of a mean."""
    ours, theirs = np.array([[3.0, 2, 1, 0, 5]]), np.array([[1.0, 1, 0, 4, 5]])
    assert metrics.preference_points(ours, theirs).value == pytest.approx(100 * (3 - 1) / 5)
    rng = np.random.default_rng(5)
    outcome = rng.choice([-1.0, 0.0, 1.0], 300, p=[0.2, 0.1, 0.7])
    found = metrics.preference_points(outcome[None], np.zeros((1, 300)), resamples=4000).estimate()
    theirs_interval = scipy_bootstrap(
        (100 * outcome,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((theirs_interval.low, theirs_interval.high), rel=0.03)


def test_winning_every_pair_is_a_hundred_points() -> None:
    points = metrics.preference_points(np.ones((4, 9)), np.zeros((4, 9))).estimate()
    assert (points.value, points.low, points.high) == (100, 100, 100)


def test_recall_counts_texts_strictly_nearer_than_the_right_one() -> None:
    similarities = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.6], [0.3, 0.1, 0.2]])
    assert metrics.recall_at(similarities, 1).tolist() == [True, False, False]
    assert metrics.recall_at(similarities, 2).tolist() == [True, False, True]
    assert metrics.recall_at(similarities, 3).all()


def test_intervals_that_touch_are_not_disjoint() -> None:
    assert not metrics.Estimate(1, 0, 2).disjoint_from(metrics.Estimate(3, 2, 4))
    assert metrics.Estimate(1, 0, 2).disjoint_from(metrics.Estimate(3, 2.1, 4))


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.zeros((4, 2)), np.full((4, 3), np.nan)])
def test_features_of_the_wrong_shape_or_with_nan_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"features|distance"):
        metrics.kid(bad, np.zeros((5, 3)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 9))
def test_mmd_is_symmetric(seed: int, m: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(m, 3)), rng.normal(size=(n, 3))
    assert metrics.mmd2(x, y) == pytest.approx(metrics.mmd2(y, x), rel=1e-9, abs=1e-12)
