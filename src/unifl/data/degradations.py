"""Controlled, two-sided degradations of an image on one of the four axes, named by a short JSON *derivation*.

A preference pair (arXiv 2404.05595 §3.2) holds an image id and how each side was derived from it, never pixels; this
module turns the derivation back into pixels, always into the same ones. Reward models see the family "reward", judges
the family "judge", whose operations differ on every axis.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from unifl.core.errors import DataContractError
from unifl.data.degradation_operations import FAMILIES, NEEDS_TWO_OBJECTS
from unifl.data.vocabulary import AXES

Family = Literal["reward", "judge"]
UNTOUCHED = ""
WEAKEST = 0.15  # below this, a degradation of a 64-pixel image is hardly visible
_SEEDS = 100_000

_OPERATIONS = {
    (family, name): (axis, operation)
    for family, axes in FAMILIES.items()
    for axis, operations in axes.items()
    for name, operation in operations.items()
}


@dataclass(frozen=True)
class Derivation:
    """How one side of a pair was made: an operation of a family, its strength in (0, 1] and the seed of its choices."""

    family: Family
    operation: str
    strength: float
    seed: int

    @property
    def axis(self) -> str:
        """The axis on which the operation degrades."""
        return _OPERATIONS[self.family, self.operation][0]

    def __str__(self) -> str:
        return json.dumps(
            {"family": self.family, "operation": self.operation, "strength": self.strength, "seed": self.seed},
            separators=(",", ":"),
        )


def parse(derivation: str) -> Derivation | None:
    """The derivation that a JSON text names; None for "" (untouched).

    Raises DataContractError when the text is not JSON, has other fields, or names an unknown family or operation.
    """
    if derivation == UNTOUCHED:
        return None
    expected = 'JSON like {"family":"reward","operation":"blur","strength":0.5,"seed":7} or ""'
    try:
        fields = json.loads(derivation)
        parsed = Derivation(fields["family"], str(fields["operation"]), float(fields["strength"]), int(fields["seed"]))
        extra = set(fields) - {"family", "operation", "strength", "seed"}
    except (ValueError, KeyError, TypeError) as error:
        raise DataContractError(f"derivation {derivation!r} is unreadable ({error})", expected=expected) from error
    if extra:
        raise DataContractError(f"derivation {derivation!r} has unknown fields {sorted(extra)}", expected=expected)
    if (parsed.family, parsed.operation) not in _OPERATIONS:
        known = ", ".join(name for family, name in _OPERATIONS if family == parsed.family)
        raise DataContractError(
            f"derivation {derivation!r} names an unknown operation",
            expected=f"one of {known}" if known else f"family {' or '.join(get_args(Family))}",
        )
    if not 0 < parsed.strength <= 1 or parsed.seed < 0:
        raise DataContractError(
            f"derivation {derivation!r}: strength or seed out of range", expected="0 < strength <= 1"
        )
    return parsed


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
    axis, operation = _OPERATIONS[parsed.family, parsed.operation]
    # Objects that another object hides completely have an empty mask and nothing to move.
    visible = masks[masks.any(axis=(1, 2))]
    needed = 2 if parsed.operation in NEEDS_TWO_OBJECTS else 1 if axis == "layout" else 0
    if len(visible) < needed:
        raise DataContractError(
            f"derivation {derivation!r} needs {needed} objects, the image has {len(visible)}",
            expected="instance masks of the image",
        )
    # Operations of different names draw different numbers from the same seed.
    rng = np.random.default_rng([parsed.seed, *parsed.operation.encode()])
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    degraded = operation(pixels, visible, parsed.strength, rng)
    return np.round(degraded * 255).astype(np.uint8)


def sample_derivation(
    axis: str,
    family: Family,
    rng: np.random.Generator,
    *,
    objects: int = 1,
    strength: float | None = None,
) -> str:
    """A random derivation of an axis as JSON: any operation that `objects` objects allow, equally likely.

    `strength` is drawn from [0.15, 1] unless it is given; it is rounded to two digits.
    Raises DataContractError for an unknown axis or family.
    """
    if axis not in AXES or family not in FAMILIES:
        raise DataContractError(
            f"unknown axis {axis!r} or family {family!r}",
            expected=f"axis in {', '.join(AXES)}; family in {', '.join(FAMILIES)}",
        )
    names = [name for name in FAMILIES[family][axis] if objects >= 2 or name not in NEEDS_TWO_OBJECTS]
    name = names[int(rng.integers(len(names)))]
    drawn = rng.uniform(WEAKEST, 1.0) if strength is None else strength
    return str(Derivation(family, name, max(round(float(drawn), 2), 0.01), int(rng.integers(_SEEDS))))
