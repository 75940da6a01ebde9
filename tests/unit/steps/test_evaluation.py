"""The evaluation step through the hook, on tiny real models: what it writes, repeats and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_base import build_tiny_base
from tests.tiny_examiners import write_tiny_examiners
from tests.tiny_images import write_tiny_images
from unifl.core.digest import sha256_path
from unifl.core.errors import DataContractError, ModelLoadError
from unifl.core.step import Metrics, execute

QUICK: dict[str, Any] = {
    "images": 6, "full_steps": 3, "few_steps": 1, "resamples": 20, "sample_prompts": 2, "guidance_scale": 2.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("evaluation")
    base = build_tiny_base(home / "base")
    for number, stage in enumerate(("stage1", "stage2"), start=1):
        tuned = home / stage
        shutil.copytree(base / "unet", tuned / "unet")
        change_weights(tuned / "unet" / "diffusion_pytorch_model.safetensors", 1 + 0.2 * number)
        (tuned / "base.json").write_text(json.dumps({"base_sha256": sha256_path(base), "stage": stage}))
    judges, scorer = write_tiny_examiners(home)
    images = write_tiny_images(home / "images", count=10)
    return {"base_model": base, "stage1": home / "stage1", "stage2": home / "stage2", "judges": judges,
            "scorer": scorer, "images": images}  # fmt: skip


def change_weights(file: Path, factor: float) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: value * factor for name, value in load_file(file).items()}, file, metadata={"format": "pt"})


def evaluate(inputs: dict[str, Path], home: Path, **settings: Any) -> tuple[Metrics, dict[str, Any]]:
    outputs = {"evaluation": home / "evaluation.json", "samples": home / "samples", "report": home / "report.html"}
    metrics = execute("evaluation", inputs, outputs, {**QUICK, **settings})
    return metrics, json.loads(outputs["evaluation"].read_text())


@pytest.fixture(scope="module")
def finished(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Metrics, dict[str, Any], Path]:
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFL_CHECKPOINTS", str(home / "checkpoints"))
        return *evaluate(inputs, home), home


def test_every_model_is_measured_at_both_step_counts(finished: tuple[Metrics, dict[str, Any], Path]) -> None:
    _, evaluation, _ = finished
    cells = [(row["model"], row["steps"]) for row in evaluation["results"]]
    assert cells == [(model, steps) for model in ("base", "stage1", "stage2") for steps in (3, 1)]


def test_every_figure_lies_within_its_interval(finished: tuple[Metrics, dict[str, Any], Path]) -> None:
    _, evaluation, _ = finished
    for row in evaluation["results"]:
        assert {"kid", "fid", "clip_like", "judge_color", "concept_top1"} <= set(row["metrics"])
        for entry in row["metrics"].values():
            assert entry["low"] <= entry["high"]
        for name in ("clip_like", "judge_detail", "concept_top1"):
            entry = row["metrics"][name]
            assert entry["low"] <= entry["value"] <= entry["high"]


def test_styles_that_the_classifier_does_not_know_are_not_scored(
    finished: tuple[Metrics, dict[str, Any], Path],
) -> None:
    _, evaluation, _ = finished
    assert all("style_top1" not in row["metrics"] for row in evaluation["results"])


def test_comparisons_are_paired_and_answer_for_both_stages(finished: tuple[Metrics, dict[str, Any], Path]) -> None:
    _, evaluation, _ = finished
    asked = [(one["model"], one["steps"], one["against"], one["against_steps"]) for one in evaluation["comparisons"]]
    assert ("stage1", 3, "base", 3) in asked
    assert ("stage2", 1, "base", 1) in asked
    kid = {(row["model"], row["steps"]): row["metrics"]["kid"]["value"] for row in evaluation["results"]}
    for one, (model, steps, against, against_steps) in zip(evaluation["comparisons"], asked, strict=True):
        expected = kid[model, steps] - kid[against, against_steps]
        assert one["differences"]["kid"]["value"] == pytest.approx(expected)
        assert -100 <= one["preference_points"]["jury"]["value"] <= 100


def test_metrics_are_flat_numbers_for_tracking(finished: tuple[Metrics, dict[str, Any], Path]) -> None:
    metrics, evaluation, _ = finished
    assert metrics["base_3_kid"] == evaluation["results"][0]["metrics"]["kid"]["value"]
    assert metrics["autoencoder_kid"] == evaluation["floor"]["kid"]["value"]
    assert all(isinstance(value, float) for value in metrics.values())


def test_samples_and_report_are_written(finished: tuple[Metrics, dict[str, Any], Path]) -> None:
    *_, home = finished
    listing = json.loads((home / "samples" / "samples.json").read_text())
    rows = [(row["model"], row["steps"]) for row in listing["rows"]]
    assert rows == [("base", 3), ("stage1", 3), ("base", 1), ("stage2", 1)]
    assert (home / "samples" / "grid.png").is_file()
    assert "<html" in (home / "report.html").read_text()


def test_the_same_evaluation_from_empty_caches_says_the_same(
    finished: tuple[Metrics, dict[str, Any], Path],
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    metrics, _ = evaluate(inputs, tmp_path, batch_size=6)
    assert metrics == finished[0]


def test_a_model_tuned_on_another_base_is_refused(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    shutil.copytree(inputs["stage2"], tmp_path / "stage2")
    (tmp_path / "stage2" / "base.json").write_text(json.dumps({"base_sha256": "0" * 64}))
    with pytest.raises(ModelLoadError, match="tuned on another base"):
        evaluate({**inputs, "stage2": tmp_path / "stage2"}, tmp_path)


def test_images_without_a_test_split_are_refused(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    shard = pq.read_table(inputs["images"] / "images-00000.parquet")
    train = shard.set_column(shard.schema.get_field_index("split"), "split", pa.array(["train"] * len(shard)))
    (tmp_path / "images").mkdir()
    pq.write_table(train, tmp_path / "images" / "images-00000.parquet")
    with pytest.raises(DataContractError, match="test split holds 0 images"):
        evaluate({**inputs, "images": tmp_path / "images"}, tmp_path)
