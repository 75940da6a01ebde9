"""Synthetic pairs: the less degraded side tends to win, annotators differ, and the axes share their pictures."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tiny_images import write_tiny_images
from unifl.core.errors import DataContractError
from unifl.data.contracts import PREFERENCES, ImageTable, open_images, read_preferences
from unifl.data.degradations import UNTOUCHED, Derivation, combined, parse
from unifl.data.preferences import (
    FLAT_STYLE,
    SHADED_STYLE,
    Annotator,
    Pair,
    annotators,
    make_pairs,
    quality,
    vote_probability,
    votes,
)
from unifl.data.vocabulary import AXES, HELD_OUT_STYLE


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    return open_images(write_tiny_images(tmp_path_factory.mktemp("data") / "images", count=12))


def pairs_of(images: ImageTable, axis: str, count: int = 120) -> list[Pair]:
    return list(make_pairs(images, axis, "train", count, seed=0))


def test_vote_probability_is_bradley_terry_mixed_with_lapses() -> None:
    # 0.05 + 0.9 / (1 + exp(-2)) by hand.
    assert vote_probability(-0.2, -0.4, Annotator(0, 10.0, 0.1)) == pytest.approx(0.842717, abs=1e-6)


def test_equal_sides_are_a_coin_toss() -> None:
    assert vote_probability(-0.3, -0.3, Annotator(0, 9.0, 0.07)) == pytest.approx(0.5)


def test_annotators_differ_in_reliability_and_stay_the_same() -> None:
    panel = annotators(5, seed=0)
    assert len({one.weight for one in panel}) > 1
    assert len({one.discernment for one in panel}) == 5
    assert panel == annotators(5, seed=0)


@pytest.mark.parametrize("axis", AXES)
def test_no_pair_shows_one_image_twice(images: ImageTable, axis: str) -> None:
    for pair in pairs_of(images, axis):
        assert (pair.a.image_id, pair.a.derivation) != (pair.b.image_id, pair.b.derivation)
        assert pair.a.quality != pair.b.quality


def test_pairs_are_of_all_kinds(images: ImageTable) -> None:
    pairs = pairs_of(images, "color")
    both = [(parse(pair.a.derivation), parse(pair.b.derivation)) for pair in pairs]
    assert any(a is None or b is None for a, b in both)
    assert any(a and b and a.axis == b.axis == "color" for a, b in both)
    assert any((a and a.also) or (b and b.also) for a, b in both)
    assert any(pair.a.image_id != pair.b.image_id for pair in pairs)


def test_two_images_of_a_pair_share_the_concept_of_its_prompt(images: ImageTable) -> None:
    concepts = dict(zip(images.frame["image_id"], images.frame["concepts"], strict=True))
    for pair in pairs_of(images, "detail"):
        if pair.a.image_id != pair.b.image_id:
            shared = set(concepts[pair.a.image_id]) & set(concepts[pair.b.image_id])
            assert any(concept in pair.prompt for concept in shared)


def test_a_distraction_does_not_change_the_quality() -> None:
    blurred = str(Derivation("reward", "blur", 0.9, 1))
    pale = str(Derivation("reward", "pale", 0.4, 1))
    assert quality(combined(pale, blurred), "color") == -0.4
    assert quality(combined(pale, blurred), "detail") == -0.9
    assert quality(combined(pale, blurred), "layout") == 0


def test_distractions_favour_neither_side(images: ImageTable) -> None:
    def distracted(derivation: str) -> bool:
        parsed = parse(derivation)
        return parsed is not None and (parsed.also is not None or parsed.axis != "color")

    better, worse = 0, 0
    for pair in pairs_of(images, "color", 600):
        sides = sorted((pair.a, pair.b), key=lambda side: side.quality)
        worse += distracted(sides[0].derivation)
        better += distracted(sides[1].derivation)
    assert better + worse > 150
    assert 0.8 < better / worse < 1.25


def test_flat_and_shaded_twins_are_pairs_of_lighting_alone(tmp_path: Path) -> None:
    images = open_images(write_tiny_images(tmp_path / "images", count=26, style=[FLAT_STYLE, "noto", SHADED_STYLE]))
    styles = dict(zip(images.frame["image_id"], images.frame["style"], strict=True))
    concepts = dict(zip(images.frame["image_id"], images.frame["concepts"], strict=True))

    def twins(axis: str) -> list[Pair]:
        return [pair for pair in pairs_of(images, axis, 400) if pair.a.derivation == pair.b.derivation == UNTOUCHED]

    found = twins("lighting")
    assert len(found) > 10
    for pair in found:
        better, worse = (pair.a, pair.b) if pair.a.quality > pair.b.quality else (pair.b, pair.a)
        assert (styles[better.image_id], styles[worse.image_id]) == (SHADED_STYLE, FLAT_STYLE)
        assert set(concepts[better.image_id]) & set(concepts[worse.image_id])
        assert SHADED_STYLE not in pair.prompt
    assert len({(pair.a.image_id, pair.b.image_id) for pair in found}) == len(found)
    assert {pair.a.image_id < pair.b.image_id for pair in found} == {True, False}  # neither side gives it away
    assert not twins("color")


def test_axes_share_the_images_that_their_pairs_show(images: ImageTable) -> None:
    shown = {axis: [{p.a.image_id, p.b.image_id} for p in pairs_of(images, axis, 40)] for axis in AXES}
    assert shown["color"] == shown["layout"] == shown["lighting"] == shown["detail"]


def test_more_pairs_leave_the_first_ones_as_they_were(images: ImageTable) -> None:
    assert pairs_of(images, "layout", 20) == pairs_of(images, "layout", 40)[:20]


def test_votes_fill_the_contract_and_favour_the_better_side(images: ImageTable, tmp_path: Path) -> None:
    pairs = pairs_of(images, "lighting")
    rows = votes(pairs, annotators(5, seed=0), seed=0)
    file = tmp_path / "preferences.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=PREFERENCES), file)
    frame = read_preferences(file, "lighting")
    assert len(frame) == 5 * len(pairs)
    assert frame["synthetic"].all()
    better = {pair.pair_id: "a" if pair.a.quality > pair.b.quality else "b" for pair in pairs}
    agreement = np.mean([row.preferred == better[row.pair_id] for row in frame.itertuples()])
    assert 0.8 < agreement < 0.99  # noisy, and far from chance


def test_the_held_out_style_is_in_no_pair(tmp_path: Path) -> None:
    images = open_images(write_tiny_images(tmp_path / "images", style=HELD_OUT_STYLE))
    with pytest.raises(DataContractError, match=f"other than {HELD_OUT_STYLE}"):
        pairs_of(images, "color")
