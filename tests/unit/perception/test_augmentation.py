"""Random changes of training images: each does what it says and nothing else."""

from __future__ import annotations

import numpy as np
import torch

from unifl.perception.augmentation import flipped, half_softened, shifted, softened, toned


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_a_flip_mirrors_exactly_the_chosen_images() -> None:
    x = images(20)
    y, choice = flipped(x, torch.Generator().manual_seed(0))
    assert 0 < int(choice.sum()) < 20
    assert torch.equal(y[choice], x[choice].flip(3))
    assert torch.equal(y[~choice], x[~choice])


def test_a_shift_moves_pixels_down_and_right_and_repeats_the_edge() -> None:
    x = images()
    y, offsets = shifted(x, 3, torch.Generator().manual_seed(0))
    assert offsets.abs().max() <= 3
    for before, after, (down, right) in zip(x, y, offsets.tolist(), strict=True):
        for row, column in ((5, 7), (0, 0), (15, 15)):
            source = np.clip(row - down, 0, 15), np.clip(column - right, 0, 15)
            assert torch.equal(after[:, row, column], before[:, source[0], source[1]])


def test_tone_and_softness_stay_in_range_and_near_the_image() -> None:
    x = images()
    for change in (toned, softened):
        y = change(x, torch.Generator().manual_seed(0))
        assert y.min() >= 0
        assert y.max() <= 1
        assert not torch.equal(x, y)


def test_softening_only_ever_lowers_the_contrast_of_neighbours() -> None:
    x = images()
    y = softened(x, torch.Generator().manual_seed(0), noise=0.0)
    difference = lambda z: (z[..., 1:] - z[..., :-1]).abs().mean()  # noqa: E731
    assert difference(y) < difference(x)


def test_every_second_picture_is_softened_and_the_same_seed_gives_the_same_pixels() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    result = half_softened(pictures, seed=3)
    assert [np.array_equal(a, b) for a, b in zip(pictures, result, strict=True)] == [True, False, True, False, True]
    assert np.array_equal(result, half_softened(pictures, seed=3))
