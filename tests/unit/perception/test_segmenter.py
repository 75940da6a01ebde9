"""The dense segmenter: its targets and losses by hand, and that it learns to find two shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unifl.core.errors import ModelLoadError, SettingsError
from unifl.evaluation.instances import overlaps
from unifl.perception import segmenter as segmenters
from unifl.perception.one_cycle import Checkpoints
from unifl.perception.segmenter import GRID, Segmenter, grid_targets, segment, structure_loss
from unifl.perception.segmenter_training import LabelledScenes, held_out_figures, train

SHAPES = ("disc", "square")


def shapes(count: int, seed: int) -> LabelledScenes:
    """One disc or square, or one of each, in a dark color on a light background."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    images, masks, concepts = [], [], []
    for _ in range(count):
        words = list(rng.permutation(SHAPES)[: rng.integers(1, 3)])
        image = np.full((64, 64, 3), 230, np.uint8) - rng.integers(0, 40, 3).astype(np.uint8)
        objects = []
        for place, word in enumerate(words):
            radius = rng.integers(9, 13)
            down, right = y - rng.integers(24, 40), x - (rng.integers(14, 20) + 32 * place)
            inside = (
                (down**2 + right**2 < radius**2) if word == "disc" else (abs(down) < radius) & (abs(right) < radius)
            )
            image[inside] = rng.integers(0, 130, 3)
            objects.append(inside)
        images.append(image)
        masks.append(np.stack(objects))
        concepts.append([str(word) for word in words])
    return LabelledScenes(np.stack(images), masks, concepts)


@pytest.fixture(scope="module")
def trained() -> tuple[Segmenter, list[float]]:
    return train(shapes(160, 0), SHAPES, width=8, updates=130, batch_size=16, learning_rate=8e-3, seed=0)


def test_it_learns_to_find_and_name_two_shapes(trained: tuple[Segmenter, list[float]]) -> None:
    model, losses = trained
    assert np.mean(losses[-10:]) < 0.4 * np.mean(losses[:10])
    figures = held_out_figures(model, shapes(40, 1))
    assert figures["mask_ap50"] > 0.5
    assert figures["best_overlap"] > 0.6


def test_a_finished_training_is_not_done_again_and_one_of_other_scenes_or_settings_is_refused(tmp_path: Path) -> None:
    settings = {"width": 8, "updates": 2, "batch_size": 4, "learning_rate": 1e-3, "seed": 0}
    checkpoints = Checkpoints(tmp_path)
    model, losses = train(shapes(8, 0), SHAPES, **settings, checkpoints=checkpoints)
    assert [folder.name for folder in tmp_path.iterdir()] == ["update-0000002"]
    again, same = train(shapes(8, 0), SHAPES, **settings, checkpoints=checkpoints)
    assert same == losses
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(SettingsError, match="other scenes"):
        train(shapes(8, 1), SHAPES, **settings, checkpoints=checkpoints)
    with pytest.raises(SettingsError, match="other batch_size, learning_rate"):
        train(shapes(8, 0), SHAPES, **settings | {"batch_size": 5, "learning_rate": 2e-3}, checkpoints=checkpoints)


def test_the_loss_asks_for_the_true_shape(trained: tuple[Segmenter, list[float]]) -> None:
    scenes = shapes(12, 2)
    images = scenes.tensor(slice(0, 12))
    right = structure_loss(trained[0], images, scenes.masks, scenes.concepts)
    shifted = structure_loss(trained[0], images.roll(12, 3), scenes.masks, scenes.concepts)
    blank = structure_loss(trained[0], torch.full_like(images, 0.8), scenes.masks, scenes.concepts)
    assert right.shape == (12,)
    assert right.mean() < shifted.mean()
    assert right.mean() < blank.mean()


def test_following_the_loss_downhill_in_the_image_lowers_it(trained: tuple[Segmenter, list[float]]) -> None:
    scenes = shapes(4, 3)
    images = (scenes.tensor(slice(0, 4)) * 0.3 + 0.5).requires_grad_()
    model = trained[0].requires_grad_(False)
    first = structure_loss(model, images, scenes.masks, scenes.concepts)
    (gradient,) = torch.autograd.grad(first.sum(), images)
    assert torch.isfinite(gradient).all()
    second = structure_loss(model, images.detach() - 0.02 * gradient.sign(), scenes.masks, scenes.concepts)
    assert second.sum() < first.sum()


def test_each_images_loss_depends_on_that_image_alone(trained: tuple[Segmenter, list[float]]) -> None:
    scenes = shapes(3, 4)
    images = scenes.tensor(slice(0, 3))
    together = structure_loss(trained[0], images, scenes.masks, scenes.concepts)
    alone = structure_loss(trained[0], images[1:2], scenes.masks[1:2], scenes.concepts[1:2])
    assert float(alone) == pytest.approx(float(together[1]), rel=0.05)


def test_the_central_cells_of_a_box_are_positive() -> None:
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 16:32, 40:56] = True  # centre (24, 48), on the corner of four cells
    targets = grid_targets([mask], [["square"]], SHAPES)
    assert sorted(targets.cell.tolist()) == [2 * GRID + 5, 2 * GRID + 6, 3 * GRID + 5, 3 * GRID + 6]
    assert (targets.cells[0][targets.cell] == 1).all()
    assert (targets.cells[0] == -1).sum() == GRID * GRID - 4
    assert torch.equal(targets.masks[0], torch.from_numpy(mask[0]).float())


def test_the_smaller_of_two_objects_wins_a_shared_cell_and_hidden_ones_get_none() -> None:
    masks = np.zeros((3, 64, 64), bool)
    masks[0, 4:60, 4:60] = True
    masks[1, 30:36, 30:36] = True
    targets = grid_targets([masks], [["square", "disc", "square"]], SHAPES)
    centre = 4 * GRID + 4
    assert int(targets.cells[0, centre]) == 0
    assert len(targets.cell) == len(set(targets.cell.tolist()))


def test_focal_loss_by_hand() -> None:
    """p = 0.9 and the class is there: -0.25 * 0.1² * ln 0.9; it is not there: -0.75 * 0.9² * ln 0.1."""
    logit = torch.tensor([np.log(9.0)])
    there, absent = segmenters.focal(logit, torch.ones(1)), segmenters.focal(logit, torch.zeros(1))
    assert float(there) == pytest.approx(-0.25 * 0.01 * np.log(0.9), rel=1e-4)
    assert float(absent) == pytest.approx(-0.75 * 0.81 * np.log(0.1), rel=1e-4)


def test_dice_is_zero_for_the_mask_itself_and_one_for_its_complement() -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:5, 2:5] = 1
    assert float(segmenters.dice(mask, mask)) == pytest.approx(0, abs=1e-4)
    assert float(segmenters.dice(1 - mask, mask)) == pytest.approx(1, abs=1e-3)
    half = mask.clone()
    half[:, 4] = 0  # six of nine pixels: 1 - 2*6/(6+9)
    assert float(segmenters.dice(half, mask)) == pytest.approx(1 - 12 / 15, abs=1e-3)


def test_instance_losses_equal_a_loop_over_cells_and_pixels() -> None:
    """Focal loss of every cell and class over the positive cells; mean Dice of each positive cell's own mask."""
    masks = np.zeros((3, 64, 64), bool)
    masks[0, 8:24, 8:24] = masks[1, 36:60, 30:50] = masks[2, 20:44, 20:44] = True
    targets = grid_targets([masks[:2], masks[2:]], [["disc", "square"], ["square"]], SHAPES)
    draw = torch.Generator().manual_seed(0)
    logits, kernels, features = (
        torch.randn(shape, generator=draw) for shape in ((2, 2, GRID, GRID), (2, 5, GRID, GRID), (2, 5, 64, 64))
    )
    category, mask = segmenters.instance_losses((logits, kernels, features), targets)
    for image in range(2):
        positive = [
            (int(c), m) for i, c, m in zip(targets.image, targets.cell, targets.masks, strict=True) if i == image
        ]
        total = 0.0
        for cell in range(GRID * GRID):
            for concept in range(2):
                wanted = any(cell == one for one, _ in positive) and int(targets.cells[image, cell]) == concept
                p = 1 / (1 + np.exp(-float(logits[image, concept].flatten()[cell])))
                total -= 0.25 * (1 - p) ** 2 * np.log(p) if wanted else 0.75 * p**2 * np.log(1 - p)
        dices = []
        for cell, wanted_mask in positive:
            weights = kernels[image].flatten(1)[:, cell]
            p = 1 / (1 + np.exp(-sum(float(w) * f.numpy() for w, f in zip(weights, features[image], strict=True))))
            q = wanted_mask.numpy()
            dices.append(1 - (2 * (p * q).sum() + 1e-3) / ((p**2).sum() + (q**2).sum() + 1e-3))
        assert float(category[image]) == pytest.approx(total / len(positive), rel=1e-4)
        assert float(mask[image]) == pytest.approx(np.mean(dices), rel=1e-4)


def test_no_object_is_found_twice(trained: tuple[Segmenter, list[float]]) -> None:
    scenes = shapes(10, 5)
    for found in segment(trained[0], scenes.tensor(slice(0, 10)), threshold=0.3):
        iou = overlaps(found.masks, found.masks)
        assert (iou[~np.eye(len(iou), dtype=bool)] < 0.6).all()
        assert (np.diff(found.scores) <= 0).all()


def test_an_image_without_a_visible_object_costs_only_false_alarms() -> None:
    model = Segmenter(SHAPES, width=8).eval()
    loss = structure_loss(model, torch.rand(1, 3, 64, 64), [np.zeros((1, 64, 64), bool)], [["disc"]])
    assert torch.isfinite(loss).all()


@pytest.mark.parametrize(
    ("concepts", "reason"), [([["triangle"]], "knows no concept 'triangle'"), ([["disc", "disc"]], "1 masks for 2")]
)
def test_wrong_ground_truth_is_named(concepts: list[list[str]], reason: str) -> None:
    model = Segmenter(SHAPES, width=8).eval()
    with pytest.raises(ValueError, match=reason):
        structure_loss(model, torch.rand(1, 3, 64, 64), [np.ones((1, 64, 64), bool)], concepts)


def test_a_saved_segmenter_comes_back(trained: tuple[Segmenter, list[float]], tmp_path: Path) -> None:
    scenes = shapes(4, 6)
    images = scenes.tensor(slice(0, 4))
    segmenters.save(trained[0], tmp_path / "segmenter", {"held_out": {}})
    back = segmenters.load(tmp_path / "segmenter")
    assert back.concepts == SHAPES
    before = structure_loss(trained[0], images, scenes.masks, scenes.concepts)
    after = structure_loss(back, images, scenes.masks, scenes.concepts)
    assert after == pytest.approx(before, rel=0.05)
    assert not any(parameter.requires_grad for parameter in back.parameters())


def test_a_missing_or_broken_segmenter_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="dvc pull"):
        segmenters.load(tmp_path)
    segmenters.save(Segmenter(SHAPES, width=8), tmp_path / "broken", {})
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        segmenters.load(tmp_path / "broken")
