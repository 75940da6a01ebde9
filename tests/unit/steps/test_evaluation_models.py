"""The maintainers' steps that train what judges and what segments, through the hook, on a few drawn scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_icons import write_tiny_icons
from tests.tiny_images import write_tiny_images
from unifl.core.step import execute
from unifl.data.vocabulary import AXES, CONCEPTS
from unifl.evaluation.panel import Panel
from unifl.perception import segmenter


@pytest.fixture(scope="module")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_icons(tmp_path_factory.mktemp("icons"))


@pytest.fixture(autouse=True)
def _own_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))


def test_the_segmenter_is_trained_measured_and_loads_again(icons: Path, tmp_path: Path) -> None:
    settings = {"scenes": 64, "updates": 4, "batch_size": 8, "width": 8, "held_out_scenes": 8, "painted": 0.0}
    metrics = execute("segmentation_model", {"icons": icons}, {"segmenter": tmp_path / "segmenter"}, settings)
    model = segmenter.load(tmp_path / "segmenter")
    assert model.concepts == CONCEPTS
    config = json.loads((tmp_path / "segmenter" / "config.json").read_text())
    assert metrics["validation_mask_ap"] == config["held_out"]["validation"]["mask_ap"]
    assert config["settings"]["updates"] == 4


def test_the_same_seed_trains_the_same_segmenter(icons: Path, tmp_path: Path) -> None:
    settings = {"scenes": 64, "updates": 2, "batch_size": 8, "width": 8, "held_out_scenes": 8, "painted": 0.0}
    for name in ("one", "two"):
        execute("segmentation_model", {"icons": icons}, {"segmenter": tmp_path / name}, settings)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second


def test_all_examiners_are_trained_measured_and_load_again(icons: Path, tmp_path: Path) -> None:
    images = write_tiny_images(tmp_path / "images", count=12, style="noto")
    settings = {
        "scenes": 64, "captioned_scenes": 32, "pairs": 16, "held_out_pairs": 8, "projection_images": 10,
        "projection_dimensions": 4, "judge_passes": 1, "style_passes": 1, "concept_passes": 1, "scorer_passes": 1,
        "hidden": 8, "joint": 8,
    }  # fmt: skip
    outputs = {"judges": tmp_path / "judges", "scorer": tmp_path / "scorer"}
    metrics = execute("judge_models", {"icons": icons, "images": images}, outputs, settings)
    panel = Panel(tmp_path / "judges", tmp_path / "scorer")
    found = panel.examine(np.zeros((2, 64, 64, 3), np.uint8))
    assert found.judges.shape == (2, len(AXES))
    assert found.concepts.shape == (2, len(CONCEPTS))
    assert panel.text_vectors(["a dog"]).shape == (1, 8)
    for axis in AXES:
        stated = panel.figures[axis]["accuracy"]
        assert stated["low"] <= metrics[f"judge_{axis}_accuracy"] <= stated["high"]
    assert {"style_accuracy", "concept_accuracy", "scorer_recall_at_1"} <= set(metrics)
