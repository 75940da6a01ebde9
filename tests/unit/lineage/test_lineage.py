"""Lineage of a run: the whole tree from model to data, and the first broken link by name when a byte changes."""

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.lineage.family import write_unet
from unifl.core.digest import dvc_md5
from unifl.core.errors import LineageError
from unifl.core.record import described
from unifl.lineage.records import read_record, trace
from unifl.lineage.show import print_tree
from unifl.lineage.verify import print_checks, verify_model

MODEL = Path("runs", "dvc", "adversarial_feedback", "tuned_model")
FIRST = Path("runs", "dvc", "perceptual_feedback")


def shown(model: Path) -> str:
    page = io.StringIO()
    print_tree(trace(model), Console(file=page, width=250))
    return page.getvalue()


def verdict(model: Path, *records: Path) -> str:
    page = io.StringIO()
    print_checks(verify_model(model, records), Console(file=page, width=250))
    return page.getvalue()


def test_the_tree_leads_from_the_model_to_every_data_set_and_its_dvc_digest(checkout: Path) -> None:
    page, md5 = shown(MODEL), dvc_md5(Path("data", "images"))
    lines = page.splitlines()
    assert "tuned_model" in lines[0]
    assert "made by adversarial_feedback" in lines[1]
    assert sum("made by perceptual_feedback" in line for line in lines) == 1
    assert sum("data/images" in line and f"dvc md5:{md5}" in line for line in lines) == 2
    assert sum("data/base_model" in line for line in lines) == 2


def test_data_that_differs_from_its_dvc_pointer_is_recorded_as_such(checkout: Path) -> None:
    images = Path("data", "images")
    tracked = dvc_md5(images)
    (images / "images-00000.parquet").write_bytes(b"other pixels")
    assert described("images", images).annotations["dvc"] == {
        "pointer": "data/images.dvc",
        "md5": dvc_md5(images),
        "tracked_md5": tracked,
    }


def test_an_untouched_run_verifies(checkout: Path) -> None:
    assert "0 artifacts not on this disk" in verdict(MODEL)


def test_records_of_a_run_folder_are_enough_to_start_from(checkout: Path) -> None:
    records = checkout / "runs" / "20260101-demo" / "records"
    records.mkdir(parents=True)
    for step in ("perceptual_feedback", "adversarial_feedback", "evaluation"):
        shutil.copy(checkout / "runs" / "dvc" / step / "record.json", records / f"{step}.json")
    assert trace(records.parent).head.uri == MODEL.as_posix()
    assert "lineage holds" in verdict(records.parent)


def test_a_model_elsewhere_verifies_with_named_records(checkout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "far" / "away" / "model"
    shutil.copytree(MODEL, copy)
    with pytest.raises(LineageError, match="no record has this model"):
        verdict(copy)
    assert "lineage holds" in verdict(copy, checkout / "runs")


def test_what_is_gone_from_disk_is_counted_and_not_guessed(checkout: Path) -> None:
    shutil.rmtree(FIRST / "tuned_model")
    assert "2 artifacts not on this disk" in verdict(MODEL)


def test_a_run_whose_outputs_were_pruned_is_still_traced_and_they_are_counted(checkout: Path) -> None:
    run = checkout / "runs" / "20260101-demo"
    (run / "records").mkdir(parents=True)
    for step in ("perceptual_feedback", "adversarial_feedback", "evaluation"):
        shutil.copy(checkout / "runs" / "dvc" / step / "record.json", run / "records" / f"{step}.json")
    output = run / "outputs" / "adversarial_feedback" / "tuned_model"
    output.parent.mkdir(parents=True)
    output.symlink_to("../../../dvc/adversarial_feedback/tuned_model")
    assert "0 artifacts not on this disk" in verdict(run)
    shutil.rmtree(MODEL)
    assert "1 artifacts not on this disk" in verdict(run)
    assert "tuned_model" in shown(run)
    with pytest.raises(LineageError, match="does not exist"):
        verdict(output)


@pytest.mark.parametrize(
    ("file", "link"),
    [
        (MODEL / "training.jsonl", "training.jsonl has changed"),
        (
            FIRST / "tuned_model" / "base.json",
            "first broken link: adversarial_feedback took model: base.json has changed",
        ),
        (
            Path("data/images/images-00000.parquet"),
            "adversarial_feedback took images: images-00000.parquet has changed",
        ),
        (
            Path("data/base_model/model_index.json"),
            "adversarial_feedback took base_model: model_index.json has changed",
        ),
    ],
)
def test_one_changed_byte_breaks_the_link_that_is_nearest_to_the_model(checkout: Path, file: Path, link: str) -> None:
    with open(file, "ab") as stream:
        stream.write(b" ")
    with pytest.raises(LineageError, match=link):
        verdict(MODEL)


def test_an_added_and_a_missing_file_are_named(checkout: Path) -> None:
    (MODEL / "extra").write_text("x")
    with pytest.raises(LineageError, match="extra was added"):
        verdict(MODEL)
    (MODEL / "extra").unlink()
    (MODEL / "base.json").unlink()
    with pytest.raises(LineageError, match=r"base\.json is missing"):
        verdict(MODEL)


def test_a_lost_record_of_a_step_is_a_broken_link(checkout: Path) -> None:
    (FIRST / "record.json").unlink()
    with pytest.raises(LineageError, match="model of adversarial_feedback has a record: no record has SHA-256"):
        verdict(MODEL)


def test_a_rerun_upstream_is_a_broken_link_downstream(checkout: Path) -> None:
    write_unet(FIRST / "tuned_model", 3.0)
    record = json.loads((FIRST / "record.json").read_text())
    record["subject"] = [described("tuned_model", FIRST / "tuned_model").descriptor()]
    (FIRST / "record.json").write_text(json.dumps(record))
    with pytest.raises(LineageError, match="adversarial_feedback took model"):
        verdict(MODEL)


def test_a_record_that_contradicts_itself_is_found(checkout: Path) -> None:
    file = FIRST / "record.json"
    record = json.loads(file.read_text())
    record["subject"][0]["annotations"]["files"]["base.json"] = "0" * 64
    file.write_text(json.dumps(record))
    with pytest.raises(LineageError, match="list of files contradicts its digest"):
        verdict(MODEL)


@pytest.mark.parametrize("text", ["{", "[]", '{"_type": "x"}', "null"])
def test_a_broken_record_is_a_lineage_error(checkout: Path, text: str) -> None:
    (FIRST / "record.json").write_text(text)
    with pytest.raises(LineageError, match=r"perceptual_feedback/record\.json"):
        verdict(MODEL)


def test_a_record_without_a_field_is_a_lineage_error(tmp_path: Path, checkout: Path) -> None:
    record = json.loads((FIRST / "record.json").read_text())
    del record["predicate"]["buildDefinition"]["externalParameters"]["step"]
    (tmp_path / "r.json").write_text(json.dumps(record))
    with pytest.raises(LineageError, match="lacks 'step'"):
        read_record(tmp_path / "r.json")
