"""A reward model scores prompts and images, lets gradients through to the image, and survives being saved."""

import json
from pathlib import Path

import pytest
import torch

from unifl.core.errors import ModelLoadError, SettingsError
from unifl.rewards.features import feature_width
from unifl.rewards.model import Axis, RewardConfig, RewardHead, RewardModel, score_all, shared_trunk


def untrained(axis: Axis = "color", text: bool = False, seed: int = 0) -> RewardModel:
    """A reward model with random weights and the real trunk."""
    trunk = shared_trunk("lite0")
    torch.manual_seed(seed)
    head = RewardHead(feature_width(trunk), 8, 4 if text else 0, dropout=0.3)
    head.deviation.fill_(2.0)
    head.score_mean.fill_(0.1)
    head.score_deviation.fill_(0.5)
    config = RewardConfig(
        axis=axis, trunk="lite0", trunk_sha256=trunk.sha256, text=text, text_sha256=None, text_width=4 if text else 0,
        hidden=8, alpha=0.5, alpha_low=0.4, alpha_high=0.6, alpha_offset=0.0, validation_accuracy=0.8,
        validation_accuracy_low=0.7, validation_accuracy_high=0.9, training_pairs=10, validation_pairs=10,
        logit_scale=2.0, synthetic_preferences=True,
    )  # fmt: skip
    return RewardModel(config, head, trunk)


@pytest.fixture(scope="module")
def batch() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_a_saved_model_scores_as_before(batch: torch.Tensor, tmp_path: Path) -> None:
    model = untrained()
    model.save(tmp_path)
    loaded = RewardModel.load(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded.score(batch), model.score(batch))


def test_saved_weights_do_not_hold_the_trunk(tmp_path: Path) -> None:
    untrained().save(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 1_000_000


def test_gradients_reach_the_image_and_not_the_model(batch: torch.Tensor) -> None:
    model = untrained()
    image = batch.clone().requires_grad_()
    model.score(image).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_climbing_the_gradient_raises_the_score(batch: torch.Tensor) -> None:
    model = untrained()
    image = batch.clone().requires_grad_()
    before = model.score(image)
    before.sum().backward()
    assert image.grad is not None
    after = model.score((image + 0.02 * image.grad.sign()).clamp(0, 1))
    assert (after > before).all()


def test_score_all_equals_each_score_and_runs_the_trunk_once(
    batch: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [untrained("color", seed=1), untrained("layout", text=True, seed=2)]
    text = torch.randn(2, 384)
    separate = [model.score(batch, text) for model in models]
    runs = []
    stages = type(models[0].trunk).stages
    monkeypatch.setattr(type(models[0].trunk), "stages", lambda *a, **k: runs.append(1) or stages(*a, **k))
    together = score_all(models, batch, text)
    assert len(runs) == 1
    assert all(torch.equal(a, b) for a, b in zip(separate, together, strict=True))


def test_a_model_that_reads_prompts_refuses_to_go_without(batch: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="text features are missing"):
        untrained(text=True).score(batch)


def test_prompts_change_the_score_of_a_model_that_reads_them(batch: torch.Tensor) -> None:
    model = untrained(text=True)
    assert not torch.equal(model.score(batch, torch.randn(2, 384)), model.score(batch, torch.randn(2, 384)))


def test_training_a_discriminator_leaves_its_reward_alone(batch: torch.Tensor) -> None:
    reward = untrained("detail")
    before = reward.score(batch)
    discriminator = reward.discriminator(blocks=1)
    assert torch.equal(discriminator.score(batch), before)
    parameters = dict(discriminator.trainable())
    assert any(name.startswith("trunk.") for name in parameters)
    optimiser = torch.optim.SGD(parameters.values(), lr=0.1)
    discriminator.score(batch).sum().backward()
    optimiser.step()
    assert not torch.equal(discriminator.score(batch), before)
    assert torch.equal(reward.score(batch), before)


def test_a_discriminator_without_blocks_trains_its_head_on_the_shared_trunk() -> None:
    reward = untrained("detail")
    discriminator = reward.discriminator()
    assert discriminator.trunk is reward.trunk
    assert {name.split(".")[0] for name, _ in discriminator.trainable()} == {"head"}


def test_a_missing_folder_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="there is no reward model"):
        RewardModel.load(tmp_path / "nothing")


def test_weights_of_another_trunk_are_refused(tmp_path: Path) -> None:
    untrained().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "trunk_sha256": "0" * 64}))
    with pytest.raises(ModelLoadError, match="another trunk"):
        RewardModel.load(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"not safetensors"])
def test_damaged_weights_are_refused_in_one_line(tmp_path: Path, damage: bytes) -> None:
    untrained().save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(damage)
    with pytest.raises(ModelLoadError) as caught:
        RewardModel.load(tmp_path)
    assert "model.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", '{"axis": "taste"}'])
def test_a_damaged_config_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    untrained().save(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelLoadError) as caught:
        RewardModel.load(tmp_path)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_alpha_is_refused_only_above_the_highest_score() -> None:
    config = untrained("detail").config.model_copy(update={"highest_score": 2.0})
    config.check_alpha(2.0, "alpha_offset_detail")
    with pytest.raises(
        SettingsError, match=r"alpha of detail is 2\.500.*at most 2\.000.*alpha_offset_detail by 0\.500"
    ):
        config.check_alpha(2.5, "alpha_offset_detail")


def test_a_reward_of_an_earlier_version_says_that_its_alpha_is_not_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    untrained("color").save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["highest_score"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    RewardModel.load(tmp_path).config.check_alpha(1e6, "alpha_offset_color")
    assert "alpha of color is not checked" in capsys.readouterr().err
