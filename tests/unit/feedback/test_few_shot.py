"""The two steps of few-shot adaptation through the hook, on a tiny but real base: what they give and refuse."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from tests.tiny_base import CAPTIONS, build_tiny_base
from tests.tiny_images import write_tiny_images
from unifl.core.errors import ModelLoadError, SettingsError
from unifl.core.step import execute
from unifl.data.contracts import open_images
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.feedback.few_shot import RECOLORINGS, FewImages, Recoloring, StyleTasks, read_start, with_phrase
from unifl.feedback.few_shot_settings import FewShotStartSettings
from unifl.feedback.parameters import TrainableParameters

QUICK: dict[str, Any] = {"images": 3, "batch_size": 2, "updates": 2, "lora_rank": 2, "learning_rate": 1e-2}
OUTER = QUICK | {"rounds": 2, "tasks_a_round": 2}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_images(
        tmp_path_factory.mktemp("data") / "images", count=22, style=("noto", "woodcut", "watercolor", "crimson")
    )


@pytest.fixture(autouse=True)
def checkpoints_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))


@pytest.fixture(scope="module")
def start(base_folder: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("start")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("UNIFL_CHECKPOINTS", str(home / "checkpoints"))
        make_start(base_folder, images, home / "start", {"left_out": ["watercolor"]})
    return home / "start"


def make_start(base: Path, images: Path, output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    return execute("few_shot_start", {"base_model": base, "images": images}, {"start": output}, OUTER | settings)


def adapt(
    base: Path, images: Path, output: Path, settings: dict[str, Any], start: Path | None = None
) -> dict[str, Any]:
    inputs = {"base_model": base, "images": images} | ({"start": start} if start else {})
    return execute("style_adaptation", inputs, {"tuned_model": output}, QUICK | settings)


def test_a_start_says_how_it_was_made_and_leaves_a_line_a_task(start: Path) -> None:
    facts = json.loads((start / "start.json").read_text())
    assert facts["styles"] == ["crimson", "noto", "woodcut"]
    assert (facts["phrase"], facts["lora_rank"]) == ("new style", 2)
    log = [json.loads(line) for line in (start / "training.jsonl").read_text().splitlines()]
    assert [(line["round"], line["task"]) for line in log] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert len({line["style"].split()[0] for line in log[:2]}) == 2


def test_the_same_seed_gives_the_same_start(base_folder: Path, images: Path, start: Path, tmp_path: Path) -> None:
    make_start(base_folder, images, tmp_path / "again", {"left_out": ["watercolor"]})
    for name in ("lora/pytorch_lora_weights.safetensors", "training.jsonl", "start.json"):
        assert (tmp_path / "again" / name).read_bytes() == (start / name).read_bytes()


def test_a_start_comes_back_as_it_was_saved_and_loads_in_plain_diffusers(base_folder: Path, start: Path) -> None:
    adapter = DiffusionAdapter.load(base_folder)
    parameters = TrainableParameters(adapter, 2, ema_decay=0)
    parameters.start_from(read_start(parameters, start))
    latents = torch.randn(2, *adapter.latent_shape, generator=torch.Generator().manual_seed(0))
    timesteps, condition = torch.tensor([900, 100]), adapter.encode_text(CAPTIONS[:2])
    plain = StableDiffusionPipeline.from_pretrained(base_folder, local_files_only=True)
    with torch.no_grad():
        before = plain.unet(latents, timesteps, condition).sample
        plain.load_lora_weights(start / "lora")
        ours = adapter.predict_noise(latents, timesteps, condition)
        torch.testing.assert_close(plain.unet(latents, timesteps, condition).sample, ours, rtol=1e-4, atol=1e-4)
    assert float((ours - before).abs().max()) > 1e-4


def test_an_adaptation_begins_where_its_start_ended(
    base_folder: Path, images: Path, start: Path, tmp_path: Path
) -> None:
    """With a rate of next to nothing the tuned model is the base with the start."""
    adapt(base_folder, images, tmp_path / "tuned", {"style": "watercolor", "learning_rate": 1e-12}, start)
    adapter = DiffusionAdapter.load(base_folder)
    parameters = TrainableParameters(adapter, 2, ema_decay=0)
    parameters.start_from(read_start(parameters, start))
    parameters.save(tmp_path / "expected")
    found, expected, base = (
        UNet2DConditionModel.from_pretrained(folder, subfolder="unet").state_dict()
        for folder in (tmp_path / "tuned", tmp_path / "expected", base_folder)
    )
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-7)
    assert any(not torch.allclose(value, base[name], atol=1e-6) for name, value in found.items())


def test_without_a_start_the_images_keep_their_own_captions(base_folder: Path, images: Path, tmp_path: Path) -> None:
    metrics = adapt(base_folder, images, tmp_path / "tuned", {"style": "watercolor"})
    assert metrics["updates"] == 2
    assert len((tmp_path / "tuned" / "training.jsonl").read_text().splitlines()) == 2


def test_a_style_that_there_is_not_is_answered_with_the_nearest(
    base_folder: Path, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"of the style 'watercolour' \(did you mean watercolor\?\)"):
        adapt(base_folder, images, tmp_path / "x", {"style": "watercolour"})
    with pytest.raises(SettingsError, match=r"of the style 'wodcut' \(did you mean woodcut\?\)"):
        make_start(base_folder, images, tmp_path / "x", {"left_out": ["wodcut"]})


def test_more_images_than_there_are_is_refused(base_folder: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"6 images of the style 'noto' are asked for, and there are 5.*images=5"):
        adapt(base_folder, images, tmp_path / "x", {"style": "noto", "images": 6})
    with pytest.raises(SettingsError, match=r"6 images a task are asked for, and there are 5 of crimson.*images=5"):
        make_start(base_folder, images, tmp_path / "x", {"images": 6})


def test_a_style_must_be_named(base_folder: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"the style is missing.*crimson\|noto\|watercolor\|woodcut"):
        adapt(base_folder, images, tmp_path / "x", {})


def test_one_style_alone_makes_no_start(base_folder: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="over several styles, and 1 are left"):
        make_start(base_folder, images, tmp_path / "x", {"styles": ["noto"]})


def test_a_start_of_another_rank_is_refused(base_folder: Path, images: Path, start: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"a LoRA of rank 2.*expected rank 4.*set lora_rank=2"):
        adapt(base_folder, images, tmp_path / "x", {"style": "watercolor", "lora_rank": 4}, start)


def test_a_start_of_another_base_is_refused(images: Path, start: Path, tmp_path: Path) -> None:
    other = build_tiny_base(tmp_path / "base")
    (other / "scheduler" / "note.txt").write_text("another base")
    with pytest.raises(ModelLoadError, match="style_adaptation: the model was tuned on another base"):
        adapt(other, images, tmp_path / "x", {"style": "watercolor"}, start)


def test_a_folder_that_is_no_start_is_refused(base_folder: Path, images: Path, start: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="not the folder of a few-shot start"):
        adapt(base_folder, images, tmp_path / "x", {"style": "watercolor"}, images)
    broken = shutil.copytree(start, tmp_path / "broken")
    (broken / "lora" / "pytorch_lora_weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelLoadError, match="the LoRA is unreadable"):
        adapt(base_folder, images, tmp_path / "x", {"style": "watercolor"}, broken)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema_decay": 0.9}, "ema_decay must be 0"),
        ({"guard_every": 5}, "guard_every must be 0"),
        ({"images": 0}, "images"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    base_folder: Path, images: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        make_start(base_folder, images, tmp_path / "x", settings)


@pytest.mark.parametrize(
    ("caption", "style", "expected"),
    [
        ("a dog, woodcut print", "woodcut", "a dog, new style"),
        ("a dog and a cat", "woodcut", "a dog and a cat, new style"),
        ("a dog, by my aunt", "by my aunt", "a dog, new style"),
    ],
)
def test_the_phrase_takes_the_place_of_the_style_s_own_words(caption: str, style: str, expected: str) -> None:
    assert with_phrase(caption, style, "new style") == expected


def test_recolorings_are_eleven_different_ones_and_keep_values_in_range() -> None:
    image = torch.tensor([0.1, 0.5, 0.7]).view(1, 3, 1, 1)
    seen = {tuple(round(value, 3) for value in one(image).flatten().tolist()) for one in RECOLORINGS}
    assert len(seen) == 11
    assert (0.1, 0.5, 0.7) not in seen
    assert Recoloring((2, 1, 0), negative=True)(image).flatten().tolist() == pytest.approx([0.3, 0.5, 0.9])
    assert (Recoloring().name, Recoloring((2, 1, 0), negative=True).name) == ("", "-bgr")


def test_tasks_recolor_paintings_only_and_replace_every_style_phrase(images: Path) -> None:
    settings = FewShotStartSettings(**OUTER | {"recolor": 1.0})
    tasks = StyleTasks(open_images(images), settings)
    seen = set()
    for done in range(10):
        for task in range(2):
            (term,), about = tasks(done, task)
            assert isinstance(term.batches, FewImages)
            assert all(caption.endswith(", new style") for caption in term.batches.captions)
            seen.add(str(about["style"]))
    assert "noto" in seen
    assert all(" " in name for name in seen if not name.startswith("noto"))
