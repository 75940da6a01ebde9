"""A head learns which of two feature vectors is preferred, standardises its scores, and is reproducible to the bit."""

import numpy as np
import pytest
import torch

from unifl.core.errors import DivergenceError
from unifl.rewards.pairs import VotedPair
from unifl.rewards.settings import HeadSettings
from unifl.rewards.training import Features, PairTensors, train_head, validate

SETTINGS = HeadSettings(epochs=15, batch_size=16, hidden=16, text=False)


def separable(count: int, seed: int) -> tuple[list[VotedPair], Features]:
    """Pairs whose preferred side is larger in feature 0; the other features are noise."""
    rng = np.random.default_rng(seed)
    pairs, features = [], {}
    for number in range(count):
        low, high = np.sort(rng.normal(size=2))
        for name, value in (("w", high), ("l", low)):
            row = rng.normal(size=12)
            row[0] = value
            features[f"{seed}-{number}{name}", ""] = row.astype(np.float16)
        winner, loser = (f"{seed}-{number}w", ""), (f"{seed}-{number}l", "")
        pairs.append(VotedPair(str(number), "color", "a dog", winner, loser, 1.0))
    return pairs, features


def tensors(count: int, seed: int) -> PairTensors:
    pairs, features = separable(count, seed)
    return PairTensors.of(pairs, features, None)


def test_a_head_learns_what_the_votes_agree_on() -> None:
    pairs, features = separable(100, seed=2)
    held_out = PairTensors.of(pairs, features, None)
    trained = train_head(tensors(300, seed=1), held_out, SETTINGS, "test")
    result = validate(trained.head, pairs, held_out, seed=0)
    assert result.accuracy > 0.85
    low, high = result.accuracy_interval
    assert low < result.accuracy < high
    assert trained.curve[-1]["validation_loss"] < trained.curve[0]["validation_loss"]
    assert trained.curve[-1]["update"] == trained.updates


def test_training_scores_have_mean_zero_and_deviation_one() -> None:
    training = tensors(200, seed=1)
    trained = train_head(training, tensors(50, seed=2), SETTINGS, "test")
    scores = np.concatenate(training.scores(trained.head))
    assert scores.mean() == pytest.approx(0, abs=1e-4)
    assert scores.std() == pytest.approx(1, abs=1e-4)


def test_alpha_is_the_mean_score_of_the_preferred_sides() -> None:
    pairs, features = separable(60, seed=2)
    held_out = PairTensors.of(pairs, features, None)
    trained = train_head(tensors(200, seed=1), held_out, SETTINGS, "test")
    result = validate(trained.head, pairs, held_out, seed=0)
    assert result.alpha == pytest.approx(held_out.scores(trained.head)[0].mean())
    assert result.alpha_interval[0] < result.alpha < result.alpha_interval[1]


def test_histograms_count_every_validation_image() -> None:
    pairs, features = separable(60, seed=2)
    held_out = PairTensors.of(pairs, features, None)
    trained = train_head(tensors(100, seed=1), held_out, SETTINGS, "test")
    histograms = validate(trained.head, pairs, held_out, seed=0).details["histograms"]
    assert sum(histograms["preferred"]) == sum(histograms["rejected"]) == 60
    assert len(histograms["edges"]) == len(histograms["preferred"]) + 1


def test_the_same_seed_gives_the_same_weights_to_the_bit() -> None:
    heads = [train_head(tensors(100, seed=1), tensors(50, seed=2), SETTINGS, "test").head for _ in range(2)]
    states = [head.state_dict() for head in heads]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_features_that_are_not_numbers_stop_the_training() -> None:
    pairs, features = separable(40, seed=1)
    for row in features.values():
        row[3] = np.nan
    broken = PairTensors.of(pairs, features, None)
    with pytest.raises(DivergenceError, match="Bradley-Terry loss is nan"):
        train_head(broken, broken, SETTINGS, "test")
