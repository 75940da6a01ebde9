"""Each way a shared file can be wrong is refused with the file, the row, what was expected and the remedy."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unifl.core.errors import DataContractError
from unifl.data.contracts import (
    IMAGES,
    PREFERENCES,
    PROMPTS,
    decode_mask,
    encode_mask,
    open_images,
    read_preferences,
    read_prompts,
)


def write(path: Path, rows: list[dict[str, object]], schema: pa.Schema) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def prompt(number: int, **changes: object) -> dict[str, object]:
    return {"prompt_id": f"p{number}", "text": "a dog", "source": "test", "licence": "CC0-1.0"} | changes


def vote(**changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "pair_id": "x", "axis": "color", "prompt": "a dog", "image_a": "i", "derivation_a": "", "image_b": "j",
        "derivation_b": "", "preferred": "a", "annotator": 0, "weight": 1.0, "split": "train", "synthetic": True,
    }  # fmt: skip
    return row | changes


def image(number: int, **changes: object) -> dict[str, object]:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), number, np.uint8)).save(buffer, "PNG")
    row: dict[str, object] = {
        "image_id": f"i{number}", "image": buffer.getvalue(), "caption": "a dog", "style": "noto", "concepts": ["dog"],
        "attributes": [], "relation": None, "background": "blue", "masks": [encode_mask(np.ones((64, 64), bool))],
        "split": "train", "source": "s", "licence": "CC0-1.0", "attribution": "nobody",
    }  # fmt: skip
    return row | changes


def test_a_whole_prompts_file_is_read(tmp_path: Path) -> None:
    frame = read_prompts(write(tmp_path / "p.parquet", [prompt(0), prompt(1)], PROMPTS))
    assert frame["prompt_id"].tolist() == ["p0", "p1"]


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataContractError, match=r"does not exist.*nowhere\.parquet.*dvc pull"):
        read_prompts(tmp_path / "nowhere.parquet")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", [prompt(0)], PROMPTS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataContractError, match="not readable Parquet"):
        read_prompts(path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt_id": ["a"], "text": ["b"], "source": ["c"]}), path)
    with pytest.raises(DataContractError, match="column 'licence' is missing"):
        read_prompts(path)


def test_a_column_of_another_type_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt_id": ["a"], "text": [1], "source": ["c"], "licence": ["d"]}), path)
    with pytest.raises(DataContractError, match=r"column 'text' has the type int64.*expected string"):
        read_prompts(path)


def test_dictionary_columns_are_strings_too(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([prompt(0)], schema=PROMPTS)
    position = table.schema.get_field_index("source")
    pq.write_table(
        table.set_column(position, "source", table.column("source").dictionary_encode()), tmp_path / "p.parquet"
    )
    assert len(read_prompts(tmp_path / "p.parquet")) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "not one prompt"),
        ([prompt(0), prompt(1, text=None)], r"column 'text' is empty.*row 1"),
        ([prompt(0), prompt(1), prompt(0)], r"'p0' occurs twice.*row 2"),
    ],
)
def test_bad_prompt_rows_are_located(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    with pytest.raises(DataContractError, match=message):
        read_prompts(write(tmp_path / "p.parquet", rows, PROMPTS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": "taste"}, r"axis is 'taste'.*row 1.*color, layout, lighting, detail"),
        ({"preferred": "c"}, r"preferred is 'c'.*row 1"),
        ({"split": "all"}, r"split is 'all'.*row 1"),
        ({"weight": 0.0}, r"weight is .*0\.0.*row 1"),
        ({"image_b": "i"}, r"two images of pair 'x' are one.*row 1"),
    ],
)
def test_bad_votes_are_located(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write(tmp_path / "v.parquet", [vote(), vote(**changes)], PREFERENCES)
    with pytest.raises(DataContractError, match=message):
        read_preferences(path)


def test_an_unknown_axis_is_refused_before_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataContractError, match="axis 'taste' is unknown"):
        read_preferences(tmp_path / "nowhere.parquet", "taste")


def test_an_axis_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataContractError, match="not one pair of the axis detail"):
        read_preferences(write(tmp_path / "v.parquet", [vote()], PREFERENCES), "detail")


def test_shards_are_read_together_and_pixels_on_demand(tmp_path: Path) -> None:
    write(tmp_path / "images-00000.parquet", [image(0), image(1)], IMAGES)
    write(tmp_path / "images-00001.parquet", [image(2, split="test")], IMAGES)
    table = open_images(tmp_path)
    assert table.pixels(["i2", "i0"])[:, 0, 0, 0].tolist() == [2, 0]
    assert table.masks("i1").all()
    assert table.split("test")["image_id"].tolist() == ["i2"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([image(0, masks=[])], r"0 masks for 1 concepts.*row 0"),
        ([image(0), image(0)], r"'i0' occurs twice.*row 1"),
        ([image(0, split="x")], r"split is 'x'"),
    ],
)
def test_bad_image_rows_are_located(tmp_path: Path, rows: list[dict[str, object]], message: str) -> None:
    write(tmp_path / "images-00000.parquet", rows, IMAGES)
    with pytest.raises(DataContractError, match=message):
        open_images(tmp_path)


def test_bytes_that_are_no_picture_are_refused_with_their_row(tmp_path: Path) -> None:
    write(tmp_path / "images-00000.parquet", [image(0), image(1, image=b"no picture")], IMAGES)
    with pytest.raises(DataContractError, match=r"'i1' cannot be decoded.*row 1"):
        open_images(tmp_path).pixels(["i1"])


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataContractError, match="no images-"):
        open_images(tmp_path)


def test_masks_survive_their_encoding() -> None:
    mask = np.random.default_rng(0).random((64, 64)) > 0.5
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)
