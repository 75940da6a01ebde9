"""Scenes drawn from small sprites made here: exact masks, true captions, held-out content kept apart."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from unifl.data.icons import Sprite, recolour
from unifl.data.scenes import SIDE, SceneGenerator, SceneSettings
from unifl.data.vocabulary import (
    CONCEPTS,
    DRAWN_STYLES,
    HELD_OUT_STYLE,
    PAINTED_STYLES,
    held_out_set,
    scene_split,
)


def sprite(concept: str, style: str) -> Sprite:
    """A disc whose colour follows from its name."""
    color = tuple(int(value) for value in np.random.default_rng(CONCEPTS.index(concept)).integers(40, 216, 3))
    pixels = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(pixels).ellipse((2, 2, 61, 61), fill=(*color, 255))
    return Sprite(concept, style, pixels, f"{style}#{concept}", "CC0-1.0", "nobody")


@pytest.fixture(scope="module")
def sprites() -> dict[tuple[str, str], Sprite]:
    return {(concept, style): sprite(concept, style) for concept in CONCEPTS for style in DRAWN_STYLES}


@pytest.fixture(scope="module")
def drawn(sprites: dict[tuple[str, str], Sprite]) -> SceneGenerator:
    return SceneGenerator(sprites, SceneSettings(painted=0.0))


def test_a_scene_has_one_visible_mask_an_object(drawn: SceneGenerator) -> None:
    for scene in drawn.scenes("train", 40, seed=0):
        assert scene.image.shape == (SIDE, SIDE, 3)
        assert scene.masks.shape == (len(scene.objects), SIDE, SIDE)
        assert scene.masks.any((1, 2)).all()
        assert scene.masks.sum(0).max() == 1  # the visible parts never overlap


def test_a_mask_covers_the_pixels_of_its_object(sprites: dict[tuple[str, str], Sprite]) -> None:
    plain = SceneGenerator(sprites, SceneSettings(objects=(1, 0, 0), painted=0, attribute=0, gradient=0))
    scene = next(plain.scenes("train", 1, seed=3))
    color = np.array(scene.sprites[0].pixels.getpixel((32, 32))[:3])
    inside = np.abs(scene.image[scene.masks[0]].astype(int) - color).max(1)
    assert np.median(inside) <= 2
    assert np.abs(scene.image[~scene.masks[0]].astype(int) - color).max(1).min() > np.median(inside)


def test_a_scene_depends_on_its_seed_and_number_alone(drawn: SceneGenerator) -> None:
    many = list(drawn.scenes("train", 3, seed=5))
    again = list(drawn.scenes("train", 2, seed=5))
    assert [one.caption for one in again] == [one.caption for one in many[:2]]
    assert np.array_equal(again[1].image, many[1].image)


@pytest.mark.parametrize("relation", ["to the left of", "to the right of", "above", "below"])
def test_objects_stand_where_the_caption_says(drawn: SceneGenerator, relation: str) -> None:
    scenes = [one for one in drawn.scenes("train", 200, seed=1) if one.relation == relation]
    assert scenes
    for scene in scenes:
        (y0, x0), (y1, x1) = (np.argwhere(mask).mean(0) for mask in scene.masks)
        wanted = {"to the left of": x0 < x1, "to the right of": x0 > x1, "above": y0 < y1, "below": y0 > y1}
        assert wanted[relation], scene.caption


def test_training_scenes_never_show_what_is_held_out(drawn: SceneGenerator) -> None:
    for scene in drawn.scenes("train", 150, seed=2):
        assert scene.style != HELD_OUT_STYLE
        assert all(held_out_set(one.concept) != scene.drawn_style for one in scene.objects)
        assert scene_split(scene.objects, scene.relation, scene.style) == "train"


def test_test_scenes_are_held_out_each(drawn: SceneGenerator) -> None:
    for scene in drawn.scenes("test", 60, seed=2):
        unseen = any(held_out_set(one.concept) == scene.drawn_style for one in scene.objects)
        assert unseen or scene_split(scene.objects, scene.relation, scene.style) == "test"


def test_a_painted_scene_keeps_its_mask_and_says_no_color(sprites: dict[tuple[str, str], Sprite]) -> None:
    painted = SceneGenerator(sprites, SceneSettings(painted=1.0, objects=(1, 0, 0)))
    scene = next(painted.scenes("train", 1, seed=0))
    assert scene.style in PAINTED_STYLES
    assert scene.masks.any()
    assert "background" not in scene.caption


def test_recolouring_makes_the_color_true_and_keeps_the_alpha() -> None:
    pixels = sprite("dog", "noto").pixels
    blue = np.asarray(recolour(pixels, 0.6))
    assert blue[32, 32, 2] > blue[32, 32, 0]
    assert np.array_equal(blue[..., 3], np.asarray(pixels)[..., 3])
