"""Leave one axis out: a reward head's start is learned over three axes, the fourth is learned from 200 pairs.

Part of benchmarks/few_shot.py. Each start has the rate that did best for it on another axis: for that choice the start
is learned over the remaining two, so that the axis that is measured is never looked at.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from unifl.data.contracts import open_images
from unifl.data.vocabulary import AXES
from unifl.feedback.few_shot_rewards import FewPairsSettings, axis_start, fresh_head, learn_pairs, some_pairs
from unifl.rewards.features import features_of_prompts, features_of_references
from unifl.rewards.model import RewardHead, sentence_encoder, shared_trunk
from unifl.rewards.pairs import pairs_of_split, read_votes
from unifl.rewards.training import PairTensors

LOOKS = (0, 5, 10, 20, 40)
RATES = (1e-3, 3e-3)
SEEDS = range(3)
ROUNDS = 10
TRAINING, TEST = 400, 200  # pairs an axis: to draw tasks from, and to measure on


def measure_axes(preferences: Path, images_folder: Path, work: Path) -> dict[str, Any]:
    """Accuracy on unseen pairs of each axis after each number of updates, from both starts."""
    training, test = tensors(preferences, images_folder)
    answer: dict[str, Any] = {
        "looks": LOOKS,
        "training_pairs": TRAINING,
        "test_pairs": TEST,
        "rounds": ROUNDS,
        "seeds": len(SEEDS),
        "axes": {},
    }
    every: dict[str, list[Any]] = {"plain": [], "learned": []}
    for number, axis in enumerate(AXES):
        other = AXES[(number + 1) % len(AXES)]
        rates = {}
        for kind in every:
            tried = {
                rate: np.mean(hits(kind, other, (axis, other), rate, training, test, work, [0])[..., 1:, :])
                for rate in RATES
            }
            rates[kind] = max(tried, key=lambda rate: tried[rate])
        found = {kind: hits(kind, axis, (axis,), rates[kind], training, test, work, SEEDS) for kind in every}
        for kind, values in found.items():
            every[kind].append(values)
        answer["axes"][axis] = {
            "rates": rates,
            **{kind: [interval(values[:, at]) for at in range(len(LOOKS))] for kind, values in found.items()},
        }
    # All axes together: seeds, looks, pairs of all.
    joined = {kind: np.concatenate(values, axis=2) for kind, values in every.items()}
    answer["all"] = {kind: [interval(v[:, at]) for at in range(len(LOOKS))] for kind, v in joined.items()}
    answer["difference"] = [interval(joined["learned"][:, at] - joined["plain"][:, at]) for at in range(len(LOOKS))]
    return answer


def hits(
    kind: str,
    axis: str,
    left_out: tuple[str, ...],
    rate: float,
    training: dict[str, PairTensors],
    test: dict[str, PairTensors],
    work: Path,
    seeds: Any,
) -> Any:
    """[seeds, looks, pairs]: whether the preferred side of each unseen pair of ``axis`` scores higher."""
    settings = FewPairsSettings(learning_rate=rate, rounds=ROUNDS)
    start: RewardHead | None = None
    if kind == "learned":
        known = {name: pairs for name, pairs in training.items() if name not in left_out}
        name = f"{'-'.join(sorted(known))}-{rate:g}"
        start = axis_start(known, settings, work / name, f"start over {name}")
    rows = []
    for seed in seeds:
        few = some_pairs(training[axis], settings.pairs, seed)
        used = few.features[np.unique(np.concatenate([few.preferred, few.rejected]))]
        head = (
            copy.deepcopy(start) if start is not None else fresh_head(used, few.text is not None, settings.head, seed)
        )
        looked = [right(head, test[axis])]

        def after(update: int, head: RewardHead = head, looked: list[Any] = looked) -> None:
            if update in LOOKS:
                looked.append(right(head, test[axis]))

        learn_pairs(head, few, settings, updates=LOOKS[-1], seed=seed, after=after)
        rows.append(looked)
    return np.array(rows)


def right(head: RewardHead, pairs: PairTensors) -> Any:
    """Whether the preferred side scores higher, a tie one half, [pairs]."""
    preferred, rejected = pairs.scores(head)
    return (preferred > rejected) + 0.5 * (preferred == rejected)


def interval(values: Any) -> dict[str, float]:
    """Mean of [seeds, pairs] with the 95 % interval of a bootstrap over both."""
    rng = np.random.default_rng(0)
    seeds, pairs = values.shape
    means = [values[rng.integers(seeds, size=seeds)][:, rng.integers(pairs, size=pairs)].mean() for _ in range(1000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def tensors(preferences: Path, images_folder: Path) -> tuple[dict[str, PairTensors], dict[str, PairTensors]]:
    """Pairs of every axis: of the split train, and of the split test."""
    images, trunk = open_images(images_folder), shared_trunk("lite0")
    found: tuple[dict[str, PairTensors], dict[str, PairTensors]] = ({}, {})
    for axis in AXES:
        votes = read_votes(preferences, axis, images)
        splits = [
            pairs_of_split(votes, split, count, preferences) for split, count in (("train", TRAINING), ("test", TEST))
        ]
        sides = [side for pairs in splits for pair in pairs for side in (pair.preferred, pair.rejected)]
        features = features_of_references(sides, images, trunk, f"features of {axis}")
        prompts = {pair.prompt for pairs in splits for pair in pairs}
        text = features_of_prompts(prompts, sentence_encoder, f"prompts of {axis}")
        for place, pairs in zip(found, splits, strict=True):
            place[axis] = PairTensors.of(pairs, features, text)
    return found
