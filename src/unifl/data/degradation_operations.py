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
import numpy.typing as npt
from PIL import Image
from scipy import ndimage, signal

Pixels = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]
Operation = Callable[[Pixels, Masks, float, np.random.Generator], Pixels]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_DISPLAY_GAMMA = 2.2

# --- color: chroma changes, luma stays ---------------------------------------------------------------------------


def pale(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Takes 15 to 98 % of the chroma away."""
    return _with_chroma(image, 0.85 - 0.83 * strength)


def oversaturated(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Multiplies the chroma by 1.3 to 4; channels clip as they do in a bad edit."""
    return _with_chroma(image, 1.3 + 2.7 * strength)


def clashing_hue(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Turns the hue of the objects by 50 to 180 degrees, either way, makes it garish, and leaves the background."""
    turned = _with_chroma(_turned(image, _sign(rng) * (50.0 + 130.0 * strength)), 1.0 + 0.5 * strength)
    if len(masks) == 0:
        return turned
    alpha = _soft(_union(masks))
    return image + alpha * (turned - image)


def color_cast(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: a cast of one random hue over everything, as from a wrong white balance."""
    angle = rng.uniform(0, 2 * np.pi)
    cast = np.cos(angle - np.array([0.0, 2 * np.pi / 3, 4 * np.pi / 3])).astype(np.float32)
    return _clip(image * (1.0 + 0.55 * strength * cast))


def faded(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: colors lean towards one sepia tone of their own brightness."""
    luma = _luma(image)
    sepia = luma * np.array([1.08, 0.99, 0.86], dtype=np.float32)
    return _clip(image + 0.9 * strength * (sepia - image))


def neon(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: weak chroma is lifted more than strong chroma (a vibrance slider pushed too far)."""
    luma = _luma(image)
    chroma = image - luma
    size = np.sqrt((chroma**2).sum(axis=2, keepdims=True)) + 1e-6
    lifted = size ** (1.0 - 0.6 * strength) * 0.75 ** (0.6 * strength)
    return _clip(luma + chroma * (lifted / size))


def background_clash(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: the background takes a strong hue that its objects were not made for."""
    angle = rng.uniform(0, 2 * np.pi)
    hue = np.cos(angle - np.array([0.0, 2 * np.pi / 3, 4 * np.pi / 3])).astype(np.float32)
    shifted = _clip(_turned(image, _sign(rng) * 120.0 * strength) + 0.3 * strength * (hue - hue @ _LUMA))
    if len(masks) == 0:
        return shifted
    alpha = _soft(_union(masks))
    return shifted + alpha * (image - shifted)


# --- layout: objects are cut out, the background is filled, objects return elsewhere ---------------------------------


def off_centre(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Shifts all objects together, away from the centre, by up to 45 % of the side."""
    height, width = image.shape[:2]
    rows, columns = np.nonzero(_union(masks))
    outward = np.arctan2(rows.mean() - height / 2, columns.mean() - width / 2)
    centred = np.hypot(rows.mean() - height / 2, columns.mean() - width / 2) < 0.04 * width
    angle = rng.uniform(0, 2 * np.pi) if centred else outward + rng.uniform(-0.6, 0.6)
    distance = 0.45 * strength * width
    return _moved(image, masks, [_shift(distance * np.cos(angle), distance * np.sin(angle))] * len(masks))


def cut_off(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Shifts all objects until up to 70 % of their common box lies outside one edge of the frame."""
    height, width = image.shape[:2]
    top, bottom, left, right = _box(_union(masks))
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
    return _moved(image, masks, [_shift(*step)] * len(masks))


def overlap(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Slides every object over the first one drawn, by up to 90 % of the way. Needs two objects."""
    chosen = int(rng.integers(len(masks)))
    target = _centre(masks[chosen])
    steps = []
    for mask in masks:
        x, y = _centre(mask)
        fraction = 0.25 + 0.65 * strength
        steps.append(_shift(fraction * (target[0] - x), fraction * (target[1] - y)))
    return _moved(image, masks, steps)


def tilt(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Turns every object about its own centre by 25 to 100 degrees, either way."""
    angle = np.deg2rad(_sign(rng) * (25.0 + 75.0 * strength))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return _moved(image, masks, [_about(_centre(mask), turn) for mask in masks])


def shrunken(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: objects together shrink to as little as 30 % of their size, about a point off the centre."""
    height, width = image.shape[:2]
    about = (width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7))
    return _moved(image, masks, [_about(about, np.eye(2) * (1.0 - 0.7 * strength))] * len(masks))


def oversized(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: objects grow out of the frame, by up to 2.2."""
    centre = _centre(_union(masks))
    about = (centre[0] + rng.uniform(-6, 6), centre[1] + rng.uniform(-6, 6))
    return _moved(image, masks, [_about(about, np.eye(2) * (1.15 + 1.05 * strength))] * len(masks))


def slanted(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: objects are sheared along x, either way."""
    shear = np.array([[1.0, _sign(rng) * (0.2 + 0.9 * strength)], [0.0, 1.0]])
    return _moved(image, masks, [_about(_centre(mask), shear) for mask in masks])


def scattered(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: each object drifts its own way, some towards each other and some out of the frame."""
    reach = (0.12 + 0.38 * strength) * image.shape[1]
    steps = []
    for _ in masks:
        angle = rng.uniform(0, 2 * np.pi)
        steps.append(_shift(reach * np.cos(angle), reach * np.sin(angle)))
    return _moved(image, masks, steps)


# --- lighting: luminance changes, chromaticity follows -----------------------------------------------------------


def dark(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Underexposed by up to 4 stops."""
    return _exposed(image, 2.0 ** (-4.0 * strength))


def blown_out(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Overexposed by up to 2.5 stops, highlights clipped."""
    return _exposed(image, 2.0 ** (2.5 * strength))


def flat(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Pulls luma towards its mean, in every object and in the background, and the whole picture towards mid-grey."""
    luma = _luma(image)[..., 0]
    target = np.full_like(luma, luma.mean())
    for region in [~_union(masks) if len(masks) else np.ones(luma.shape, bool), *masks]:
        if region.any():
            target[region] = 0.5 * luma[region].mean() + 0.5 * luma.mean()
    return _clip(image + (0.9 * strength * (target - luma))[..., None])


def harsh_shadow(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """A hard light from one side: one half of the picture burns, the other drowns."""
    ramp = np.tanh(2.5 * _ramp(image, rng.uniform(0, 2 * np.pi)))
    return _exposed(image, 2.0 ** (strength * (2.7 * ramp - 0.6)))


def murky(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: a gamma above 1 that drowns the mid-tones and leaves white and black."""
    return _clip(image ** np.float32(1.0 + 2.2 * strength))


def foggy(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: a veil of light grey that lifts the blacks."""
    return _clip(image + 0.8 * strength * (0.88 - image))


def glare(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: a bright spot somewhere in the picture."""
    height, width = image.shape[:2]
    x, y = rng.uniform(0.2, 0.8, 2) * (width, height)
    rows, columns = np.mgrid[:height, :width]
    distance = ((columns - x) ** 2 + (rows - y) ** 2) / (0.32 * width) ** 2
    light = (1.25 * strength * np.exp(-distance))[..., None].astype(np.float32)
    return _clip(1.0 - (1.0 - image) * (1.0 - np.minimum(light, 1.0)))


def vignette(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: corners and edges drown."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    radius = np.hypot((columns - width / 2) / (width / 2), (rows - height / 2) / (height / 2))
    return _exposed(image, 2.0 ** (-4.5 * strength * np.clip(radius - 0.25, 0, None)))


# --- detail: spatial frequencies change --------------------------------------------------------------------------


def blur(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Gaussian blur, sigma 0.35 to 2.5 pixels of 64."""
    sigma = (0.35 + 2.15 * strength) * image.shape[1] / 64
    return _single(ndimage.gaussian_filter(image, (sigma, sigma, 0)))


def jpeg(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """JPEG at quality 55 to 3, chroma subsampled."""
    buffer = io.BytesIO()
    Image.fromarray(_bytes(image)).save(buffer, "JPEG", quality=round(55 - 52 * strength), subsampling=2)
    return _single(np.asarray(Image.open(buffer)) / np.float32(255))


def low_resolution(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Sampled down by 1.3 to 5 and up again with a bicubic kernel."""
    height, width = image.shape[:2]
    factor = 1.3 + 3.7 * strength
    small = Image.fromarray(_bytes(image)).resize((round(width / factor), round(height / factor)), Image.Resampling.BOX)
    return _clip(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)) / np.float32(255))


def noise(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Gaussian noise, deviation 0.02 to 0.2, white or (every other draw) smoothed into blotches of two pixels."""
    grain = rng.standard_normal(image.shape).astype(np.float32)
    if rng.random() < 0.5:
        grain = ndimage.gaussian_filter(grain, (1.0, 1.0, 0))
        grain /= grain.std()
    return _clip(image + (0.02 + 0.18 * strength) * grain)


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
    return _clip(signal.fftconvolve(padded, (kernel / kernel.sum())[..., None], mode="valid", axes=(0, 1)))


def pixelated(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: blocks of 2 to 7 pixels of 64."""
    height, width = image.shape[:2]
    block = (1.7 + 5.3 * strength) * width / 64
    small = Image.fromarray(_bytes(image)).resize((round(width / block), round(height / block)), Image.Resampling.BOX)
    return _clip(np.asarray(small.resize((width, height), Image.Resampling.NEAREST)) / np.float32(255))


def speckled(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: 1 to 22 % of the pixels are replaced by random ones."""
    hit = rng.random(image.shape[:2]) < 0.01 + 0.21 * strength
    return np.where(hit[..., None], rng.random(image.shape, dtype=np.float32), image)


def halos(image: Pixels, masks: Masks, strength: float, rng: np.random.Generator) -> Pixels:
    """Judges' family: oversharpened until light and dark rims stand around every edge."""
    smooth = ndimage.gaussian_filter(image, (1.3, 1.3, 0))
    return _clip(image + (0.6 + 4.4 * strength) * (image - smooth))


# --- the parts they share ----------------------------------------------------------------------------------------


def _union(masks: Masks) -> npt.NDArray[np.bool_]:
    return np.asarray(masks.any(axis=0), dtype=np.bool_)


def _single(image: object) -> Pixels:
    return np.asarray(image, dtype=np.float32)


def _clip(image: npt.NDArray[np.floating]) -> Pixels:
    return _single(np.clip(image, 0.0, 1.0))


def _bytes(image: Pixels) -> npt.NDArray[np.uint8]:
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _luma(image: Pixels) -> Pixels:
    return (image @ _LUMA)[..., None]


def _with_chroma(image: Pixels, factor: float) -> Pixels:
    luma = _luma(image)
    return _clip(luma + factor * (image - luma))


def _turned(image: Pixels, degrees: float) -> Pixels:
    """Hue turned at constant luma: a rotation of the chroma plane of YIQ."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    angle = np.deg2rad(degrees)
    turn = np.eye(3)
    turn[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix = np.linalg.inv(to_yiq) @ turn @ to_yiq
    return _clip(image @ matrix.T.astype(np.float32))


def _exposed(image: Pixels, gain: float | npt.NDArray[np.floating]) -> Pixels:
    """Multiplies linear light by `gain`, a number or a map [H, W]."""
    factor = np.asarray(gain, dtype=np.float32)
    if factor.ndim == 2:
        factor = factor[..., None]
    return _clip(image * factor ** np.float32(1.0 / _DISPLAY_GAMMA))


def _ramp(image: Pixels, angle: float) -> npt.NDArray[np.float64]:
    """[H, W] from -1 to 1 along a direction."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    along = np.cos(angle) * (columns / (width - 1) - 0.5) + np.sin(angle) * (rows / (height - 1) - 0.5)
    return np.asarray(along / np.abs(along).max(), dtype=np.float64)


def _soft(mask: npt.NDArray[np.bool_]) -> Pixels:
    """Opacity [H, W, 1] of a mask with its edge softened by half a pixel."""
    return _single(ndimage.gaussian_filter(mask.astype(np.float32), 0.5)[..., None])


def _box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


def _centre(mask: npt.NDArray[np.bool_]) -> tuple[float, float]:
    top, bottom, left, right = _box(mask)
    return (left + right) / 2, (top + bottom) / 2


def _shift(x: float, y: float) -> npt.NDArray[np.float64]:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])


def _about(point: tuple[float, float], linear: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The affine map [2, 3] that applies `linear` about a point (x, y)."""
    fixed = np.asarray(point) - linear @ np.asarray(point)
    return np.concatenate([linear, fixed[:, None]], axis=1)


def _moved(image: Pixels, masks: Masks, maps: list[npt.NDArray[np.float64]]) -> Pixels:
    """Cuts the objects out, fills the hole smoothly and puts object k back through the affine map `maps[k]`."""
    height, width = image.shape[:2]
    result = _filled(image, _union(masks))
    for mask, affine in zip(masks, maps, strict=True):
        alpha = _soft(mask)
        layer = np.concatenate([image * alpha, alpha], axis=2)
        inverse = np.linalg.inv(affine[:, :2])
        offset = -inverse @ affine[:, 2]
        coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
        # Premultiplied, one channel at a time: PIL resamples "F" images without rounding.
        channels = [
            Image.fromarray(layer[..., channel]).transform(
                (width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
            )
            for channel in range(4)
        ]
        placed = np.stack([np.asarray(channel) for channel in channels], axis=2)
        opacity = np.clip(placed[..., 3:], 0, 1)
        result = placed[..., :3] + (1 - opacity) * result
    return _clip(result)


def _filled(image: Pixels, hole: npt.NDArray[np.bool_]) -> Pixels:
    """The image with `hole` filled from around it: near pixels count most (normalised convolution at two scales)."""
    known = ~ndimage.binary_dilation(hole, iterations=2)
    if not known.any():
        known = np.zeros_like(hole)
        known[[0, -1], :] = known[:, [0, -1]] = True
    weights = known.astype(np.float32)[..., None]
    stacked = np.concatenate([image * weights, weights], axis=2)
    filled: Pixels | None = None
    for sigma in (12.0, 3.0):
        smooth = ndimage.gaussian_filter(stacked, (sigma, sigma, 0), mode="nearest", truncate=3.0)
        confidence = np.clip(smooth[..., 3:] * 4, 0, 1) if filled is not None else 1.0
        estimate = smooth[..., :3] / (smooth[..., 3:] + 1e-6)
        filled = estimate if filled is None else filled + confidence * (estimate - filled)
    opacity = ndimage.gaussian_filter((~known).astype(np.float32), 0.7)[..., None]
    assert filled is not None
    return _single(image + opacity * (filled - image))


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
