import copy
from pathlib import Path

import pytest
import torch

from tests.tiny_base import CAPTIONS
from tests.tiny_images import write_tiny_images
from unifl.core.errors import SettingsError
from unifl.data.contracts import open_images
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.feedback.batches import Batch, ImageBatches
from unifl.feedback.losses import discriminator_loss
from unifl.feedback.objectives.adversarial import AdversarialObjective
from unifl.feedback.objectives.decoupled import DecoupledObjective
from unifl.feedback.objectives.diffusion import DiffusionObjective
from unifl.feedback.objectives.perceptual import (
    Comparison,
    ContentFeedback,
    PerceptualObjective,
    StyleFeedback,
    WeightedFeedback,
)
from unifl.feedback.trajectory import Trajectory
from unifl.perception.vgg import load_trunk
from unifl.rewards.features import feature_width
from unifl.rewards.model import RewardConfig, RewardHead, RewardModel, shared_trunk


@pytest.fixture(scope="module")
def adapter(base_folder: Path) -> DiffusionAdapter:
    loaded = DiffusionAdapter.load(base_folder)
    loaded.unet.requires_grad_(True)
    return loaded


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    table = open_images(write_tiny_images(tmp_path_factory.mktemp("images") / "shards"))
    return ImageBatches(table, 3, seed=0, with_masks=True).batch(0)


def reward(axis: str = "detail") -> RewardModel:
    trunk = shared_trunk("lite0")
    torch.manual_seed(1)
    config = RewardConfig(
        axis=axis, trunk="lite0", trunk_sha256=trunk.sha256, text=False, text_sha256=None, text_width=0, hidden=8,
        alpha=0.5, alpha_low=0.4, alpha_high=0.6, alpha_offset=0.0, validation_accuracy=0.8,
        validation_accuracy_low=0.7, validation_accuracy_high=0.9, training_pairs=1, validation_pairs=1,
        logit_scale=1.0, synthetic_preferences=True,
    )  # fmt: skip
    return RewardModel(config, RewardHead(feature_width(trunk), 8, 0), trunk)


def no_features(_prompts: object) -> torch.Tensor:
    raise AssertionError("a reward that reads no text must not cost a sentence encoding")


def adversarial(real_images: str = "autoencoder", blocks: int = 1) -> AdversarialObjective:
    return AdversarialObjective(
        reward().discriminator(blocks), Trajectory(4, 0, 3), no_features, learning_rate=1e-3, real_images=real_images
    )


class Seen:
    """A feedback that keeps the images it was shown."""

    name = "seen"

    def __init__(self) -> None:
        self.images: list[torch.Tensor] = []

    def __call__(self, comparison: Comparison) -> torch.Tensor:
        self.images.append(comparison.images)
        return (comparison.images - comparison.real_images()).square().mean()


def test_several_perceptual_feedbacks_share_one_decode(adapter: DiffusionAdapter, batch: Batch) -> None:
    one, other = Seen(), Seen()
    objective = PerceptualObjective([WeightedFeedback(one, 1.0), WeightedFeedback(other, 2.0)], Trajectory(4, 0, 1), 2)
    loss, logs = objective(adapter, batch, torch.Generator().manual_seed(0))
    assert one.images[0] is other.images[0]
    assert float(loss.detach()) == pytest.approx(3 * logs["seen"], rel=1e-5)


def test_style_and_content_share_one_pass_of_the_trunk(batch: Batch) -> None:
    trunk = load_trunk()
    passes = []
    trunk.register_forward_hook(lambda *_: passes.append(1))
    images = (batch.real_images() * 0.9).requires_grad_()
    together = Comparison(images, batch)
    style, content = StyleFeedback(trunk, (1, 1, 1, 1)), ContentFeedback(trunk)
    shared = style(together) + content(together)
    assert len(passes) == 2  # the generated images and the real ones
    apart = style(Comparison(images, batch)) + content(Comparison(images, batch))
    torch.testing.assert_close(shared, apart)
    gradient, reference = (torch.autograd.grad(loss, images)[0].flatten() for loss in (shared, apart))
    assert float(torch.cosine_similarity(gradient, reference, dim=0)) > 0.999


def test_perceptual_feedback_reaches_the_unet_and_nothing_else(adapter: DiffusionAdapter, batch: Batch) -> None:
    objective = PerceptualObjective([WeightedFeedback(Seen(), 1.0)], Trajectory(4, 0, 1), 2)
    loss, _ = objective(adapter, batch, torch.Generator().manual_seed(0))
    adapter.unet.zero_grad()
    loss.backward()
    assert float(adapter.unet.conv_in.weight.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in adapter.autoencoder.parameters())


def test_perceptual_feedback_without_any_weight_is_refused() -> None:
    with pytest.raises(SettingsError, match="every lambda is 0"):
        PerceptualObjective([WeightedFeedback(Seen(), 0.0)], Trajectory(20, 0, 5), 10)


def test_noise_that_ends_before_the_gradient_is_refused() -> None:
    with pytest.raises(SettingsError, match="noise_to 3"):
        PerceptualObjective([WeightedFeedback(Seen(), 1.0)], Trajectory(20, 0, 5), 3)


def test_one_generator_seed_gives_one_loss(adapter: DiffusionAdapter, batch: Batch) -> None:
    for objective in (
        DiffusionObjective(),
        DiffusionObjective(min_snr=5),
        PerceptualObjective([WeightedFeedback(Seen(), 1.0)], Trajectory(4, 0, 1), 2),
    ):
        first, again, other = (
            float(objective(adapter, batch, torch.Generator().manual_seed(seed))[0].detach()) for seed in (5, 5, 6)
        )
        assert first == again != other


def test_a_hinge_far_below_the_scores_moves_nothing(adapter: DiffusionAdapter) -> None:
    objective = DecoupledObjective(
        {"color": reward("color")}, {"color": 1.0}, {"color": -1e6}, Trajectory(4, 0, 1), no_features
    )
    loss, logs = objective(adapter, Batch(CAPTIONS[:2]), torch.Generator().manual_seed(0))
    adapter.unet.zero_grad()
    loss.backward()
    assert float(loss.detach()) == logs["hinge_color"] == 0.0
    assert float(adapter.unet.conv_in.weight.grad.abs().sum()) == 0.0


def test_alpha_is_the_rewards_own_plus_the_offset(adapter: DiffusionAdapter) -> None:
    objective = DecoupledObjective(
        {"color": reward("color")}, {"color": 1.0}, {"color": 100.0}, Trajectory(4, 0, 1), no_features
    )
    loss, logs = objective(adapter, Batch(CAPTIONS[:2]), torch.Generator().manual_seed(0))
    assert float(loss.detach()) == pytest.approx(100.5 - logs["reward_color"], rel=1e-4)


def test_one_global_reward_is_one_hinge(adapter: DiffusionAdapter) -> None:
    objective = DecoupledObjective(
        {"global": reward("global")}, {"global": 2.0}, {"global": 100.0}, Trajectory(4, 0, 1), no_features
    )
    loss, logs = objective(adapter, Batch(CAPTIONS[:2]), torch.Generator().manual_seed(0))
    assert {key for key in logs if key.startswith(("hinge", "reward"))} == {"hinge_global", "reward_global"}
    assert float(loss.detach()) == pytest.approx(2 * (100.5 - logs["reward_global"]), rel=1e-4)


def test_an_alpha_above_every_score_is_refused() -> None:
    seen = reward("color")
    seen.config = seen.config.model_copy(update={"highest_score": 2.0})
    with pytest.raises(SettingsError, match=r"above every score seen.*lower alpha_offset_color"):
        DecoupledObjective({"color": seen}, {"color": 1.0}, {"color": 1.6}, Trajectory(4, 0, 1), no_features)
    DecoupledObjective({"color": seen}, {"color": 1.0}, {"color": 1.5}, Trajectory(4, 0, 1), no_features)


def test_weights_that_sum_to_zero_are_refused_with_the_settings_to_raise() -> None:
    with pytest.raises(SettingsError, match=r"every weight is 0.*remedy: set lambda_color or lambda_detail above 0"):
        DecoupledObjective(
            {"color": reward("color"), "detail": reward()}, {"color": 0.0, "detail": 0.0}, {}, Trajectory(4, 0, 1),
            no_features,
        )  # fmt: skip


def test_decoupled_feedback_without_any_axis_is_refused() -> None:
    with pytest.raises(SettingsError, match="no axis"):
        DecoupledObjective({"color": reward("color")}, {}, {}, Trajectory(4, 0, 1), no_features)


def test_an_axis_without_its_reward_model_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"no reward model for detail.*set lambda_detail to 0"):
        DecoupledObjective(
            {"color": reward("color")}, {"color": 1.0, "detail": 1.0}, {}, Trajectory(4, 0, 1), no_features
        )


def test_a_discriminator_that_cannot_learn_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"no discriminator.*RewardModel.discriminator"):
        AdversarialObjective(reward(), Trajectory(4, 0, 3), no_features, learning_rate=1e-3)


def test_the_generator_does_not_train_the_discriminator(adapter: DiffusionAdapter, batch: Batch) -> None:
    objective = adversarial()
    before = copy.deepcopy(objective.state())
    loss, _ = objective(adapter, batch, torch.Generator().manual_seed(0))
    loss.backward()
    assert all(parameter.grad is None for parameter in objective.discriminator.parameters())
    assert all(torch.equal(value, before[name]) for name, value in objective.state().items())


def test_the_discriminator_learns_and_the_detail_reward_stays(adapter: DiffusionAdapter, batch: Batch) -> None:
    detail = reward()
    before = {name: value.clone() for name, value in detail.state_dict().items()}
    objective = AdversarialObjective(
        detail.discriminator(1), Trajectory(4, 0, 3), no_features, learning_rate=1e-2, real_images="raw"
    )
    losses = []
    for _ in range(6):
        objective(adapter, batch, torch.Generator().manual_seed(0))
        losses.append(objective.after_update()["discriminator"])
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[name]) for name, value in detail.state_dict().items())


def test_the_discriminators_first_loss_is_that_of_the_detail_reward(adapter: DiffusionAdapter, batch: Batch) -> None:
    objective = adversarial("raw")
    loss, _ = objective(adapter, batch, torch.Generator().manual_seed(0))
    fake = objective._seen[0].fake
    with torch.no_grad():
        real_scores, fake_scores = reward().score(batch.real_images()), reward().score(fake)
    assert objective.after_update()["discriminator"] == pytest.approx(
        float(discriminator_loss(real_scores, fake_scores)), rel=2e-2
    )
    assert float(loss.detach()) == pytest.approx(-float(fake_scores.mean()), rel=2e-2, abs=2e-2)


def test_real_images_can_pass_through_the_autoencoder(adapter: DiffusionAdapter, batch: Batch) -> None:
    through, raw = adversarial("autoencoder"), adversarial("raw")
    for objective in (through, raw):
        objective(adapter, batch, torch.Generator().manual_seed(0))
    images = batch.real_images()
    torch.testing.assert_close(raw._seen[0].real, images)
    torch.testing.assert_close(through._seen[0].real, adapter.decode(adapter.encode_image(images)))


def test_a_restored_discriminator_goes_on_as_if_nothing_had_happened(adapter: DiffusionAdapter, batch: Batch) -> None:
    def step(objective: AdversarialObjective, seed: int) -> dict[str, float]:
        objective(adapter, batch, torch.Generator().manual_seed(seed))
        return objective.after_update()

    first = adversarial()
    step(first, 0)
    kept = copy.deepcopy(first.state())
    expected = step(first, 1)
    second = adversarial()
    second.restore(kept)
    assert step(second, 1) == expected
