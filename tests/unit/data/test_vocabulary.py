"""Captions read as English, and the held-out splits never change."""

from collections import Counter
from itertools import product

import pytest

from unifl.data.vocabulary import (
    ATTRIBUTES,
    CONCEPTS,
    DRAWN_STYLES,
    HELD_OUT_STYLE,
    TRAINING_STYLES,
    ObjectPhrase,
    caption,
    composition_split,
    held_out_set,
    scene_split,
)

PUBLISHED_SPLITS = ["train", "train", "test", "train", "train", "train"]
PUBLISHED_INSTANCES = [None, None, "noto", "noto", None, "twemoji"]


def test_there_are_at_least_128_concepts_without_repetition() -> None:
    assert len(CONCEPTS) == len(set(CONCEPTS)) >= 128


@pytest.mark.parametrize(
    ("concept", "attribute", "phrase"),
    [
        ("dog", None, "a dog"),
        ("apple", None, "an apple"),
        ("apple", "red", "a red apple"),
        ("dog", "orange", "an orange dog"),
        ("unicorn", None, "a unicorn"),
        ("scissors", None, "scissors"),
        ("cherries", "blue", "blue cherries"),
    ],
)
def test_a_noun_phrase_takes_the_right_article(concept: str, attribute: str | None, phrase: str) -> None:
    assert ObjectPhrase(concept, attribute).words() == phrase


def test_captions_say_objects_relation_background_and_style() -> None:
    dog, apple, egg = ObjectPhrase("dog"), ObjectPhrase("apple", "red"), ObjectPhrase("egg")
    assert (
        caption([dog, apple], "above", "blue", "woodcut")
        == "a dog above a red apple on a blue background, woodcut print"
    )
    assert caption([dog, apple, egg], None, None, "noto") == "a dog, a red apple and an egg, noto icon"


def test_about_one_composition_in_ten_is_held_out_for_each_purpose() -> None:
    splits = Counter(composition_split(c, a, None, s) for c, a, s in product(CONCEPTS, ATTRIBUTES, TRAINING_STYLES))
    total = sum(splits.values())
    assert abs(splits["test"] / total - 0.1) < 0.01
    assert abs(splits["validation"] / total - 0.1) < 0.01


def test_the_splits_are_the_ones_that_were_published() -> None:
    """A change of the hash would leak test compositions into the training of every later model."""
    assert [composition_split(c, None, None, "noto") for c in CONCEPTS[:6]] == PUBLISHED_SPLITS
    assert [held_out_set(c) for c in CONCEPTS[:6]] == PUBLISHED_INSTANCES


def test_a_scene_is_as_held_out_as_its_most_held_out_object() -> None:
    by_split = {composition_split(c, None, None, "noto"): ObjectPhrase(c) for c in CONCEPTS}
    assert scene_split([by_split["train"], by_split["test"]], None, "noto") == "test"
    assert scene_split([by_split["validation"], by_split["train"]], None, "noto") == "validation"


def test_every_concept_keeps_three_icon_sets_for_training() -> None:
    held_out = [held_out_set(concept) for concept in CONCEPTS]
    assert set(held_out) <= {None, *DRAWN_STYLES}
    assert 0.2 < sum(one is not None for one in held_out) / len(CONCEPTS) < 0.5


def test_the_held_out_style_is_not_a_training_style() -> None:
    assert HELD_OUT_STYLE not in TRAINING_STYLES
