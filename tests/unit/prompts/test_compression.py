"""What nearest-neighbour compression promises, for any prompts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unifl.prompts.compression import compress, survivors
from unifl.prompts.similarity import neighbours_above

THRESHOLD = 0.8


@st.composite
def crowded_embeddings(draw):
    """Unit vectors in few directions with noise, so that neighbourhoods above the threshold are large and uneven."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    count, centres = draw(st.integers(1, 60)), draw(st.integers(1, 6))
    rows = rng.normal(size=(centres, 6))[rng.integers(centres, size=count)] + rng.normal(size=(count, 6)) * draw(
        st.floats(0.01, 1)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@given(embeddings=crowded_embeddings(), seed=st.integers(0, 100))
def test_no_two_kept_prompts_exceed_the_threshold(embeddings, seed):
    kept = embeddings[compress(neighbours_above(embeddings, THRESHOLD), seed).kept]
    cosines = kept @ kept.T - 2 * np.eye(len(kept), dtype=np.float32)
    assert (cosines <= THRESHOLD + 1e-6).all()


@given(embeddings=crowded_embeddings(), seed=st.integers(0, 100))
def test_every_dropped_prompt_has_a_kept_neighbour_above_the_threshold(embeddings, seed):
    kept = compress(neighbours_above(embeddings, THRESHOLD), seed).kept
    dropped = np.setdiff1d(np.arange(len(embeddings)), kept)
    assert ((embeddings[dropped] @ embeddings[kept].T).max(axis=1, initial=-1) > THRESHOLD - 1e-6).all()


@given(embeddings=crowded_embeddings(), seed=st.integers(0, 100))
def test_survivors_do_not_change_when_k_doubles(embeddings, seed):
    neighbours = neighbours_above(embeddings, THRESHOLD)
    result = compress(neighbours, seed)
    order = np.random.default_rng(seed).permutation(len(embeddings))
    for k in (result.k, 2 * result.k, 16 * result.k, len(embeddings)):
        assert survivors(neighbours, order, k)[0].tolist() == result.kept.tolist()


@given(embeddings=crowded_embeddings(), seed=st.integers(0, 100), k=st.integers(1, 5))
def test_a_k_that_is_too_small_still_leaves_no_two_neighbours(embeddings, seed, k):
    neighbours = neighbours_above(embeddings, THRESHOLD)
    order = np.random.default_rng(seed).permutation(len(embeddings))
    kept, walks = survivors(neighbours, order, k)
    assert neighbours.among(kept).largest == 0
    assert 1 <= walks <= len(embeddings)


@given(embeddings=crowded_embeddings())
@settings(max_examples=20)
def test_the_sweep_says_where_survivors_settle(embeddings):
    result = compress(neighbours_above(embeddings, THRESHOLD), 0)
    trials = {trial.k: trial for trial in result.sweep}
    assert trials[result.k].differs == 0
    assert all(trial.differs == 0 for k, trial in trials.items() if k > result.k)
    assert result.k == 1 or trials[result.k // 2].differs > 0
    assert result.sweep[-1].walks == 1


def test_a_chain_keeps_its_ends_or_its_middle():
    # 0, 20 and 40 degrees: neighbours are 20 degrees apart (cosine 0.94), the ends 40 (0.77).
    angles = np.radians([0, 20, 40])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    neighbours = neighbours_above(embeddings, THRESHOLD)
    assert survivors(neighbours, np.array([1, 0, 2]), 2)[0].tolist() == [1]
    assert survivors(neighbours, np.array([0, 1, 2]), 2)[0].tolist() == [0, 2]


def test_the_same_seed_keeps_the_same_prompts_and_another_seed_others():
    rows = np.random.default_rng(0).normal(size=(80, 3))
    embeddings = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    neighbours = neighbours_above(embeddings, THRESHOLD)
    first, again, other = (compress(neighbours, seed).kept.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_identical_prompts_leave_one():
    embeddings = np.tile(np.array([[0.6, 0.8]], np.float32), (50, 1))
    assert len(compress(neighbours_above(embeddings, THRESHOLD), 0).kept) == 1


@pytest.mark.parametrize("count", [0, 1])
def test_no_prompts_and_one_prompt_are_kept_as_they_are(count):
    result = compress(neighbours_above(np.ones((count, 1), np.float32), THRESHOLD), 0)
    assert result.kept.tolist() == list(range(count))
