"""Controlled, two-sided degradations of an image on one of the four axes, named by a short JSON *derivation*.

A preference pair (arXiv 2404.05595 §3.2) holds an image id and how each side was derived from it, never pixels; this
module turns the derivation back into pixels, always into the same ones. Reward models see the family "reward", judges
the family "judge", whose operations differ on every axis.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unifl.core.errors import DataContractError
from unifl.data.degradation_operations import FAMILIES, NEEDS_TWO_OBJECTS
from unifl.data.pixel_operations import Masks, Pixels
from unifl.data.vocabulary import AXES

Family = Literal["reward", "judge"]
UNTOUCHED = ""
WEAKEST = 0.2  # below this, a degradation of a 64-pixel image is hardly visible
_SEEDS = 100_000
_ORDER = ("color", "lighting", "layout", "detail")

_OPERATIONS = {
    (family, name): (axis, operation)
    for family, axes in FAMILIES.items()
    for axis, operations in axes.items()
    for name, operation in operations.items()
}


@dataclass(frozen=True)
class Derivation:
    """How one side of a pair was made: an operation of a family, its strength in (0, 1] and the seed of its choices.

    `also` is a second degradation, on another axis: a distraction, by which a reward learns to look at its own axis.
    """

    family: Family
    operation: str
    strength: float
    seed: int
    also: Derivation | None = None

    @property
    def axis(self) -> str:
        """The axis on which the operation degrades."""
        return _OPERATIONS[self.family, self.operation][0]

    def on(self, axis: str) -> Derivation | None:
        """The part that degrades `axis`, or None."""
        return self if self.axis == axis else self.also.on(axis) if self.also is not None else None

    def __str__(self) -> str:
        return json.dumps(self._fields(), separators=(",", ":"))

    def _fields(self) -> dict[str, Any]:
        own = {"family": self.family, "operation": self.operation, "strength": self.strength, "seed": self.seed}
        return own if self.also is None else own | {"also": self.also._fields()}


def parse(derivation: str) -> Derivation | None:
    """The derivation that a JSON text names; None for "" (untouched).

    Raises DataContractError when the text is not JSON, has other fields, or names an unknown family or operation.
    """
    if derivation == UNTOUCHED:
        return None
    try:
        return _derivation(json.loads(derivation))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataContractError(
            f"derivation {derivation!r} is wrong: {_reason(error)}",
            expected='JSON like {"family":"reward","operation":"blur","strength":0.5,"seed":7} or ""',
        ) from error


def _derivation(fields: dict[str, Any], nested: bool = False) -> Derivation:
    """Raises KeyError, TypeError or ValueError, which say what is wrong with the fields."""
    family, operation = fields["family"], fields["operation"]
    strength, seed = float(fields["strength"]), int(fields["seed"])
    extra = set(fields) - {"family", "operation", "strength", "seed", *([] if nested else ["also"])}
    if extra:
        raise ValueError(f"unknown fields {sorted(extra)}")
    if (family, operation) not in _OPERATIONS:
        known = ", ".join(name for of, name in _OPERATIONS if of == family) or f"a family of {', '.join(FAMILIES)}"
        raise ValueError(f"unknown operation {operation!r}, known are {known}")
    if not 0 < strength <= 1 or seed < 0:
        raise ValueError("0 < strength <= 1 and seed >= 0 do not hold")
    also = _derivation(fields["also"], nested=True) if "also" in fields else None
    derivation = Derivation(family, operation, strength, seed, also)
    if also is not None and also.axis == derivation.axis:
        raise ValueError(f"both operations are of the axis {also.axis}")
    return derivation


def _reason(error: Exception) -> str:
    return f"field {error} is missing" if isinstance(error, KeyError) else str(error)


def apply(derivation: str, image: npt.NDArray[np.uint8], masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """The image that a derivation describes, uint8 [H, W, 3]; the image itself for "".

    Args:
        derivation: JSON as in :class:`Derivation`.
        image: uint8 [H, W, 3].
        masks: bool [K, H, W], one an object; layout needs at least one, and overlap at least two.

    Raises:
        DataContractError: the derivation is unreadable, or the image has too few objects for it.
    """
    parsed = parse(derivation)
    if parsed is None:
        return image
    # Objects that another object hides completely have an empty mask and nothing to move.
    visible = masks[masks.any(axis=(1, 2))]
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    parts = [parsed] if parsed.also is None else [parsed, parsed.also]
    # Masks say where objects are until layout moves them; a camera's faults come after the scene's.
    for part in sorted(parts, key=lambda part: _ORDER.index(part.axis)):
        pixels = _degraded(part, pixels, visible)
    return np.round(pixels * 255).astype(np.uint8)


def _degraded(part: Derivation, pixels: Pixels, visible: Masks) -> Pixels:
    axis, operation = _OPERATIONS[part.family, part.operation]
    needed = 2 if part.operation in NEEDS_TWO_OBJECTS else 1 if axis == "layout" else 0
    if len(visible) < needed:
        raise DataContractError(
            f"operation {part.operation} needs {needed} objects, the image has {len(visible)}",
            expected="instance masks of the image",
        )
    # Operations of different names draw different numbers from the same seed.
    rng = np.random.default_rng([part.seed, *part.operation.encode()])
    return operation(pixels, visible, part.strength, rng)


def combined(derivation: str, also: str) -> str:
    """One derivation that does both; either may be "". Raises DataContractError when both are of one axis."""
    first, second = parse(derivation), parse(also)
    if first is None or second is None:
        return derivation or also
    both = str(replace(first, also=second))
    parse(both)
    return both


def sample_derivation(
    axis: str,
    family: Family,
    rng: np.random.Generator,
    *,
    objects: int = 1,
    strength: float | None = None,
    operation: str | None = None,
) -> str:
    """A random derivation of an axis as JSON: any operation that `objects` objects allow, equally likely.

    `operation` fixes the operation; `strength` is drawn from [0.2, 1] unless it is given; it is rounded to two digits.
    Raises DataContractError for an unknown axis or family, or an operation that is none of theirs.
    """
    if axis not in AXES or family not in FAMILIES:
        raise DataContractError(
            f"unknown axis {axis!r} or family {family!r}",
            expected=f"axis in {', '.join(AXES)}; family in {', '.join(FAMILIES)}",
        )
    names = [name for name in FAMILIES[family][axis] if objects >= 2 or name not in NEEDS_TWO_OBJECTS]
    if operation is not None and operation not in names:
        raise DataContractError(f"operation {operation!r} does not fit", expected=f"one of {', '.join(names)}")
    name = operation or names[int(rng.integers(len(names)))]
    drawn = rng.uniform(WEAKEST, 1.0) if strength is None else strength
    return str(Derivation(family, name, max(round(float(drawn), 2), 0.01), int(rng.integers(_SEEDS))))
