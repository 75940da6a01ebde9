"""What the degradations of an image share: color and light arithmetic, and objects moved over a filled background.

Pictures are float32 [H, W, 3] in [0, 1] in display gamma, masks bool [H, W], affine maps float64 [2, 3] in pixels of
(x, y).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

Pixels = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]

LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_DISPLAY_GAMMA = 2.2


def union_mask(masks: Masks) -> npt.NDArray[np.bool_]:
    """Pixels of any of the objects: bool [H, W] of masks [K, H, W]."""
    return np.asarray(masks.any(axis=0), dtype=np.bool_)


def as_float32(image: object) -> Pixels:
    """The picture in the type that all operations pass on."""
    return np.asarray(image, dtype=np.float32)


def clipped(image: npt.NDArray[np.floating]) -> Pixels:
    """The picture with values outside [0, 1] cut off."""
    return as_float32(np.clip(image, 0.0, 1.0))


def as_uint8(image: Pixels) -> npt.NDArray[np.uint8]:
    """Rounded uint8 [H, W, 3] of a picture."""
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def random_sign(rng: np.random.Generator) -> float:
    """1 or -1, equally likely."""
    return 1.0 if rng.random() < 0.5 else -1.0


def luma_of(image: Pixels) -> Pixels:
    """Luma [H, W, 1] of a picture."""
    return (image @ LUMA_WEIGHTS)[..., None]


def with_chroma(image: Pixels, factor: float) -> Pixels:
    """The picture with its chroma multiplied by `factor` at constant luma."""
    luma = luma_of(image)
    return clipped(luma + factor * (image - luma))


def hue_turned(image: Pixels, degrees: float) -> Pixels:
    """Hue turned at constant luma: a rotation of the chroma plane of YIQ."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    angle = np.deg2rad(degrees)
    turn = np.eye(3)
    turn[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix = np.linalg.inv(to_yiq) @ turn @ to_yiq
    return clipped(image @ matrix.T.astype(np.float32))


def exposed(image: Pixels, gain: float | npt.NDArray[np.floating]) -> Pixels:
    """Multiplies linear light by `gain`, a number or a map [H, W]."""
    factor = np.asarray(gain, dtype=np.float32)
    if factor.ndim == 2:
        factor = factor[..., None]
    return clipped(image * factor ** np.float32(1.0 / _DISPLAY_GAMMA))


def linear_ramp(image: Pixels, angle: float) -> npt.NDArray[np.float64]:
    """[H, W] from -1 to 1 along a direction."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    along = np.cos(angle) * (columns / (width - 1) - 0.5) + np.sin(angle) * (rows / (height - 1) - 0.5)
    return np.asarray(along / np.abs(along).max(), dtype=np.float64)


def soft_mask(mask: npt.NDArray[np.bool_]) -> Pixels:
    """Opacity [H, W, 1] of a mask with its edge softened by half a pixel."""
    return as_float32(ndimage.gaussian_filter(mask.astype(np.float32), 0.5)[..., None])


def bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a mask; bottom and right lie just outside."""
    rows, columns = np.nonzero(mask)
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


def centre_of(mask: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """(x, y) of the middle of the bounding box."""
    top, bottom, left, right = bounding_box(mask)
    return (left + right) / 2, (top + bottom) / 2


def translation(x: float, y: float) -> npt.NDArray[np.float64]:
    """The affine map that moves by (x, y) pixels."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y]])


def linear_about(point: tuple[float, float], linear: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The affine map [2, 3] that applies `linear` about a point (x, y)."""
    fixed = np.asarray(point) - linear @ np.asarray(point)
    return np.concatenate([linear, fixed[:, None]], axis=1)


def objects_moved(image: Pixels, masks: Masks, maps: list[npt.NDArray[np.float64]]) -> Pixels:
    """Cuts the objects out, fills the hole smoothly and puts object k back through the affine map `maps[k]`."""
    height, width = image.shape[:2]
    result = hole_filled(image, union_mask(masks))
    for mask, affine in zip(masks, maps, strict=True):
        alpha = soft_mask(mask)
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
    return clipped(result)


def hole_filled(image: Pixels, hole: npt.NDArray[np.bool_]) -> Pixels:
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
    return as_float32(image + opacity * (filled - image))
