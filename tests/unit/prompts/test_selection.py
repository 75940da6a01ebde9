"""Selection with the real parser and encoder: what survives, what is refused, what is cached."""

import numpy as np
import pytest

from unifl.core.errors import DataContractError
from unifl.prompts.embedding import embed
from unifl.prompts.scene_graph import SceneGraph, SceneObject
from unifl.prompts.selection import principal_plane, select_prompts
from unifl.prompts.semantic_filter import semantic_fate

GOOD = [
    "a red fox above a small car, noto icon",
    "a girl holding a yellow umbrella under a bridge",
    "two happy dogs playing with a ball",
    "a big castle to the left of a purple volcano, woodcut print",
    "an old man riding a brown horse on a beach",
]
JUNK = [
    "fox",
    "",
    "😀",
    "https://example.com/a.png",
    "8k, masterpiece, trending on artstation",
    "ein roter Hund neben dem Baum",
]


def fate(graph, text="a red fox", **changed):
    arguments = {"threshold": 1, "comparison": "more than", "english_share": 0.8, "longest_words": 10} | changed
    return semantic_fate(text, graph, **arguments)


def test_more_than_the_threshold_drops_what_at_least_keeps():
    one_attribute = SceneGraph((SceneObject("fox", ("red",)),), (), 1.0)
    assert fate(one_attribute, comparison="more than") == "poor"
    assert fate(one_attribute, comparison="at least") == "rich"
    assert fate(one_attribute, comparison="at least", threshold=2) == "poor"


def test_the_filter_says_why_it_drops():
    rich = SceneGraph((SceneObject("fox", ("red", "small")),), (), 1.0)
    assert fate(rich) == "rich"
    assert fate(rich, text="fox " * 11) == "too long"
    assert fate(SceneGraph(rich.objects, (), 0.5)) == "not English"


def test_junk_does_not_survive_and_a_near_duplicate_is_kept_once():
    texts = [*GOOD, *JUNK, "A red fox above a small car, noto icon!"]
    selection = select_prompts(texts, count=5, seed=0)
    assert len(selection.selected) == 5
    assert not set(range(5, 11)) & set(selection.kept.tolist())
    assert {selection.fates[0], selection.fates[11]} == {"selected", "near-duplicate"}
    assert selection.ans()["selected"] < 0.8


def test_an_empty_filter_result_is_an_error_with_a_remedy():
    with pytest.raises(DataContractError, match=r"not one of 6 prompts passes.*remedy: lower richness_threshold"):
        select_prompts(JUNK, count=2, seed=0)


def test_fewer_survivors_than_wanted_is_an_error_that_says_how_many_there_are():
    with pytest.raises(DataContractError, match=r"5 prompts survive the selection, 6 are wanted.*set count to 5"):
        select_prompts([*GOOD, *JUNK], count=6, seed=0)


class CountingEncoder:
    """The real encoder, with a count of what it was asked."""

    def __init__(self) -> None:
        from unifl.perception.minilm import SentenceEncoder

        self.encoder, self.asked = SentenceEncoder(), 0

    def encode(self, sentences):
        self.asked += len(sentences)
        return self.encoder.encode(sentences)


def test_embeddings_are_computed_once_and_come_back_bit_by_bit(tmp_path):
    encoder = CountingEncoder()
    texts = [*GOOD, GOOD[0]]
    first = embed(texts, tmp_path, encoder)
    assert encoder.asked == len(GOOD)
    again = embed(texts, tmp_path, encoder)
    assert encoder.asked == len(GOOD)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[0], first[-1])
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)


def test_a_damaged_cache_file_is_refused_with_its_name(tmp_path):
    embed(GOOD, tmp_path)
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataContractError, match=f"damaged.*{file.name}.*remedy: remove"):
        embed(GOOD, tmp_path)


def test_the_map_shows_the_plane_of_largest_variance():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 2)) * [3, 1]
    embeddings = np.zeros((200, 5), np.float32)
    embeddings[:, [3, 1]] = points
    plane, explained = principal_plane(embeddings)
    assert abs(np.corrcoef(plane[:, 0], points[:, 0])[0, 1]) > 0.99
    assert explained[0] > 0.8
    assert sum(explained) == pytest.approx(1)
