"""The step turns votes and images into a loadable reward model, says what was wrong with its input, and is
reproducible."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from unifl.core.digest import sha256_path
from unifl.core.errors import DataContractError, SettingsError
from unifl.core.step import Metrics, execute
from unifl.data.contracts import ImageTable, open_images
from unifl.rewards.features import FEATURES_VARIABLE
from unifl.rewards.model import RewardModel

SETTINGS: dict[str, Any] = {"epochs": 6, "hidden": 16, "probe_images": 3, "text": False}


@pytest.fixture(autouse=True)
def own_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))


def train(images: Path, preferences: Path, folder: Path, **settings: Any) -> Metrics:
    inputs = {"images": images, "preferences": preferences}
    return execute("reward_model", inputs, {"reward_model": folder}, {**SETTINGS, **settings})


def test_blurred_images_score_lower_on_detail(images_folder: Path, preferences_file: Path, tmp_path: Path) -> None:
    metrics = train(images_folder, preferences_file, tmp_path / "reward", axis="detail")
    details = json.loads((tmp_path / "reward" / "details.json").read_text())
    assert details["response"]["detail"] < 0
    assert metrics["training_pairs"] <= 64
    assert len(details["curve"]) == SETTINGS["epochs"]
    model = RewardModel.load(tmp_path / "reward")
    assert model.config.axis == "detail"
    assert model.config.alpha_low < model.config.alpha < model.config.alpha_high
    images: ImageTable = open_images(images_folder)
    pixels = torch.from_numpy(images.pixels(["image-1"])).permute(0, 3, 1, 2).float() / 255
    blurred = torch.nn.functional.avg_pool2d(pixels, 5, 1, 2)
    assert model.score(pixels).item() > model.score(blurred).item()


def test_the_same_inputs_give_the_same_folder_to_the_bit(
    images_folder: Path, preferences_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):  # the process's own number does not matter: the step brings its own
            torch.set_num_threads(threads)
            # Else the second would read the features that the first has left.
            monkeypatch.setenv(FEATURES_VARIABLE, str(tmp_path / f"features-{threads}"))
            train(images_folder, preferences_file, tmp_path / str(threads), axis="color")
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert sha256_path(tmp_path / "1") == sha256_path(tmp_path / "2")


def test_an_alpha_offset_shifts_the_hinge_of_its_axis_alone(
    images_folder: Path, preferences_file: Path, tmp_path: Path
) -> None:
    plain = train(images_folder, preferences_file, tmp_path / "plain", axis="color", alpha_offset={})
    other = train(images_folder, preferences_file, tmp_path / "other", axis="color", alpha_offset={"detail": -1.0})
    lower = train(images_folder, preferences_file, tmp_path / "lower", axis="color", alpha_offset={"color": -0.5})
    assert other["alpha"] == plain["alpha"]
    assert float(lower["alpha"]) == pytest.approx(float(plain["alpha"]) - 0.5)


def test_a_prompt_is_read_when_text_is_on(images_folder: Path, preferences_file: Path, tmp_path: Path) -> None:
    train(images_folder, preferences_file, tmp_path / "reward", axis="color", text=True, epochs=1)
    model = RewardModel.load(tmp_path / "reward")
    image = torch.rand(1, 3, 64, 64)
    assert model.score(image, ["a red apple"]).item() != model.score(image, ["a blue train"]).item()


def test_no_axis_is_a_settings_error(images_folder: Path, preferences_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="reward_model: the axis is missing"):
        train(images_folder, preferences_file, tmp_path / "reward")


def test_an_unknown_axis_lists_the_known_ones(images_folder: Path, preferences_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'color', 'layout', 'lighting', 'detail' or 'global'"):
        train(images_folder, preferences_file, tmp_path / "reward", axis="beauty")


def test_a_missing_image_leaves_no_folder_behind(images_folder: Path, preferences_file: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(preferences_file)
    frame.loc[12, "image_a"] = "lost"
    frame.to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(DataContractError, match="row 12"):
        train(images_folder, tmp_path / "bad.parquet", tmp_path / "reward", axis="color")
    assert not (tmp_path / "reward").exists()


def test_details_say_how_well_the_probabilities_hold(
    images_folder: Path, preferences_file: Path, tmp_path: Path
) -> None:
    metrics = train(images_folder, preferences_file, tmp_path / "reward", axis="color")
    details = json.loads((tmp_path / "reward" / "details.json").read_text())
    found = details["calibration"]
    config = RewardModel.load(tmp_path / "reward").config
    assert sum(one["pairs"] for one in found["bins"]) == config.validation_pairs
    assert found["ece_low"] <= found["ece"] <= found["ece_high"]
    for axis, value in details["response"].items():
        low, high = details["response_intervals"][axis]
        assert low <= value <= high
    assert config.highest_score is not None
    assert float(metrics["alpha"]) < config.highest_score


def test_a_global_reward_reacts_to_every_axis(images_folder: Path, preferences_file: Path, tmp_path: Path) -> None:
    metrics = train(images_folder, preferences_file, tmp_path / "reward", axis="global", epochs=20)
    details = json.loads((tmp_path / "reward" / "details.json").read_text())
    assert metrics["axis"] == "global"
    assert RewardModel.load(tmp_path / "reward").config.axis == "global"
    assert metrics["training_pairs"] > 200  # of 64 an axis, without ties
    assert {"clashing_hue", "tilt", "dark", "blur"} <= set(details["operations"])
    assert all(change < 0 for change in details["response"].values())


def test_an_alpha_above_every_score_is_refused_and_leaves_no_folder(
    images_folder: Path, preferences_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"above every score seen.*remedy: lower alpha_offset by ") as caught:
        train(images_folder, preferences_file, tmp_path / "reward", axis="color", alpha_offset={"color": 50.0})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "reward").exists()


def test_contradicting_votes_leave_no_folder(images_folder: Path, preferences_file: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(preferences_file)
    frame = pd.concat([frame, frame[:1].assign(preferred=frame["preferred"][0].translate({97: "b", 98: "a"}))])
    frame.to_parquet(tmp_path / "bad.parquet", index=False)
    with pytest.raises(DataContractError, match=rf"votes both ways .*row {len(frame) - 1}\)"):
        train(images_folder, tmp_path / "bad.parquet", tmp_path / "reward", axis="color")
    assert not (tmp_path / "reward").exists()
