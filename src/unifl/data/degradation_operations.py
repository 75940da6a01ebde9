"""What the degradations do to pixels: one pure function an operation, for each axis and each of the two families.

Rewards (arXiv 2404.05595 §3.2) learn from the first family of an axis and judges from the second, so that a judge never
measures a reward by the very distortion that taught it. Every operation is *two-sided* in company: an axis has
operations that err on either side (too pale and too saturated), so that no reward grows without bound in one direction.

All functions take float32 [H, W, 3] in [0, 1], instance masks bool [K, H, W] (K may be 0 except in layout), a strength
in (0, 1] and a generator, and return float32 [H, W, 3] in [0, 1].
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage, signal

from unifl.data.pixel_operations import (
    LUMA_WEIGHTS,
    Masks,
    Pixels,
    as_float32,
    as_uint8,
    bounding_box,
    centre_of,
    clipped,
    exposed,
    hue_turned,
    linear_about,
    linear_ramp,
    luma_of,
    objects_moved,
    random_sign,
    soft_mask,
    translation,
    union_mask,
    with_chroma,
)

Operation = Callable[[Pixels, Masks, float, np.random.Generator], Pixels]

# --- color: chroma changes, luma stays ---------------------------------------------------------------------------


def pale(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Takes 15 to 98 % of the chroma away."""
    return with_chroma(image, 0.85 - 0.83 * strength)


def oversaturated(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Multiplies the chroma by 1.3 to 4; channels clip as they do in a bad edit."""
    return with_chroma(image, 1.3 + 2.7 * strength)


def clashing_hue(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Turns the hue of the objects by 50 to 180 degrees, either way, makes it garish, and leaves the background."""
    turned = with_chroma(hue_turned(image, random_sign(rng) * (50.0 + 130.0 * strength)), 1.0 + 0.5 * strength)
    if len(masks) == 0:
        return turned
    alpha = soft_mask(union_mask(masks))
    return image + alpha * (turned - image)


def color_cast(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: a cast of one random hue over everything, as from a wrong white balance."""
    angle = rng.uniform(0, 2 * np.pi)
    cast = np.cos(angle - np.array([0.0, 2 * np.pi / 3, 4 * np.pi / 3])).astype(np.float32)
    return clipped(image * (1.0 + 0.55 * strength * cast))


def faded(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: colors lean towards one sepia tone of their own brightness."""
    luma = luma_of(image)
    sepia = luma * np.array([1.08, 0.99, 0.86], dtype=np.float32)
    return clipped(image + 0.9 * strength * (sepia - image))


def neon(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: weak chroma is lifted more than strong chroma (a vibrance slider pushed too far)."""
    luma = luma_of(image)
    chroma = image - luma
    size = np.sqrt((chroma**2).sum(axis=2, keepdims=True)) + 1e-6
    lifted = size ** (1.0 - 0.6 * strength) * 0.75 ** (0.6 * strength)
    return clipped(luma + chroma * (lifted / size))


def background_clash(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: the background takes a strong hue that its objects were not made for."""
    angle = rng.uniform(0, 2 * np.pi)
    hue = np.cos(angle - np.array([0.0, 2 * np.pi / 3, 4 * np.pi / 3])).astype(np.float32)
    shifted = clipped(
        hue_turned(image, random_sign(rng) * 120.0 * strength) + 0.3 * strength * (hue - hue @ LUMA_WEIGHTS)
    )
    if len(masks) == 0:
        return shifted
    alpha = soft_mask(union_mask(masks))
    return shifted + alpha * (image - shifted)


# --- layout: objects are cut out, the background is filled, objects return elsewhere ---------------------------------


def off_centre(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Shifts all objects together, away from the centre, by up to 45 % of the side."""
    height, width = image.shape[:2]
    rows, columns = np.nonzero(union_mask(masks))
    outward = np.arctan2(rows.mean() - height / 2, columns.mean() - width / 2)
    centred = np.hypot(rows.mean() - height / 2, columns.mean() - width / 2) < 0.04 * width
    angle = rng.uniform(0, 2 * np.pi) if centred else outward + rng.uniform(-0.6, 0.6)
    distance = 0.45 * strength * width
    return objects_moved(image, masks, [translation(distance * np.cos(angle), distance * np.sin(angle))] * len(masks))


def cut_off(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Shifts all objects until up to 70 % of their common box lies outside one edge of the frame."""
    height, width = image.shape[:2]
    top, bottom, left, right = bounding_box(union_mask(masks))
    edge = rng.integers(4)
    outside = 0.15 + 0.55 * strength
    if edge == 0:
        step = (-(left + outside * (right - left)), 0.0)
    elif edge == 1:
        step = (width - right + outside * (right - left), 0.0)
    elif edge == 2:
        step = (0.0, -(top + outside * (bottom - top)))
    else:
        step = (0.0, height - bottom + outside * (bottom - top))
    return objects_moved(image, masks, [translation(*step)] * len(masks))


def overlap(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Slides every object over the first one drawn, by up to 90 % of the way. Needs two objects."""
    chosen = int(rng.integers(len(masks)))
    target = centre_of(masks[chosen])
    steps = []
    for mask in masks:
        x, y = centre_of(mask)
        fraction = 0.25 + 0.65 * strength
        steps.append(translation(fraction * (target[0] - x), fraction * (target[1] - y)))
    return objects_moved(image, masks, steps)


def tilt(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Turns every object about its own centre by 25 to 100 degrees, either way."""
    angle = np.deg2rad(random_sign(rng) * (25.0 + 75.0 * strength))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return objects_moved(image, masks, [linear_about(centre_of(mask), turn) for mask in masks])


def shrunken(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: objects together shrink to as little as 30 % of their size, about a point off the centre."""
    height, width = image.shape[:2]
    about = (width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7))
    return objects_moved(image, masks, [linear_about(about, np.eye(2) * (1.0 - 0.7 * strength))] * len(masks))


def oversized(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: objects grow out of the frame, by up to 2.2."""
    centre = centre_of(union_mask(masks))
    about = (centre[0] + rng.uniform(-6, 6), centre[1] + rng.uniform(-6, 6))
    return objects_moved(image, masks, [linear_about(about, np.eye(2) * (1.15 + 1.05 * strength))] * len(masks))


def slanted(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: objects are sheared along x, either way."""
    shear = np.array([[1.0, random_sign(rng) * (0.2 + 0.9 * strength)], [0.0, 1.0]])
    return objects_moved(image, masks, [linear_about(centre_of(mask), shear) for mask in masks])


def scattered(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: each object drifts its own way, some towards each other and some out of the frame."""
    reach = (0.12 + 0.38 * strength) * image.shape[1]
    steps = []
    for _ in masks:
        angle = rng.uniform(0, 2 * np.pi)
        steps.append(translation(reach * np.cos(angle), reach * np.sin(angle)))
    return objects_moved(image, masks, steps)


# --- lighting: luminance changes, chromaticity follows -----------------------------------------------------------


def dark(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Underexposed by up to 4 stops."""
    return exposed(image, 2.0 ** (-4.0 * strength))


def blown_out(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Overexposed by up to 2.5 stops, highlights clipped."""
    return exposed(image, 2.0 ** (2.5 * strength))


def flat(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Pulls luma towards its mean, in every object and in the background, and the whole picture towards mid-grey."""
    luma = luma_of(image)[..., 0]
    target = np.full_like(luma, luma.mean())
    for region in [~union_mask(masks) if len(masks) else np.ones(luma.shape, bool), *masks]:
        if region.any():
            target[region] = 0.5 * luma[region].mean() + 0.5 * luma.mean()
    return clipped(image + (0.9 * strength * (target - luma))[..., None])


def harsh_shadow(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """A hard light from one side: one half of the picture burns, the other drowns."""
    ramp = np.tanh(2.5 * linear_ramp(image, rng.uniform(0, 2 * np.pi)))
    return exposed(image, 2.0 ** (strength * (2.7 * ramp - 0.6)))


def murky(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: a gamma above 1 that drowns the mid-tones and leaves white and black."""
    return clipped(image ** np.float32(1.0 + 2.2 * strength))


def foggy(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: a veil of light grey that lifts the blacks."""
    return clipped(image + 0.8 * strength * (0.88 - image))


def glare(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: a bright spot somewhere in the picture."""
    height, width = image.shape[:2]
    x, y = rng.uniform(0.2, 0.8, 2) * (width, height)
    rows, columns = np.mgrid[:height, :width]
    distance = ((columns - x) ** 2 + (rows - y) ** 2) / (0.32 * width) ** 2
    light = (1.25 * strength * np.exp(-distance))[..., None].astype(np.float32)
    return clipped(1.0 - (1.0 - image) * (1.0 - np.minimum(light, 1.0)))


def vignette(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: corners and edges drown."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    radius = np.hypot((columns - width / 2) / (width / 2), (rows - height / 2) / (height / 2))
    return exposed(image, 2.0 ** (-4.5 * strength * np.clip(radius - 0.25, 0, None)))


# --- detail: spatial frequencies change --------------------------------------------------------------------------


def blur(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Gaussian blur, sigma 0.35 to 2.5 pixels of 64."""
    sigma = (0.35 + 2.15 * strength) * image.shape[1] / 64
    return as_float32(ndimage.gaussian_filter(image, (sigma, sigma, 0)))


def jpeg(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """JPEG at quality 55 to 3, chroma subsampled."""
    buffer = io.BytesIO()
    Image.fromarray(as_uint8(image)).save(buffer, "JPEG", quality=round(55 - 52 * strength), subsampling=2)
    return as_float32(np.asarray(Image.open(buffer)) / np.float32(255))


def low_resolution(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Sampled down by 1.3 to 5 and up again with a bicubic kernel."""
    height, width = image.shape[:2]
    factor = 1.3 + 3.7 * strength
    small = Image.fromarray(as_uint8(image)).resize(
        (round(width / factor), round(height / factor)), Image.Resampling.BOX
    )
    return clipped(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)) / np.float32(255))


def noise(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Gaussian noise, deviation 0.02 to 0.2, white or (every other draw) smoothed into blotches of two pixels."""
    grain = rng.standard_normal(image.shape).astype(np.float32)
    if rng.random() < 0.5:
        grain = ndimage.gaussian_filter(grain, (1.0, 1.0, 0))
        grain /= grain.std()
    return clipped(image + (0.02 + 0.18 * strength) * grain)


def motion_blur(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: a streak of 2 to 11 pixels of 64 along one direction."""
    length = (2 + 9 * strength) * image.shape[1] / 64
    angle = rng.uniform(0, np.pi)
    reach = int(np.ceil(length / 2)) + 1
    # The streak as a kernel: points along a line, each shared among the four pixels around it.
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), dtype=np.float32)
    for offset in np.linspace(-0.5, 0.5, 4 * reach) * length:
        row, column = reach + offset * np.sin(angle), reach + offset * np.cos(angle)
        top, left = int(row), int(column)
        down, right = row - top, column - left
        kernel[top : top + 2, left : left + 2] += np.outer([1 - down, down], [1 - right, right])
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    return clipped(signal.fftconvolve(padded, (kernel / kernel.sum())[..., None], mode="valid", axes=(0, 1)))


def pixelated(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: blocks of 2 to 7 pixels of 64."""
    height, width = image.shape[:2]
    block = (1.7 + 5.3 * strength) * width / 64
    small = Image.fromarray(as_uint8(image)).resize((round(width / block), round(height / block)), Image.Resampling.BOX)
    return clipped(np.asarray(small.resize((width, height), Image.Resampling.NEAREST)) / np.float32(255))


def speckled(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: 1 to 22 % of the pixels are replaced by random ones."""
    hit = rng.random(image.shape[:2]) < 0.01 + 0.21 * strength
    return np.where(hit[..., None], rng.random(image.shape, dtype=np.float32), image)


def halos(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: oversharpened until light and dark rims stand around every edge."""
    smooth = ndimage.gaussian_filter(image, (1.3, 1.3, 0))
    return clipped(image + (0.6 + 4.4 * strength) * (image - smooth))


FAMILIES: dict[str, dict[str, dict[str, Operation]]] = {
    "reward": {
        "color": {"pale": pale, "oversaturated": oversaturated, "clashing_hue": clashing_hue},
        "layout": {"off_centre": off_centre, "cut_off": cut_off, "overlap": overlap, "tilt": tilt},
        "lighting": {"dark": dark, "blown_out": blown_out, "flat": flat, "harsh_shadow": harsh_shadow},
        "detail": {"blur": blur, "jpeg": jpeg, "low_resolution": low_resolution, "noise": noise},
    },
    "judge": {
        "color": {"color_cast": color_cast, "faded": faded, "neon": neon, "background_clash": background_clash},
        "layout": {"shrunken": shrunken, "oversized": oversized, "slanted": slanted, "scattered": scattered},
        "lighting": {"murky": murky, "foggy": foggy, "glare": glare, "vignette": vignette},
        "detail": {"motion_blur": motion_blur, "pixelated": pixelated, "speckled": speckled, "halos": halos},
    },
}
NEEDS_TWO_OBJECTS = frozenset({"overlap"})
