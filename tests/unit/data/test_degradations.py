"""A derivation always gives the same pixels, hurts the axis it names, and errs on both sides of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from unifl.core.errors import DataContractError
from unifl.data.degradation_operations import FAMILIES
from unifl.data.degradations import Derivation, Family, apply, combined, parse, sample_derivation
from unifl.data.vocabulary import AXES

Image = NDArray[np.uint8]
Masks = NDArray[np.bool_]
ALL = [
    (family, axis, name)
    for family, axes in FAMILIES.items()
    for axis, operations in axes.items()
    for name in operations
]


def scene() -> tuple[Image, Masks]:
    """A shaded orange disc and a blue square on a green gradient."""
    rows, columns = np.mgrid[:64, :64]
    image = np.stack([120 + rows, 170 + rows, 130 + 0 * rows], axis=2).astype(np.uint8)
    disc = (rows - 34) ** 2 + (columns - 19) ** 2 < 12**2
    square = (abs(rows - 30) < 10) & (abs(columns - 46) < 10)
    image[disc] = np.stack([230 - rows, 140 - rows, 40 + 0 * rows], axis=2)[disc]
    image[square] = (40, 70, 190)
    return image, np.stack([disc, square])


def derived(family: Family, operation: str, strength: float, seed: int = 3) -> Image:
    image, masks = scene()
    return apply(str(Derivation(family, operation, strength, seed)), image, masks)


def luma(image: Image) -> NDArray[np.float64]:
    return np.asarray(image @ np.array([0.299, 0.587, 0.114]))


def chroma(image: Image) -> float:
    return float(np.abs(image - luma(image)[..., None]).mean())


def edges(image: Image) -> float:
    return float(np.abs(ndimage.laplace(luma(image))).mean())


def centre_of_objects(image: Image) -> NDArray[np.float64]:
    """Centre of what differs from the green gradient."""
    background = np.stack(
        [120 + np.mgrid[:64, :64][0], 170 + np.mgrid[:64, :64][0], 0 * np.mgrid[:64, :64][0] + 130], 2
    )
    return np.array(ndimage.center_of_mass(np.abs(image - background).sum(axis=2) > 60))


@pytest.mark.parametrize(("family", "axis", "operation"), ALL)
def test_an_operation_hurts_more_the_stronger_it_is(family: Family, axis: str, operation: str) -> None:
    image = scene()[0].astype(float)
    weak = np.abs(derived(family, operation, 0.15) - image).mean()
    strong = np.abs(derived(family, operation, 1.0) - image).mean()
    # An object that has left the frame changes fewer pixels than one that stands beside its old place.
    assert 0 < weak < strong or (axis == "layout" and strong > 0)


@pytest.mark.parametrize(("family", "axis", "operation"), ALL)
def test_a_derivation_always_gives_the_same_pixels(family: Family, axis: str, operation: str) -> None:
    first = derived(family, operation, 0.7)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, derived(family, operation, 0.7))


@pytest.mark.parametrize("axis", AXES)
def test_judges_see_other_operations_than_rewards(axis: str) -> None:
    assert not set(FAMILIES["reward"][axis]) & set(FAMILIES["judge"][axis])
    assert not set(FAMILIES["reward"][axis].values()) & set(FAMILIES["judge"][axis].values())


def test_color_errs_on_both_sides_and_leaves_luma() -> None:
    before = scene()[0]
    assert chroma(derived("reward", "pale", 0.6)) < 0.6 * chroma(before)
    assert chroma(derived("reward", "oversaturated", 0.6)) > 1.3 * chroma(before)
    assert np.abs(luma(derived("reward", "pale", 0.6)) - luma(before)).mean() < 1


def test_lighting_errs_on_both_sides() -> None:
    before = luma(scene()[0]).mean()
    assert luma(derived("reward", "dark", 0.5)).mean() < 0.8 * before
    assert luma(derived("reward", "blown_out", 0.5)).mean() > 1.2 * before
    assert luma(derived("reward", "flat", 1.0)).std() < 0.6 * luma(scene()[0]).std()


def test_detail_errs_on_both_sides() -> None:
    before = edges(scene()[0])
    assert edges(derived("reward", "blur", 0.5)) < 0.5 * before
    assert edges(derived("reward", "noise", 0.8, seed=1)) > 1.5 * before


def test_off_centre_moves_the_objects_and_leaves_no_copy_behind() -> None:
    image, _ = scene()
    moved = derived("reward", "off_centre", 0.5)
    assert np.linalg.norm(centre_of_objects(moved) - centre_of_objects(image)) > 4
    whole = np.abs(image.astype(int) - moved).sum(axis=2)
    assert whole[:4].mean() < 3  # the top border showed background and still does


def test_tilt_turns_objects_where_they_are() -> None:
    image, _ = scene()
    assert np.linalg.norm(centre_of_objects(derived("reward", "tilt", 1.0)) - centre_of_objects(image)) < 2


def test_untouched_is_the_image_itself() -> None:
    image, masks = scene()
    assert np.array_equal(apply("", image, masks), image)


def test_the_given_image_is_not_changed() -> None:
    image, masks = scene()
    copy = image.copy()
    for family, _, operation in ALL:
        apply(str(Derivation(family, operation, 1.0, 0)), image, masks)  # type: ignore[arg-type]
    assert np.array_equal(image, copy)


def test_overlap_of_a_single_object_is_an_error() -> None:
    image, masks = scene()
    with pytest.raises(DataContractError, match="needs 2 objects, the image has 1"):
        apply(str(Derivation("reward", "overlap", 0.5, 0)), image, masks[:1])


def test_layout_without_masks_is_an_error() -> None:
    image, masks = scene()
    with pytest.raises(DataContractError, match="needs 1 objects, the image has 0"):
        apply(str(Derivation("reward", "tilt", 0.5, 0)), image, masks[:0])


@pytest.mark.parametrize("operation", [n for f, a, n in ALL if a != "layout"])
def test_only_layout_needs_masks(operation: str) -> None:
    image, masks = scene()
    family: Family = "reward" if any(operation in FAMILIES["reward"][axis] for axis in AXES) else "judge"
    assert apply(str(Derivation(family, operation, 0.5, 0)), image, masks[:0]).shape == image.shape


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is wrong"),
        ('{"family":"reward"}', "operation"),
        ('{"family":"reward","operation":"melt","strength":0.5,"seed":1}', "blur"),
        ('{"family":"critic","operation":"blur","strength":0.5,"seed":1}', "a family of reward, judge"),
        ('{"family":"reward","operation":"blur","strength":1.5,"seed":1}', "0 < strength <= 1"),
        ('{"family":"reward","operation":"blur","strength":0.5,"seed":1,"extra":2}', "extra"),
        ("[1, 2]", "is wrong"),
    ],
)
def test_a_bad_derivation_says_what_was_expected(text: str, says: str) -> None:
    with pytest.raises(DataContractError, match=says):
        parse(text)


def test_a_combined_derivation_does_both_and_keeps_the_first_axis() -> None:
    image, masks = scene()
    pale, blur = Derivation("reward", "pale", 0.6, 1), Derivation("reward", "blur", 0.6, 2)
    both = combined(str(pale), str(blur))
    assert parse(both) == Derivation("reward", "pale", 0.6, 1, blur)
    degraded = apply(both, image, masks)
    assert chroma(degraded) < 0.6 * chroma(image)
    assert edges(degraded) < 0.6 * edges(image)


def test_combining_with_nothing_is_the_other_one() -> None:
    blur = str(Derivation("reward", "blur", 0.6, 2))
    assert combined(blur, "") == combined("", blur) == blur


def test_two_degradations_of_one_axis_do_not_combine() -> None:
    with pytest.raises(DataContractError, match="of the axis detail"):
        combined(str(Derivation("reward", "blur", 0.6, 2)), str(Derivation("reward", "noise", 0.6, 2)))


@given(st.sampled_from(AXES), st.sampled_from(["reward", "judge"]), st.integers(0, 2**32), st.integers(1, 3))
def test_a_sampled_derivation_reads_back_and_names_its_axis(axis: str, family: Family, seed: int, objects: int) -> None:
    text = sample_derivation(axis, family, np.random.default_rng(seed), objects=objects)
    derivation = parse(text)
    assert derivation is not None
    assert derivation.axis == axis
    assert derivation.family == family
    assert str(derivation) == text
    assert objects >= 2 or derivation.operation != "overlap"


def test_sampling_an_unknown_axis_is_an_error() -> None:
    with pytest.raises(DataContractError, match="color, layout, lighting, detail"):
        sample_derivation("sharpness", "reward", np.random.default_rng(0))
