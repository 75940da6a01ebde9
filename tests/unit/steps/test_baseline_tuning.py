"""The step that runs any baseline: through the hook on tiny but real models, and what it refuses before loading one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from tests.tiny_base import build_tiny_base
from tests.tiny_preferences import write_tiny_preferences
from tests.tiny_world import build_world, write_reward
from unifl.core.errors import ModelLoadError, SettingsError
from unifl.core.settings import load_preset
from unifl.core.step import execute
from unifl.data.contracts import open_images
from unifl.steps.baseline_tuning import NEEDED_INPUTS, STEP, BaselineTuningSettings

QUICK: dict[str, Any] = {"updates": 2, "batch_size": 2, "steps": 4, "warmup_updates": 0, "learning_rate": 1e-3}
METHODS = tuple(NEEDED_INPUTS)
PRESETS = Path(__file__).resolve().parents[3] / "benchmarks" / "presets"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every input of the step."""
    home = tmp_path_factory.mktemp("world")
    found = build_world(home, build_tiny_base(home / "base"))
    found["preferences"] = write_tiny_preferences(home / "preferences.parquet", open_images(found["images"]), pairs=4)
    found["reward_global"] = write_reward(home / "global", "global")
    return {name: found[name] for name in STEP.inputs}


@pytest.fixture(autouse=True)
def checkpoints_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))


def run(inputs: dict[str, Path], output: Path, method: str, **settings: Any) -> dict[str, Any]:
    return execute(
        STEP.name, inputs, {"tuned_model": output}, QUICK | {"method": method, "refl_last_stop": 1} | settings
    )


@pytest.mark.parametrize("method", METHODS)
def test_each_method_needs_no_more_than_it_says_and_leaves_a_tuned_model(
    world: dict[str, Path], tmp_path: Path, method: str
) -> None:
    given = {name: world[name] for name in ("base_model", "images", *NEEDED_INPUTS[method])}  # type: ignore[index]
    metrics = run(given, tmp_path / "tuned", method)
    before = UNet2DConditionModel.from_pretrained(world["base_model"], subfolder="unet")
    after = UNet2DConditionModel.from_pretrained(tmp_path / "tuned", subfolder="unet")
    assert not torch.equal(before.conv_in.weight.float(), after.conv_in.weight)
    assert json.loads((tmp_path / "tuned" / "base.json").read_text())["stage"] == f"baseline_{method}"
    networks = {"diffusion": 0, "refl": 0, "dpo": 1, "lcm": 2, "teacher_adversarial": 1}[method]
    assert metrics["teacher_parameters"] == networks * sum(value.numel() for value in before.parameters())
    lines = [json.loads(line) for line in (tmp_path / "tuned" / "training.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [1, 2]


def test_refl_is_a_hinge_at_two_and_the_diffusion_loss(world: dict[str, Path], tmp_path: Path) -> None:
    run(world, tmp_path / "tuned", "refl", refl_weight=0.5, diffusion_weight=2.0)
    first = json.loads((tmp_path / "tuned" / "training.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.5 * first["hinge_global"] + 2 * first["diffusion"], rel=1e-5)
    assert first["hinge_global"] >= 2 - first["reward_global"] - 1e-4  # equal where no score is above 2
    assert "hinge_color" not in first


def test_lcm_is_guarded_by_pictures_of_its_own_sampler(world: dict[str, Path], tmp_path: Path) -> None:
    metrics = run(world, tmp_path / "tuned", "lcm", guard_every=1, guard_images=4, guard_steps=2)
    assert metrics["guard_kept_update"] in (0, 1, 2)
    assert (tmp_path / "tuned" / "guard.json").is_file()


@pytest.mark.parametrize("method", [method for method in METHODS if NEEDED_INPUTS[method]])
def test_a_method_without_its_input_is_refused_before_anything_is_loaded(
    world: dict[str, Path], tmp_path: Path, method: str
) -> None:
    (tmp_path / "nothing").mkdir()  # a base model that could not be loaded
    given = {"base_model": tmp_path / "nothing", "images": world["images"]}
    with pytest.raises(SettingsError) as refused:
        run(given, tmp_path / "tuned", method)
    line = str(refused.value)
    assert f"baseline_tuning: the method {method} has no {NEEDED_INPUTS[method][0]}" in line  # type: ignore[index]
    assert f"give --{NEEDED_INPUTS[method][0].replace('_', '-')}" in line  # type: ignore[index]
    assert "\n" not in line


def test_a_reward_of_one_axis_is_no_global_one(world: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"of the axis color.*expected a reward model of the axis global"):
        run(world | {"reward_global": write_reward(tmp_path / "color", "color")}, tmp_path / "tuned", "refl")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "method is missing"),
        ({"method": "turbo"}, "method"),
        ({"method": "diffusion", "diffusion_weight": 0}, "nothing to learn"),
        ({"method": "refl", "steps": 4, "refl_last_stop": 4}, "refl_last_stop 4 is not below steps 4"),
        ({"method": "lcm", "lcm_solver_steps": 51}, "lcm_solver_steps"),
        ({"method": "dpo", "dpo_beta": 0}, "dpo_beta"),
    ],
)
def test_wrong_settings_are_refused(
    world: dict[str, Path], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        execute(STEP.name, world, {"tuned_model": tmp_path / "tuned"}, settings)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_a_preset_for_the_embedded_base(method: str) -> None:
    loaded = load_preset(PRESETS / f"baseline_{method}.yaml")
    assert list(loaded) == [STEP.name]
    settings = loaded[STEP.name]
    assert isinstance(settings, BaselineTuningSettings)
    assert settings.method == method
