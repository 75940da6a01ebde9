"""Sentence embeddings are unit vectors in which meaning is near, in the order of the sentences."""

import numpy as np
import pytest

from unifl.perception.minilm import WIDTH, SentenceEncoder


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


def test_similar_sentences_are_nearer_than_unrelated_ones(encoder: SentenceEncoder) -> None:
    rows = encoder.encode(["a red apple on a table", "an apple that is red", "the stock market fell"])
    assert rows[0] @ rows[1] > 0.6
    assert rows[0] @ rows[2] < 0.2


def test_rows_have_length_one(encoder: SentenceEncoder) -> None:
    rows = encoder.encode(["one", "a much longer sentence about two dogs above a green car"])
    assert rows.shape == (2, WIDTH)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_order_and_repetitions_are_kept(encoder: SentenceEncoder) -> None:
    rows = encoder.encode(["a dog", "a cat", "a dog"])
    assert np.array_equal(rows[0], rows[2])
    assert not np.array_equal(rows[0], rows[1])


def test_a_sentence_has_the_same_bits_in_any_company(encoder: SentenceEncoder) -> None:
    sentences = [
        "a dog",
        "a very long sentence " * 8,
        *(f"a {color} cat" for color in ["red", "green", "blue", "pink"]),
    ] * 2
    alone = np.concatenate([encoder.encode([sentence]) for sentence in sentences])
    assert np.array_equal(encoder.encode(sentences), alone)


def test_no_sentence_gives_no_row(encoder: SentenceEncoder) -> None:
    assert encoder.encode([]).shape == (0, WIDTH)
