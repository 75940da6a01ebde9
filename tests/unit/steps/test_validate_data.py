"""validate_data on tiny real Parquet files: good data passes, every kind of bad data is blocked with file and row."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tiny_images import write_tiny_images
from unifl.core.errors import DataContractError, SettingsError
from unifl.core.step import execute
from unifl.data.contracts import IMAGES, PREFERENCES, PROMPTS
from unifl.data.vocabulary import AXES

Change = Callable[[list[dict[str, Any]]], object]
DERIVATION = json.dumps({"family": "tone", "operation": "dark", "strength": 0.5, "seed": 0})


def prompt_rows() -> list[dict[str, Any]]:
    return [
        {"prompt_id": f"p{n}", "text": f"a red fox number {n}", "source": "test", "licence": "CC0-1.0"}
        for n in range(6)
    ]


def vote_rows() -> list[dict[str, Any]]:
    rows = []
    for axis in AXES:
        for split, image in (("train", "image-0"), ("validation", "image-8")):
            rows += [
                {
                    "pair_id": f"{axis}-{split}",
                    "axis": axis,
                    "prompt": "a fox",
                    "image_a": image,
                    "derivation_a": "",
                    "image_b": image,
                    "derivation_b": DERIVATION,
                    "preferred": "ab"[annotator],
                    "annotator": annotator,
                    "weight": 0.9,
                    "split": split,
                    "synthetic": True,
                }
                for annotator in range(2)
            ]
    return rows


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    images = write_tiny_images(tmp_path / "images")
    rewrite(images / "images-00000.parquet", IMAGES, lambda rows: [row.update(split="validation") for row in rows[8:]])
    pq.write_table(pa.Table.from_pylist(prompt_rows(), PROMPTS), tmp_path / "prompts.parquet")
    pq.write_table(pa.Table.from_pylist(vote_rows(), PREFERENCES), tmp_path / "preferences.parquet")
    return tmp_path


def rewrite(file: Path, schema: pa.Schema, change: Change) -> None:
    rows = pq.read_table(file).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema), file)


def validate_data(data: Path, **settings: Any) -> dict[str, Any]:
    files = {"images": "images", "prompts": "prompts.parquet", "preferences": "preferences.parquet"}
    outputs = {"report": data / "out" / "report.html", "verdict": data / "out" / "verdict.json"}
    execute("validate_data", {name: data / file for name, file in files.items()}, outputs, settings)
    verdict: dict[str, Any] = json.loads(outputs["verdict"].read_text())
    return verdict


def refused(data: Path) -> tuple[str, dict[str, Any]]:
    """The error's line and the verdict that stays all the same."""
    with pytest.raises(DataContractError) as caught:
        validate_data(data)
    return str(caught.value), json.loads((data / "out" / "verdict.json").read_text())


def failed_checks(verdict: dict[str, Any]) -> list[str]:
    return [check["name"] for check in verdict["results"] if not check["passed"] and check["severity"] == "critical"]


class Addresses(HTMLParser):
    """Everything a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in {"src", "href"}]


def test_good_data_passes_with_an_offline_page(data: Path) -> None:
    verdict = validate_data(data)
    assert verdict["passed"] is True
    assert verdict["errors"] == verdict["warnings"] == 0
    assert verdict["checks"] > 50
    page = (data / "out" / "report.html").read_text()
    assert "Data validation: passed" in page
    parser = Addresses()
    parser.feed(page)
    assert parser.found == []


def test_what_curation_mends_is_a_warning_and_blocks_nothing(data: Path) -> None:
    rewrite(data / "prompts.parquet", PROMPTS, lambda rows: rows[5].update(text=""))
    verdict = validate_data(data)
    assert (verdict["passed"], verdict["errors"], verdict["warnings"]) == (True, 0, 1)
    assert "an empty prompt asks for nothing" in (data / "out" / "report.html").read_text()


def test_the_same_data_gives_the_same_bytes(data: Path) -> None:
    validate_data(data)
    first = [(data / "out" / name).read_bytes() for name in ("report.html", "verdict.json")]
    validate_data(data)
    assert [(data / "out" / name).read_bytes() for name in ("report.html", "verdict.json")] == first


@pytest.mark.parametrize(
    ("file", "schema", "change", "check", "row"),
    [
        ("preferences.parquet", PREFERENCES, lambda rows: rows[3].update(axis="mood"), "axis: values to be in set", 3),
        (
            "preferences.parquet",
            PREFERENCES,
            lambda rows: [row.update(derivation_b="") for row in rows[2:4]],
            "the two images of a pair differ",
            2,
        ),
        (
            "preferences.parquet",
            PREFERENCES,
            lambda rows: rows[5].update(image_b="none"),
            "image_b is in the images",
            5,
        ),
        (
            "preferences.parquet",
            PREFERENCES,
            lambda rows: rows[4].update(weight=0.0),
            "weight: values to be between",
            4,
        ),
        (
            "preferences.parquet",
            PREFERENCES,
            lambda rows: rows[1].update(derivation_b="dark"),
            "derivation_b is empty",
            1,
        ),
        (
            "preferences.parquet",
            PREFERENCES,
            lambda rows: rows[1].update(annotator=0),
            "compound columns to be unique",
            0,
        ),
        (
            "preferences.parquet",
            PREFERENCES,
            lambda rows: [row.update(image_a="image-8", image_b="image-8") for row in rows[:2]],
            "image_a is of the pair's own split",
            0,
        ),
        ("prompts.parquet", PROMPTS, lambda rows: rows[2].update(prompt_id="p1"), "prompt_id: values to be unique", 1),
        ("prompts.parquet", PROMPTS, lambda rows: rows[5].update(licence=""), "licence: value lengths to be", 5),
        ("prompts.parquet", PROMPTS, lambda rows: rows[4].update(licence=None), "licence: values to not be null", 4),
        ("images/images-00000.parquet", IMAGES, lambda rows: rows[6].update(image=b"RIFF"), "pictures and masks", 6),
        ("images/images-00000.parquet", IMAGES, lambda rows: rows[7].update(masks=[b"x"] * 2), "pictures and masks", 7),
        (
            "images/images-00000.parquet",
            IMAGES,
            lambda rows: rows[3].update(masks=[]),
            "masks: values to be between",
            3,
        ),
    ],
)
def test_bad_data_is_blocked_with_its_file_and_row(
    data: Path, file: str, schema: pa.Schema, change: Change, check: str, row: int
) -> None:
    rewrite(data / file, schema, change)
    line, verdict = refused(data)
    assert line.startswith("validate_data: ")
    assert file in line
    found = [result for result in verdict["results"] if check in result["name"] and not result["passed"]]
    assert found, failed_checks(verdict)
    assert (found[0]["examples"][0]["file"], found[0]["examples"][0]["row"]) == (str(data / file), row)
    assert found[0]["name"].split(" (")[0] in (data / "out" / "report.html").read_text().replace("&#39;", "'")


def test_a_truncated_file_is_blocked_and_the_rest_is_still_checked(data: Path) -> None:
    file = data / "prompts.parquet"
    file.write_bytes(file.read_bytes()[:100])
    line, verdict = refused(data)
    assert "prompts: keeps its contract" in line
    assert "not readable Parquet" in line
    assert any(check["kind"] == "preferences" and check["passed"] for check in verdict["results"])


def test_a_missing_column_is_blocked(data: Path) -> None:
    table = pq.read_table(data / "preferences.parquet").drop_columns(["weight"])
    pq.write_table(table, data / "preferences.parquet")
    line, verdict = refused(data)
    assert "there is no column 'weight'" in line
    weights = [check for check in verdict["results"] if check["name"].startswith("weight:")]
    assert weights[0]["examples"][0]["value"] == "there is no column 'weight'"


def test_an_axis_without_validation_pairs_is_blocked(data: Path) -> None:
    rewrite(data / "preferences.parquet", PREFERENCES, lambda rows: rows.__delitem__(slice(2, 4)))
    line, _ = refused(data)
    assert "the axis color has pairs to train and to validate on" in line


def test_a_row_of_the_second_shard_is_named_by_its_own_file(data: Path) -> None:
    rows = pq.read_table(data / "images" / "images-00000.parquet").to_pylist()
    second = data / "images" / "images-00001.parquet"
    pq.write_table(
        pa.Table.from_pylist([{**rows[0], "image_id": "other"}, {**rows[0], "image_id": "another"}], IMAGES), second
    )
    rewrite(second, IMAGES, lambda each: each[1].update(image=b"no"))
    line, _ = refused(data)
    assert f"(file {second}, row 1)" in line


def test_the_suites_digest_is_held_when_it_was_submitted(data: Path) -> None:
    with pytest.raises(SettingsError, match="not the submitted ones"):
        validate_data(data, expectations_sha256="0" * 64)
    with pytest.raises(SettingsError, match="does not exist"):
        validate_data(data, expectations="no/such/folder")
