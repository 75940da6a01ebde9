"""Votes become pairs by weighted majority, and votes that cannot be used are refused with their row."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from unifl.core.errors import DataContractError
from unifl.data.contracts import ImageTable
from unifl.rewards.pairs import majority, pairs_of_split, read_votes

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
