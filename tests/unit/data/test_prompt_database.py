"""The embedded prompt database: large enough, small enough, the same in every run, and free of what is held out."""

import random
import re

import pytest

from unifl.data import prompt_junk
from unifl.data.contracts import read_prompts
from unifl.data.prompt_database import make_prompts, read_words, write_prompts
from unifl.data.vocabulary import (
    ATTRIBUTES,
    CONCEPTS,
    DRAWN_STYLES,
    HELD_OUT_STYLE,
    RELATIONS,
    STYLE_PHRASES,
    ObjectPhrase,
    caption,
    held_out_set,
    scene_split,
)

KNOWN_CONCEPTS = frozenset(CONCEPTS)
STYLE_OF_PHRASE = {phrase: style for style, phrase in STYLE_PHRASES.items()}
CAPTION = re.compile(rf"^(.+?)(?: on a ([a-z ]+) background)?, ({'|'.join(STYLE_OF_PHRASE)})$")


def composition(text):
    """Read a caption back into objects, relation, background and style, or None for what is no caption."""
    match = CAPTION.match(text)
    if not match:
        return None
    shown, background, phrase = match.groups()
    relation = next((one for one in RELATIONS if f" {one} " in shown), None)
    objects = []
    for part in re.split(rf" {relation} | and |, " if relation else " and |, ", shown):
        words = [word for word in part.split() if word not in ("a", "an")]
        if not words or words[-1] not in KNOWN_CONCEPTS or any(word not in ATTRIBUTES for word in words[:-1]):
            return None
        objects.append(ObjectPhrase(words[-1], words[0] if len(words) > 1 else None))
    return objects, relation, background, STYLE_OF_PHRASE[phrase]


@pytest.fixture(scope="module")
def words():
    return read_words()


@pytest.fixture(scope="module")
def database(words):
    return make_prompts(54_000, 0, words)


def test_there_are_fifty_thousand_prompts_in_at_most_two_and_a_half_megabytes(database, tmp_path):
    write_prompts(database, tmp_path / "prompts.parquet")
    assert len(read_prompts(tmp_path / "prompts.parquet")) >= 50_000
    assert (tmp_path / "prompts.parquet").stat().st_size <= 2_500_000


def test_every_caption_is_written_by_the_vocabulary(database):
    captions = database[database["source"].str.startswith("caption-")]["text"]
    for text in captions[:3000]:
        objects, relation, background, style = composition(text)
        assert caption(objects, relation, background, style) == text


def test_nothing_held_out_is_in_any_row(database):
    assert not database["text"].str.contains(STYLE_PHRASES[HELD_OUT_STYLE], case=False).any()
    readable = 0
    for text in database["text"].str.lower().str.strip().unique():
        found = composition(text)
        if found is not None:
            readable += 1
            objects, relation, _, style = found
            assert scene_split(objects, relation, style) == "train", text
            assert style not in DRAWN_STYLES or all(held_out_set(one.concept) != style for one in objects), text
    assert readable > 25_000


def test_the_test_of_held_out_rows_can_fail():
    held_out = [
        text
        for text in (caption([ObjectPhrase(one, "big")], None, None, "woodcut") for one in CONCEPTS)
        if scene_split(composition(text)[0], None, "woodcut") == "test"
    ]
    assert held_out


def test_captions_are_distinct_and_logs_repeat_them(database):
    captions = database[database["source"].str.startswith("caption-")]["text"]
    assert captions.is_unique
    assert database["text"].duplicated().sum() > 2000


def test_every_kind_of_junk_is_there(database):
    counts = database["source"].value_counts()
    assert set(counts.index) >= {
        "keywords",
        "praised",
        "bare",
        "command",
        "address",
        "emoji",
        "blank",
        "foreign",
        "overlong",
    }
    assert set(counts.index) >= {"duplicate", "respelled", "misspelled", "retried"}
    assert counts.min() >= 150


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(words, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_prompts(make_prompts(400, seed, words), tmp_path / name)
    first, again, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_a_typo_makes_no_other_word_of_the_vocabulary():
    rng = random.Random(0)
    known = {word for concept in CONCEPTS for word in concept.split()}
    for _ in range(300):
        wrong = prompt_junk.misspelled(rng, "a clock")
        assert wrong == "a clock" or wrong.split()[1] not in known


def test_flavours_are_technical_words_without_people(words):
    assert len(words.flavours) > 1000
    assert not [one for one in words.flavours if re.search(r"rutkowski|mucha|klimt|woman|girl|nude|blood", one)]


def test_retried_captions_keep_their_composition():
    text = "a red fox above a dog on a blue background, noto icon"
    rng = random.Random(0)
    for _ in range(50):
        again = prompt_junk.retried(rng, text, ["macro focus", "4k render"])
        assert again.startswith("a red fox above a dog on a ")
        assert ", noto icon" in again
