"""Pairs for judges: only the judges' family, three kinds, noisy votes that follow the difference."""

from __future__ import annotations

import numpy as np
import pytest

from unifl.data.vocabulary import AXES
from unifl.evaluation.judge_pairs import ANNOTATORS, KINDS, JudgePairs, draw_pairs


def drawn(axis: str, count: int = 60, seed: int = 0) -> tuple[JudgePairs, np.ndarray]:
    rng = np.random.default_rng(1)
    images = rng.integers(60, 200, (8, 64, 64, 3), dtype=np.uint8)
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 8:30, 8:30] = masks[1, 34:58, 34:58] = True
    for image in images:
        image[masks.any(0)] = rng.integers(0, 256, 3)
    return draw_pairs(axis, images, [masks] * 8, count, np.random.default_rng(seed)), images


@pytest.mark.parametrize("axis", AXES)
def test_the_two_sides_differ_and_exactly_one_is_better(axis: str) -> None:
    pairs, _ = drawn(axis, 30)
    assert all(not np.array_equal(pairs.images[a], pairs.images[b]) for a, b in zip(pairs.a, pairs.b, strict=True))
    assert set(pairs.a) | set(pairs.b) == set(range(60))


def test_the_untouched_image_is_the_better_one() -> None:
    pairs, images = drawn("color")
    rows = np.flatnonzero(pairs.kind == KINDS.index("against untouched"))
    untouched = {image.tobytes() for image in images}
    for row in rows:
        better = pairs.a[row] if pairs.truth[row] else pairs.b[row]
        assert pairs.images[better].tobytes() in untouched


def test_all_kinds_occur_and_sides_are_shuffled() -> None:
    pairs, _ = drawn("detail", 80)
    assert set(pairs.kind) == set(range(len(KINDS)))
    assert 0.3 < pairs.truth.mean() < 0.7


def test_annotators_mostly_but_not_always_see_the_difference() -> None:
    pairs, _ = drawn("lighting", 150)
    assert np.isin(pairs.votes * ANNOTATORS, range(ANNOTATORS + 1)).all()
    agreement = np.where(pairs.truth, pairs.votes, 1 - pairs.votes)
    assert 0.85 < agreement.mean() < 1


def test_the_same_generator_gives_the_same_pairs() -> None:
    first, second = drawn("layout", 10, seed=5)[0], drawn("layout", 10, seed=5)[0]
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.votes, second.votes)
