"""Features are computed once for the same content, however many axes ask for them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from unifl.data.contracts import ImageTable
from unifl.data.degradations import Derivation
from unifl.perception.efficientnet import EfficientNetLite
from unifl.rewards.features import feature_width, features_of_references, image_features
from unifl.rewards.model import shared_trunk

BLURRED = str(Derivation("reward", "blur", 0.5, 1))
SIDES = [("image-0", ""), ("image-0", BLURRED), ("image-1", "")]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIFL_FEATURES", str(tmp_path))
    return tmp_path


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that the trunk really ran."""
    sizes: list[int] = []
    stages = EfficientNetLite.stages

    def counted(self: EfficientNetLite, images: torch.Tensor, size: int | None = 96) -> list[torch.Tensor]:
        sizes.append(len(images))
        return stages(self, images, size)

    monkeypatch.setattr(EfficientNetLite, "stages", counted)
    return sizes


def test_features_equal_the_trunk_on_the_derived_pixels(images: ImageTable, empty_cache: Path) -> None:
    trunk = shared_trunk("lite0")
    found = features_of_references(SIDES, images, trunk, "test")
    pixels = torch.from_numpy(images.pixels(["image-1"])).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected = image_features(trunk, pixels)[0].numpy()
    assert found["image-1", ""].shape == (feature_width(trunk),)
    assert np.corrcoef(found["image-1", ""].astype(float), expected)[0, 1] > 0.999


def test_a_second_request_runs_the_trunk_on_new_sides_only(
    images: ImageTable, empty_cache: Path, batches: list[int]
) -> None:
    trunk = shared_trunk("lite0")
    first = features_of_references(SIDES, images, trunk, "color")
    second = features_of_references([*SIDES, ("image-2", "")], images, trunk, "layout")
    assert len(batches) == 2  # one block for the first three sides, one for the fourth
    assert all(np.array_equal(first[side], second[side]) for side in SIDES)


def test_an_unreadable_cache_file_is_said_and_computed_anew(
    images: ImageTable, empty_cache: Path, batches: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    trunk = shared_trunk("lite0")
    first = features_of_references(SIDES, images, trunk, "test")
    (file,) = empty_cache.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    again = features_of_references(SIDES, images, trunk, "test")
    assert "computed anew" in capsys.readouterr().err
    assert len(batches) == 2
    assert all(np.array_equal(first[side], again[side]) for side in SIDES)


def test_features_do_not_depend_on_what_else_was_missing(
    images: ImageTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = shared_trunk("lite0")
    monkeypatch.setenv("UNIFL_FEATURES", str(tmp_path / "together"))
    together = features_of_references(SIDES, images, trunk, "test")
    monkeypatch.setenv("UNIFL_FEATURES", str(tmp_path / "apart"))
    for side in reversed(SIDES):
        alone = features_of_references([side], images, trunk, "test")
        assert np.array_equal(alone[side], together[side])
