"""Packaged weights are used only when they are the very files that were examined."""

from pathlib import Path

import pytest

from unifl.core.errors import ModelLoadError
from unifl.perception import packages
from unifl.perception.packages import MODELS, PackagedModel, model_path, verified


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_packaged_model_has_its_digest(name: str) -> None:
    assert model_path(name).exists()


def test_every_packaged_model_states_a_licence_that_allows_use() -> None:
    assert {model.licence for model in MODELS.values()} <= {"MIT", "Apache-2.0"}


def test_a_wrong_checksum_names_file_and_both_digests() -> None:
    model = MODELS["minilm-config"]
    with pytest.raises(ModelLoadError) as caught:
        verified(model.module, model.file, "0" * 64)
    line = str(caught.value)
    assert "config.json" in line
    assert "0" * 64 in line
    assert model.sha256 in line
    assert "\n" not in line


def test_a_missing_file_names_the_remedy() -> None:
    with pytest.raises(ModelLoadError, match="reinstall"):
        verified(MODELS["minilm-config"].module, "model/nothing.bin", "0" * 64)


def test_a_package_that_is_not_installed_says_so() -> None:
    with pytest.raises(ModelLoadError, match="not installed"):
        verified("unifl_has_no_such_package", "weights.bin", "0" * 64)


def test_the_second_version_of_a_package_is_looked_for_beside_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "share" / "unifl" / "some-model-2.0" / "some_model"
    target.mkdir(parents=True)
    (target / "weights.bin").write_bytes(b"weights")
    digest = "9bc8d6af33c4b4a2b0a0ef0ae8ad2a1a4f8cdb0ae3df9c4a54bd3d1b4b1e4d2f"
    model = PackagedModel("some-model", "2.0", "some_model", "weights.bin", digest, "MIT", "a test", "some-model-2.0")
    monkeypatch.setitem(packages.MODELS, "some", model)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(ModelLoadError, match=f"expected sha256 {digest}"):
        model_path("some")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ModelLoadError, match="efficientnet-lite0"):
        model_path("resnet")
