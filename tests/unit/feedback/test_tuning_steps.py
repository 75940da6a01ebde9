"""The three tuning steps, chained through the hook on tiny but real models: what a run of the DAG does to the UNet."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from tests.tiny_images import NAMES
from tests.tiny_world import build_world, write_reward
from unifl.core.errors import DataContractError, ModelLoadError, SettingsError
from unifl.core.step import execute
from unifl.data.vocabulary import AXES
from unifl.perception import segmenter

QUICK: dict[str, Any] = {"updates": 2, "batch_size": 2, "steps": 6, "warmup_updates": 0, "learning_rate": 1e-3}
FURTHER = {"lambda_edges": 0.5, "lambda_content": 0.5, "lambda_semantic": 0.5}
EARLY = {"noise_to": 4, "grad_t_max": 2}  # perceptual feedback's part of six steps


@pytest.fixture(scope="module")
def world(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every input of the three steps."""
    return build_world(tmp_path_factory.mktemp("world"), base_folder)


def run(step: str, world: dict[str, Path], output: Path, settings: dict[str, Any], model: Path | None = None) -> dict:
    from unifl.core.step import step_definition

    inputs = {name: world[name] for name in step_definition(step).inputs if name in world}
    if model:
        inputs["model"] = model
    return execute(step, inputs, {"tuned_model": output}, settings)


@pytest.fixture(autouse=True)
def checkpoints_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))


@pytest.fixture(scope="module")
def tuned(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three stages, each from the one before."""
    home = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UNIFL_CHECKPOINTS", str(home / "checkpoints"))
        first, second, third = home / "perceptual", home / "decoupled", home / "adversarial"
        run("perceptual_feedback", world, first, QUICK | EARLY | FURTHER)
        run("decoupled_feedback", world, second, QUICK, first)
        run("adversarial_feedback", world, third, QUICK | {"discriminator_blocks": 1}, second)
    return {"perceptual": first, "decoupled": second, "adversarial": third}


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]


def test_each_stage_leaves_a_model_that_differs_from_the_one_before(
    world: dict[str, Path], tuned: dict[str, Path]
) -> None:
    weights = [
        UNet2DConditionModel.from_pretrained(folder, subfolder="unet").conv_in.weight
        for folder in (world["base_model"], *tuned.values())
    ]
    for before, after in itertools.pairwise(weights):
        assert not torch.equal(before.float(), after)


def test_the_logs_name_every_term_of_the_paper(tuned: dict[str, Path]) -> None:
    assert {"structure", "semantic", "style", "content", "edges", "pefl"} <= log_of(tuned["perceptual"])[0].keys()
    hinges = {f"hinge_{axis}" for axis in AXES} | {f"reward_{axis}" for axis in AXES}
    assert hinges | {"aesthetic"} <= log_of(tuned["decoupled"])[0].keys()
    assert hinges | {"generator", "discriminator", "score_real", "score_fake"} <= log_of(tuned["adversarial"])[0].keys()


def test_a_frozen_discriminator_scores_every_update_alike_on_the_same_images(
    world: dict[str, Path], tuned: dict[str, Path], tmp_path: Path
) -> None:
    frozen = QUICK | {"learning_rate": 1e-12, "batch_size": 4, "updates": 3, "discriminator_blocks": 1}
    moving, still = tmp_path / "moving", tmp_path / "still"
    # The discriminator alone makes the difference: the UNet hardly moves.
    run("adversarial_feedback", world, moving, frozen | {"discriminator_learning_rate": 1e-2}, tuned["decoupled"])
    run("adversarial_feedback", world, still, frozen | {"discriminator_learning_rate": 0}, tuned["decoupled"])
    assert log_of(still)[0]["score_real"] == pytest.approx(log_of(moving)[0]["score_real"])
    assert abs(log_of(still)[2]["score_real"] - log_of(moving)[2]["score_real"]) > 1e-3


def test_logged_sums_are_what_the_paper_says(tuned: dict[str, Path]) -> None:
    first = log_of(tuned["perceptual"])[0]
    assert first["loss"] == pytest.approx(
        first["structure"] + first["style"] + 0.5 * sum(first[name[7:]] for name in FURTHER), rel=1e-5
    )
    second = log_of(tuned["decoupled"])[0]
    assert second["loss"] == pytest.approx(sum(second[f"hinge_{axis}"] for axis in AXES), rel=1e-5)
    third = log_of(tuned["adversarial"])[0]
    assert third["loss"] == pytest.approx(0.05 * third["generator"] + third["aesthetic"], rel=1e-4)


def test_stage_1_can_be_one_sum(world: dict[str, Path], tmp_path: Path) -> None:
    passed = run("perceptual_feedback", world, tmp_path / "passed", QUICK | EARLY | {"updates": 0})
    assert passed == {"updates": 0, "images": 0}
    assert log_of(tmp_path / "passed") == []
    before, after = (
        UNet2DConditionModel.from_pretrained(folder, subfolder="unet").state_dict()
        for folder in (world["base_model"], tmp_path / "passed")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    joint = EARLY | {"lambda_perceptual": 0.5, "diffusion_weight": 2.0, "diffusion_min_snr": 5}
    run("decoupled_feedback", world, tmp_path / "joint", QUICK | joint, tmp_path / "passed")
    first = log_of(tmp_path / "joint")[0]
    assert first["loss"] == pytest.approx(first["aesthetic"] + 0.5 * first["pefl"] + 2 * first["diffusion"], rel=1e-5)
    assert first["pefl"] == pytest.approx(first["structure"] + first["style"], rel=1e-5)


@pytest.mark.parametrize("alone", ["structure", "semantic", "style", "content", "edges"])
def test_each_perceptual_term_can_stand_alone_also_in_views(world: dict[str, Path], tmp_path: Path, alone: str) -> None:
    one = {"lambda_structure": 0, "lambda_style": 0} | {f"lambda_{alone}": 2.0}
    run("perceptual_feedback", world, tmp_path / alone, QUICK | EARLY | one | {"updates": 1, "views": 1})
    (line,) = log_of(tmp_path / alone)
    assert line["loss"] == pytest.approx(2 * line[alone], rel=1e-5)
    assert line["grad_norm"] > 0


def test_a_guard_looks_at_the_tuning_and_leaves_what_it_saw(world: dict[str, Path], tmp_path: Path) -> None:
    watched = {"guard_every": 1, "guard_images": 4, "guard_steps": 2}
    metrics = run("perceptual_feedback", world, tmp_path / "watched", QUICK | EARLY | watched)
    seen = json.loads((tmp_path / "watched" / "guard.json").read_text())
    assert [look["update"] for look in seen["inspections"]] == list(range(metrics["updates"] + 1))
    assert metrics["guard_stopped"] == (seen["stopped_at"] is not None)
    assert metrics["guard_kept_update"] == seen["kept_update"]


def test_the_same_seed_gives_the_same_bytes(world: dict[str, Path], tuned: dict[str, Path], tmp_path: Path) -> None:
    run("decoupled_feedback", world, tmp_path / "again", QUICK, tuned["perceptual"])
    for name in ("unet/diffusion_pytorch_model.safetensors", "training.jsonl", "base.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tuned["decoupled"] / name).read_bytes()


def test_a_model_of_another_base_is_refused(world: dict[str, Path], tuned: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "base"
    shutil.copytree(world["base_model"], other)
    (other / "scheduler" / "note.txt").write_text("another base")
    with pytest.raises(ModelLoadError, match="decoupled_feedback: the model was tuned on another base"):
        run("decoupled_feedback", world | {"base_model": other}, tmp_path / "x", QUICK, tuned["perceptual"])


def test_a_reward_of_another_axis_is_refused(world: dict[str, Path], tuned: dict[str, Path], tmp_path: Path) -> None:
    swapped = world | {"reward_color": world["reward_detail"]}
    with pytest.raises(ModelLoadError, match=r"of the axis detail.*expected a reward model of the axis color"):
        run("decoupled_feedback", swapped, tmp_path / "x", QUICK, tuned["perceptual"])


@pytest.fixture
def one_reward(world: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """The world with one global reward in the place of the four."""
    others = {name: path for name, path in world.items() if not name.startswith("reward_")}
    return others | {"reward_global": write_reward(tmp_path / "global", "global")}


def test_one_global_reward_takes_the_place_of_the_four(
    one_reward: dict[str, Path], tuned: dict[str, Path], tmp_path: Path
) -> None:
    run("decoupled_feedback", one_reward, tmp_path / "model", QUICK | {"lambda_global": 2.0}, tuned["perceptual"])
    line = log_of(tmp_path / "model")[0]
    assert {key for key in line if key.startswith("hinge_")} == {"hinge_global"}
    assert line["aesthetic"] == pytest.approx(2 * line["hinge_global"], rel=1e-5)


def test_a_global_reward_beside_the_four_is_refused(
    world: dict[str, Path], one_reward: dict[str, Path], tuned: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"reward_color, .* beside reward_global.*remedy: leave out"):
        run("decoupled_feedback", world | one_reward, tmp_path / "x", QUICK, tuned["perceptual"])


def test_an_objective_without_its_model_is_refused(
    world: dict[str, Path], tuned: dict[str, Path], tmp_path: Path
) -> None:
    three = {name: path for name, path in world.items() if name != "reward_lighting"}
    with pytest.raises(SettingsError, match=r"decoupled_feedback: no reward_lighting; expected .*remedy"):
        run("decoupled_feedback", three, tmp_path / "x", QUICK, tuned["perceptual"])
    with pytest.raises(SettingsError, match="the input reward_lighting is missing"):
        run("adversarial_feedback", three, tmp_path / "x", QUICK, tuned["decoupled"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match="there is no reward model"):
        run(
            "decoupled_feedback",
            world | {"reward_color": tmp_path / "empty"},
            tmp_path / "x",
            QUICK,
            tuned["perceptual"],
        )


def test_a_reward_of_an_axis_is_no_global_one(
    one_reward: dict[str, Path], world: dict[str, Path], tuned: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match=r"of the axis detail.*expected a reward model of the axis global"):
        run("decoupled_feedback", one_reward | {"reward_global": world["reward_detail"]}, tmp_path / "x", QUICK,
            tuned["perceptual"])  # fmt: skip


def test_an_alpha_above_every_score_is_refused_before_the_first_update(
    world: dict[str, Path], tuned: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(world["reward_color"], tmp_path / "color")
    config = json.loads((tmp_path / "color" / "config.json").read_text())
    (tmp_path / "color" / "config.json").write_text(json.dumps(config | {"highest_score": 1.5}))
    with pytest.raises(
        SettingsError, match=r"decoupled_feedback: alpha of color is 1\.600.*alpha_offset_color by 0\.100"
    ):
        run("decoupled_feedback", world | {"reward_color": tmp_path / "color"}, tmp_path / "x",
            QUICK | {"alpha_offset_color": 0.6}, tuned["perceptual"])  # fmt: skip
    assert not (tmp_path / "x").exists()


def test_a_concept_the_segmenter_lacks_is_refused_before_training(world: dict[str, Path], tmp_path: Path) -> None:
    segmenter.save(segmenter.Segmenter(NAMES[:1], width=8), tmp_path / "segmenter", {})
    with pytest.raises(DataContractError, match="knows no concept"):
        run(
            "perceptual_feedback",
            world | {"segmenter": tmp_path / "segmenter"},
            tmp_path / "x",
            QUICK | {"noise_to": 5},
        )


@pytest.mark.parametrize(
    ("step", "model", "message"),
    [
        ("perceptual_feedback", "segmenter", r"segmenter cannot be loaded.*unifl segmentation_model"),
        ("decoupled_feedback", "reward_color", r"no reward model.*run the step reward_model"),
        ("adversarial_feedback", "reward_detail", r"no reward model.*run the step reward_model"),
    ],
)
def test_an_objective_without_its_model_is_refused_before_the_first_update(
    world: dict[str, Path], tuned: dict[str, Path], tmp_path: Path, step: str, model: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    first = step == "perceptual_feedback"
    settings, before = (QUICK | EARLY, None) if first else (QUICK, tuned["perceptual"])
    with pytest.raises(ModelLoadError, match=message):
        run(step, world | {model: tmp_path / "empty"}, tmp_path / "x", settings, before)
    assert not list((tmp_path / "checkpoints").rglob("training.jsonl"))


@pytest.mark.parametrize(
    ("step", "settings", "message"),
    [
        ("perceptual_feedback", {"noise_to": 20}, "noise_to"),
        ("perceptual_feedback", {"lambda_structure": 0, "lambda_style": 0}, "nothing to learn"),
        ("decoupled_feedback", {"lambda_aesthetic": 0}, "nothing to learn"),
        ("decoupled_feedback", {f"lambda_{axis}": 0 for axis in AXES}, "nothing to learn"),
        ("decoupled_feedback", {"aesthetic_last_stop": 20}, "aesthetic_last_stop"),
        ("adversarial_feedback", {"adversarial_weight": 0}, "adversarial_weight"),
        ("adversarial_feedback", {"real_images": "drawn"}, "real_images"),
        ("adversarial_feedback", {"adversarial_last_stop": 20}, "adversarial_last_stop 20 is not below steps"),
    ],
)
def test_settings_that_teach_nothing_are_refused(
    world: dict[str, Path], tmp_path: Path, step: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        run(step, world, tmp_path / "x", settings)
