"""Votes become pairs by weighted majority, and votes that cannot be used are refused with their row."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unifl.core.errors import DataContractError
from unifl.data.contracts import ImageTable
from unifl.rewards.pairs import VotedPair, majority, pairs_of_split, read_votes, unlearnable

Change = Callable[[pd.DataFrame], None]


def ballot(*cast: tuple[str, float], pair_id: str = "p") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "pair_id": pair_id, "axis": "color", "prompt": "a dog", "image_a": "x", "derivation_a": "",
                "image_b": "y", "derivation_b": "", "preferred": side, "annotator": number,
                "weight": weight, "split": "train",
            }
            for number, (side, weight) in enumerate(cast)
        ]
    )  # fmt: skip


def test_three_against_two_prefer_the_three_with_a_margin_of_a_fifth() -> None:
    (pair,) = majority(ballot(("b", 1), ("b", 1), ("b", 1), ("a", 1), ("a", 1)))
    assert pair.preferred == ("y", "")
    assert pair.rejected == ("x", "")
    assert pair.margin == pytest.approx(0.2)


def test_a_unanimous_pair_has_margin_one() -> None:
    (pair,) = majority(ballot(("a", 0.9), ("a", 0.7)))
    assert pair.margin == pytest.approx(1.0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.1, 1)), min_size=1, max_size=7))
def test_the_majority_is_that_of_a_count_by_hand(cast: list[tuple[str, float]]) -> None:
    for_a, for_b = (sum(weight for side, weight in cast if side == one) for one in "ab")
    margin = abs(for_a - for_b) / (for_a + for_b)
    pairs = majority(ballot(*cast))
    if margin < 1e-6:
        assert pairs == []
    else:
        assert pairs[0].preferred == (("x", "") if for_a > for_b else ("y", ""))
        assert pairs[0].margin == pytest.approx(margin)


def test_a_heavy_vote_outweighs_two_light_ones() -> None:
    (pair,) = majority(ballot(("a", 1.0), ("b", 0.4), ("b", 0.4)))
    assert pair.preferred == ("x", "")


def test_a_tie_says_nothing_and_is_left_out() -> None:
    assert majority(ballot(("a", 0.9), ("b", 0.9))) == []


def test_pairs_keep_the_order_of_the_file() -> None:
    votes = pd.concat([ballot(("a", 1), pair_id=name) for name in ("z", "a", "m")], ignore_index=True)
    assert [pair.pair_id for pair in majority(votes)] == ["z", "a", "m"]


def test_votes_keep_their_row_in_the_file(preferences_file: Path, images: ImageTable) -> None:
    votes = read_votes(preferences_file, "layout", images)
    whole = pd.read_parquet(preferences_file)
    assert (whole.loc[votes.index, "pair_id"] == votes["pair_id"]).all()
    assert set(votes["axis"]) == {"layout"}


def unknown_image(frame: pd.DataFrame) -> None:
    frame.loc[7, "image_b"] = "nowhere"


def unknown_operation(frame: pd.DataFrame) -> None:
    frame.loc[3, "derivation_a"] = '{"family":"reward","operation":"melt","strength":0.5,"seed":1}'


def one_pair_about_two_prompts(frame: pd.DataFrame) -> None:
    frame.loc[2, "prompt"] = "something else"


@pytest.mark.parametrize(
    ("change", "row", "says"),
    [
        (unknown_image, 7, "'nowhere' is not in the image shards"),
        (unknown_operation, 3, "unknown operation"),
        (one_pair_about_two_prompts, 0, "different images"),
    ],
)
def test_a_bad_vote_is_named_by_file_and_row(
    preferences_file: Path, images: ImageTable, tmp_path: Path, change: Change, row: int, says: str
) -> None:
    frame = pd.read_parquet(preferences_file)
    change(frame)
    bad = tmp_path / "bad.parquet"
    frame.to_parquet(bad)
    with pytest.raises(DataContractError, match=says) as caught:
        read_votes(bad, "color", images)
    assert caught.value.row == row
    assert str(bad) in str(caught.value)


def both_ways_in_one_pair(frame: pd.DataFrame) -> None:
    frame.loc[3, ["annotator", "preferred"]] = [frame.loc[1, "annotator"], other(frame.loc[1, "preferred"])]


def both_ways_in_two_pairs_with_sides_swapped(frame: pd.DataFrame) -> None:
    """Row 8 votes on the pair of row 1 under another name, its sides swapped, for the same side by name."""
    for row in frame.index[frame["pair_id"] == frame.loc[8, "pair_id"]]:
        frame.loc[row, ["prompt", "split", "preferred"]] = frame.loc[1, ["prompt", "split", "preferred"]]
        for mine, theirs in (("a", "b"), ("b", "a")):
            for what in ("image", "derivation"):
                frame.loc[row, f"{what}_{mine}"] = frame.loc[1, f"{what}_{theirs}"]
        frame.loc[row, "annotator"] = 100 + row
    frame.loc[8, "annotator"] = frame.loc[1, "annotator"]


def other(side: str) -> str:
    return {"a": "b", "b": "a"}[side]


@pytest.mark.parametrize(
    ("change", "row"), [(both_ways_in_one_pair, 3), (both_ways_in_two_pairs_with_sides_swapped, 8)]
)
def test_an_annotator_who_votes_both_ways_is_refused_with_both_rows(
    preferences_file: Path, images: ImageTable, tmp_path: Path, change: Change, row: int
) -> None:
    frame = pd.read_parquet(preferences_file)
    change(frame)
    frame.to_parquet(tmp_path / "torn.parquet")
    with pytest.raises(
        DataContractError, match=r"votes both ways on pair .* here and in row 1 .*remedy: keep"
    ) as caught:
        read_votes(tmp_path / "torn.parquet", "color", images)
    assert caught.value.row == row
    assert len(read_votes(tmp_path / "torn.parquet", "layout", images))  # the other axes can be used


def test_an_annotator_may_prefer_another_side_on_another_axis(
    preferences_file: Path, images: ImageTable, tmp_path: Path
) -> None:
    frame = pd.read_parquet(preferences_file)
    pair = frame[frame["pair_id"] == frame.loc[0, "pair_id"]].assign(axis="layout")
    pair["preferred"] = pair["preferred"].map(other)
    pd.concat([frame, pair], ignore_index=True).to_parquet(tmp_path / "both.parquet")
    votes = read_votes(tmp_path / "both.parquet", "global", images)
    shared = [pair for pair in majority(votes) if pair.pair_id == frame.loc[0, "pair_id"]]
    assert [pair.axis for pair in shared] == ["color", "layout"]
    assert shared[0].preferred == shared[1].rejected


def decided(*sides: tuple[str, str], margin: float = 1.0) -> list[VotedPair]:
    return [
        VotedPair(str(number), "color", "a dog", (winner, ""), (loser, ""), margin)
        for number, (winner, loser) in enumerate(sides)
    ]


def test_pairs_that_share_their_preferred_or_their_rejected_image_are_one_class() -> None:
    assert "one rejected image 'x'" in str(unlearnable(decided(("a", "x"), ("b", "x"))))
    assert "one preferred image 'a'" in str(unlearnable(decided(("a", "x"), ("a", "y"))))


def test_pairs_that_take_each_other_back_are_one_class() -> None:
    assert "takes it back" in str(unlearnable(decided(("a", "x"), ("x", "a"), ("b", "y"), ("y", "b"))))
    assert unlearnable(decided(("a", "x"), ("x", "a"), ("b", "y"))) is None
    assert unlearnable([*decided(("a", "x"), ("b", "y")), *decided(("x", "a"), ("y", "b"), margin=0.2)]) is None


def test_a_file_that_names_the_winner_first_everywhere_can_be_learned() -> None:
    assert unlearnable(decided(("a", "x"), ("b", "y"), ("c", "z"))) is None


def test_a_split_of_one_class_is_refused_with_its_row(
    preferences_file: Path, images: ImageTable, tmp_path: Path
) -> None:
    frame = pd.read_parquet(preferences_file)
    rows = frame.index[(frame["axis"] == "color") & (frame["split"] == "validation")]
    blurred = '{"family":"reward","operation":"blur","strength":0.5,"seed":1}'
    for row in rows:  # everybody rejects one blurred image
        frame.loc[row, ["image_b", "derivation_b", "preferred"]] = ["image-0", blurred, "a"]
    frame.to_parquet(tmp_path / "one.parquet")
    votes = read_votes(tmp_path / "one.parquet", "color", images)
    with pytest.raises(
        DataContractError, match=r"one class only in the split validation: .*one rejected image"
    ) as caught:
        pairs_of_split(votes, "validation", None, tmp_path / "one.parquet")
    assert caught.value.row == rows[0]
    assert pairs_of_split(votes, "train", None, tmp_path / "one.parquet")


def test_global_pairs_come_from_the_four_axes_in_turn(preferences_file: Path, images: ImageTable) -> None:
    votes = read_votes(preferences_file, "global", images)
    every = pairs_of_split(votes, "train", None, preferences_file)
    assert [pair.axis for pair in every[:8]] == ["color", "layout", "lighting", "detail"] * 2
    apart = [
        pair
        for axis in ("color", "layout", "lighting", "detail")
        for pair in pairs_of_split(read_votes(preferences_file, axis, images), "train", None, preferences_file)
    ]
    assert sorted(every, key=lambda pair: pair.pair_id) == sorted(apart, key=lambda pair: pair.pair_id)
    limited = pairs_of_split(votes, "train", 40, preferences_file)
    assert [sum(pair.axis == axis for pair in limited) for axis in ("color", "layout", "lighting", "detail")] == [
        10
    ] * 4


def test_a_global_reward_needs_all_four_axes(preferences_file: Path, images: ImageTable, tmp_path: Path) -> None:
    frame = pd.read_parquet(preferences_file)
    frame[frame["axis"] != "lighting"].to_parquet(tmp_path / "three.parquet")
    with pytest.raises(DataContractError, match="not one pair of the axis lighting"):
        read_votes(tmp_path / "three.parquet", "global", images)


def test_an_axis_without_pairs_is_an_error(preferences_file: Path, images: ImageTable, tmp_path: Path) -> None:
    frame = pd.read_parquet(preferences_file)
    frame[frame["axis"] != "detail"].to_parquet(tmp_path / "three.parquet")
    with pytest.raises(DataContractError, match="not one pair of the axis detail"):
        read_votes(tmp_path / "three.parquet", "detail", images)


def test_a_split_without_pairs_is_an_error(preferences_file: Path, images: ImageTable) -> None:
    votes = read_votes(preferences_file, "color", images)
    with pytest.raises(DataContractError, match="split test"):
        pairs_of_split(votes, "test", None, preferences_file)


def test_a_limit_takes_the_first_pairs(preferences_file: Path, images: ImageTable) -> None:
    votes = read_votes(preferences_file, "color", images)
    every = pairs_of_split(votes, "train", None, preferences_file)
    assert pairs_of_split(votes, "train", 10, preferences_file) == every[:10]
