"""Multi-view feedback: what a view shows, that references follow, and that nothing changes where it is off."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.tiny_base import CAPTIONS
from tests.tiny_images import write_tiny_images
from tests.tiny_world import write_reward
from unifl.core.errors import SettingsError
from unifl.data.contracts import open_images
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.randomness import PartOfBatch
from unifl.feedback.batches import Batch, ImageBatches
from unifl.feedback.losses import discriminator_loss
from unifl.feedback.objectives.adversarial import AdversarialObjective
from unifl.feedback.objectives.decoupled import DecoupledObjective
from unifl.feedback.objectives.perceptual import Comparison, PerceptualObjective, StructureFeedback, WeightedFeedback
from unifl.feedback.settings import EngineSettings
from unifl.feedback.trajectory import Trajectory
from unifl.feedback.views import DrawnViews, MultiView, Places
from unifl.perception import segmenter
from unifl.rewards.model import RewardModel

ON = MultiView(2, crop_min=0.6)


@pytest.fixture(scope="module")
def adapter(base_folder: Path) -> DiffusionAdapter:
    loaded = DiffusionAdapter.load(base_folder)
    loaded.unet.requires_grad_(True)
    return loaded


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    table = open_images(write_tiny_images(tmp_path_factory.mktemp("images") / "shards"))
    return ImageBatches(table, 4, seed=0, with_masks=True).batch(0)


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RewardModel]:
    home = tmp_path_factory.mktemp("rewards")
    return {axis: RewardModel.load(write_reward(home / axis, axis)) for axis in ("color", "detail")}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def no_features(_prompts: object) -> torch.Tensor:
    raise AssertionError("a reward that reads no text must not cost a sentence encoding")


def place(share: float, left: float, top: float, mirrored: bool = False) -> Places:
    return Places(*(torch.tensor([value]) for value in (share, left, top)), torch.tensor([mirrored]))


@settings(deadline=None)
@given(st.floats(0.3, 1), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_a_view_equals_torchs_own_bilinear_sampling(share: float, left: float, top: float, mirrored: bool) -> None:
    images = torch.rand(1, 3, 12, 16, generator=generator())
    left, top = left * (1 - share), top * (1 - share)
    sign = -1.0 if mirrored else 1.0
    # Centre and half-size of the crop, in affine_grid's coordinates from -1 to 1.
    theta = torch.tensor([[[sign * share, 0, 2 * left + share - 1], [0, share, 2 * top + share - 1]]])
    grid = F.affine_grid(theta, [1, 3, 12, 16], align_corners=False)
    expected = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    torch.testing.assert_close(place(share, left, top, mirrored).of(images), expected, rtol=1e-4, atol=1e-4)


def test_the_whole_image_is_a_view_of_itself_and_its_mirror_image_a_flip() -> None:
    images = torch.rand(1, 3, 8, 8, generator=generator())
    torch.testing.assert_close(place(1.0, 0, 0).of(images), images)
    torch.testing.assert_close(place(1.0, 0, 0, True).of(images), images.flip(3))


def test_a_gradient_reaches_the_pixels_inside_the_crop_and_no_others() -> None:
    images = torch.rand(1, 1, 8, 8, generator=generator()).requires_grad_()
    place(0.5, 0.5, 0.0).of(images).sum().backward()
    assert images.grad is not None
    touched = images.grad[0, 0] > 0
    assert touched[:4, 4:].all()
    assert not touched[5:].any()
    assert not touched[:, :3].any()
    assert float(images.grad.sum()) == pytest.approx(64, rel=1e-5)


def test_a_mean_over_views_is_each_images_own() -> None:
    views = ON.draw(3, generator())
    scores = torch.arange(9.0)  # three of the whole images, then of both views
    assert views.mean(scores).tolist() == [3.0, 4.0, 5.0]
    assert views.repeated(torch.tensor([1, 2, 3])).tolist() == [1, 2, 3] * 3
    images = torch.rand(3, 3, 8, 8)
    assert torch.equal(views.of(images)[:3], images)


def test_every_image_and_every_seed_has_places_of_its_own() -> None:
    first, again, other = (MultiView(1).draw(6, generator(seed)).places[0] for seed in (0, 0, 1))
    assert torch.equal(first.share, again.share)
    assert len(set(first.share.tolist())) == 6
    assert not torch.equal(first.share, other.share)
    many = MultiView(1, 0.7, 0.9).draw(2000, generator()).places[0]
    assert 0.7 <= float(many.share.min()) < 0.71
    assert 0.89 < float(many.share.max()) <= 0.9
    assert float((many.left + many.share).max()) <= 1
    assert float(many.mirrored.float().mean()) == pytest.approx(0.5, abs=0.05)
    assert not MultiView(1, flips=False).draw(20, generator()).places[0].mirrored.any()


def test_two_processes_draw_the_views_of_one() -> None:
    whole = ON.draw(6, generator())
    parts = [ON.draw(3, PartOfBatch(generator(), first, 6)) for first in (0, 3)]
    for number, expected in enumerate(whole.places):
        for name in ("share", "left", "top", "mirrored"):
            found = torch.cat([getattr(part.places[number], name) for part in parts])
            assert torch.equal(found, getattr(expected, name))


def test_without_views_nothing_is_drawn_and_nothing_is_copied() -> None:
    source = generator()
    views = MultiView().draw(4, source)
    assert torch.equal(source.get_state(), generator().get_state())
    images = torch.rand(4, 3, 8, 8)
    assert views.of(images) is images
    assert views.mean(images) is images
    assert views.repeated(images) is images


def test_masks_are_cut_where_the_pixels_are(batch: Batch) -> None:
    views = ON.draw(len(batch), generator(3))
    seen = views.of_batch(batch)
    assert seen.masks is not None
    assert batch.concepts is not None
    assert seen.concepts == batch.concepts * 3
    assert len(seen.captions) == len(seen.masks) == len(seen.real_images()) == 12
    for pixels, masks in zip(seen.real_images(), seen.masks, strict=True):
        for mask in masks:
            # A disc has one color: away from its border, which is blended, the pixels of a cut mask are equal.
            inside = -F.max_pool2d(-torch.from_numpy(mask)[None].float(), 7, 1, 3)[0] > 0
            if inside.any():
                assert float(pixels[:, inside].std(dim=1).max()) < 1e-4


def test_an_object_outside_the_crop_asks_for_nothing(batch: Batch) -> None:
    model = segmenter.Segmenter([word for words in batch.concepts or [] for word in words][:4], width=8).eval()
    corner = DrawnViews([Places(*(torch.full((4,), value) for value in (0.05, 0.0, 0.0)), torch.zeros(4) > 0)])
    seen = corner.of_batch(batch)
    assert seen.masks is not None
    assert not any(masks.any() for masks in seen.masks[4:])
    loss = StructureFeedback(model)(Comparison(corner.of(batch.real_images()), seen))
    assert torch.isfinite(loss)


class Seen:
    """A feedback that keeps what it was shown."""

    name = "seen"

    def __call__(self, comparison: Comparison) -> torch.Tensor:
        self.comparison = comparison
        return (comparison.images - comparison.real_images()).square().mean()


def test_perceptual_feedback_compares_each_view_with_the_same_view_of_the_real_image(
    adapter: DiffusionAdapter, batch: Batch
) -> None:
    whole, seen, source = Seen(), Seen(), generator()
    PerceptualObjective([WeightedFeedback(whole, 1.0)], Trajectory(4, 0, 1), 2)(adapter, batch, source)
    objective = PerceptualObjective([WeightedFeedback(seen, 1.0)], Trajectory(4, 0, 1), 2, ON)
    loss, _ = objective(adapter, batch, generator())
    views = ON.draw(4, source)  # the first numbers that the objective without views has not drawn
    torch.testing.assert_close(seen.comparison.images, views.of(whole.comparison.images))
    torch.testing.assert_close(seen.comparison.real_images(), views.of(batch.real_images()))
    adapter.unet.zero_grad()
    loss.backward()
    assert float(adapter.unet.conv_in.weight.grad.abs().sum()) > 0


def test_color_is_averaged_over_views_and_detail_sees_the_whole_image(
    adapter: DiffusionAdapter, rewards: dict[str, RewardModel]
) -> None:
    objective = DecoupledObjective(
        rewards, {"color": 1.0, "detail": 1.0}, {"color": 0.0, "detail": 0.0}, Trajectory(4, 0, 1), no_features, ON
    )
    images = torch.rand(3, 3, 64, 64, generator=generator())
    views = ON.draw(3, generator())
    with torch.no_grad():
        found = objective.scores(images, CAPTIONS[:3], views)
        expected = torch.stack([rewards["color"].score(part) for part in views.of(images).chunk(3)]).mean(0)
        torch.testing.assert_close(found["color"], expected, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(found["detail"], rewards["detail"].score(images), rtol=1e-2, atol=1e-2)
        assert not torch.allclose(found["color"], rewards["color"].score(images), atol=1e-3)


def test_the_discriminator_sees_real_and_predicted_images_in_the_same_views(
    adapter: DiffusionAdapter, batch: Batch, rewards: dict[str, RewardModel]
) -> None:
    objective = AdversarialObjective(
        rewards["detail"].discriminator(1),
        Trajectory(4, 0, 3),
        no_features,
        learning_rate=1e-3,
        real_images="raw",
        views=ON,
    )
    loss, _ = objective(adapter, batch, generator())
    objective(adapter, batch, generator(1))  # accumulated: two batches before one update
    first, second = objective._seen
    assert torch.equal(first.real, first.views.of(batch.real_images()))
    torch.testing.assert_close(first.fake, first.views.of(first.fake[:4]))
    with torch.no_grad():
        real = torch.cat([seen.views.mean(rewards["detail"].score(seen.real)) for seen in (first, second)])
        fake = torch.cat([seen.views.mean(rewards["detail"].score(seen.fake)) for seen in (first, second)])
    assert float(loss.detach()) == pytest.approx(-float(fake[:4].mean()), rel=2e-2, abs=2e-2)
    logs = objective.after_update()
    assert logs["discriminator"] == pytest.approx(float(discriminator_loss(real, fake)), rel=2e-2)
    assert objective._seen == []


@pytest.mark.parametrize("wrong", [{"crop_min": 0.9, "crop_max": 0.8}, {"crop_min": 0.0}, {"count": -1}])
def test_views_that_cannot_be_drawn_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="view_crop_min"):
        MultiView(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="view_crop_min"):
        EngineSettings(view_crop_min=0.9, view_crop_max=0.8)
