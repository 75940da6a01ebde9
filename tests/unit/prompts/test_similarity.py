"""ANS and neighbours against brute force over every pair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unifl.prompts import similarity
from unifl.prompts.similarity import average_nearest_similarity, nearest_similarity, neighbours_above


def unit_rows(count: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_force_nearest(embeddings: np.ndarray) -> list[float]:
    return [
        max(float(np.dot(one, other)) for j, other in enumerate(embeddings) if j != i)
        for i, one in enumerate(embeddings)
    ]


@given(count=st.integers(2, 40), seed=st.integers(0, 2**16), block=st.sampled_from([1, 3, 8, 64]))
def test_nearest_similarity_is_that_of_brute_force_whatever_the_block(count, seed, block):
    embeddings = unit_rows(count, 5, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "BLOCK", block)
        np.testing.assert_allclose(nearest_similarity(embeddings), brute_force_nearest(embeddings), atol=1e-6)


def test_ans_of_three_vectors_is_the_mean_computed_by_hand():
    # cosines: 0.6 between first and second, 0 and 0.8 with the third; nearest: 0.6, 0.8, 0.8
    embeddings = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    assert average_nearest_similarity(embeddings) == pytest.approx((0.6 + 0.8 + 0.8) / 3)


def test_ans_of_a_prompt_and_its_copy_is_one():
    assert average_nearest_similarity(np.array([[0.6, 0.8], [0.6, 0.8]], np.float32)) == pytest.approx(1)


def test_ans_of_one_prompt_is_refused():
    with pytest.raises(ValueError, match="two prompts"):
        average_nearest_similarity(np.ones((1, 1), np.float32))


@given(
    count=st.integers(0, 40),
    seed=st.integers(0, 2**16),
    threshold=st.floats(-0.5, 0.95),
    block=st.sampled_from([1, 7, 64]),
)
def test_neighbours_are_all_pairs_above_the_threshold_the_most_similar_first(count, seed, threshold, block):
    embeddings = unit_rows(count, 4, seed) if count else np.zeros((0, 4), np.float32)
    cosines = embeddings.astype(np.float64) @ embeddings.T.astype(np.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "BLOCK", block)
        lists = neighbours_above(embeddings, threshold)
    assert lists.size == count
    for i in range(count):
        found = lists.of(i)
        surely = {j for j in range(count) if j != i and cosines[i, j] > threshold + 1e-5}
        maybe = {j for j in range(count) if j != i and cosines[i, j] > threshold - 1e-5}
        assert surely <= set(found.tolist()) <= maybe
        assert (np.diff(cosines[i, found]) <= 1e-5).all()
        assert lists.of(i, 2).tolist() == found[:2].tolist()
