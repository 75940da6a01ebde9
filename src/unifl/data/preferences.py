"""Preference pairs with known answers: images degraded on one axis, twins drawn flat and shaded, and the votes on them.

They stand in for the annotated pairs of arXiv 2404.05595 §3.2 (about 30,000 an axis, 4 to 5 annotators) in the
embedded preset: the degradations say which side is better and by how much, a Bradley-Terry annotator says who notices.
Every row says that it is synthetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unifl.core.errors import DataContractError
from unifl.data.degradation_operations import NEEDS_TWO_OBJECTS
from unifl.data.degradations import UNTOUCHED, combined, parse, sample_derivation
from unifl.data.vocabulary import AXES, HELD_OUT_STYLE, ObjectPhrase

if TYPE_CHECKING:
    from unifl.data.contracts import ImageTable

# Shares of the four kinds of pairs. The first teaches what a fault is, the second and third how faults compare (also
# between different pictures of one concept, as people compare samples of a prompt), the last to ignore other axes:
# there either side may be degraded on another axis too, whichever is preferred. Without it a color reward rose by a
# whole standard deviation when pictures were blurred.
KINDS: dict[str, float] = {"untouched": 0.25, "degrees": 0.2, "two_images": 0.2, "distracted": 0.35}
# Natural pairs, of the lighting axis: one concept from two editions of one icon set, drawn flat and drawn with light
# and shade, neither altered. Few, and each once: flat is also a style that prompts ask for by name.
FLAT_STYLE, SHADED_STYLE = "fluent-emoji-flat", "fluent-emoji"
TWINS = 0.08  # share of the lighting pairs, as long as there are twins
FLATNESS = 0.3  # on the scale of strengths: visible, and less than most faults
DISTRACTION = 0.7  # share of the sides of distracted pairs that are degraded on another axis
# Least difference of strength between two degraded sides: below it there is nothing to see. Both have the same fault,
# since strengths of different operations are not on one scale.
SAME_AXIS_GAP = 0.25


@dataclass(frozen=True)
class Annotator:
    """One simulated annotator.

    `discernment` is the inverse temperature of the Bradley-Terry choice per unit of strength; `lapse` the share of
    votes cast without looking.
    """

    number: int
    discernment: float
    lapse: float

    @property
    def weight(self) -> float:
        """Weight of the votes: the share of votes that are not lapses, as questions with known answers would show."""
        return round(1.0 - self.lapse, 2)


@dataclass(frozen=True)
class Side:
    """One side of a pair: which image, how it was derived, its true quality on the axis (0 is untouched, -1 worst)."""

    image_id: str
    derivation: str
    quality: float


@dataclass(frozen=True)
class Pair:
    """Two sides of one axis, before anybody has voted."""

    pair_id: str
    axis: str
    prompt: str
    a: Side
    b: Side
    split: str


def annotators(count: int, seed: int) -> list[Annotator]:
    """`count` annotators of individual reliability: discernment 6 to 16 per unit of strength, lapses 1 to 10 %."""
    rng = np.random.default_rng([seed, 5])
    return [Annotator(i, float(rng.uniform(6, 16)), float(rng.uniform(0.01, 0.10))) for i in range(count)]


def vote_probability(quality_a: float, quality_b: float, annotator: Annotator) -> float:
    """Probability in (0, 1) that the annotator prefers a: Bradley-Terry on the qualities, mixed with blind lapses."""
    choice = 1.0 / (1.0 + np.exp(-annotator.discernment * (quality_a - quality_b)))
    return float(annotator.lapse / 2 + (1 - annotator.lapse) * choice)


def quality(derivation: str, axis: str) -> float:
    """True quality on an axis: minus the strength of a degradation of that axis, 0 where there is none."""
    parsed = parse(derivation)
    part = parsed.on(axis) if parsed is not None else None
    return -part.strength if part is not None else 0.0


def make_pairs(images: ImageTable, axis: str, split: str, count: int, seed: int) -> Iterator[Pair]:
    """`count` pairs of an axis among the images of a split, family "reward".

    Which images pair number i shows depends on (seed, split, i) and not on the axis, so that four axes share most of
    their untouched sides and a feature cache pays; only the flat and shaded twins are lighting's own. Images of the
    held-out style are left out.

    Raises DataContractError when the split has no usable image.
    """
    pool = _Pool(images, split)
    twins = pool.twins(np.random.default_rng([seed, _number(split)])) if axis == "lighting" else []
    for number in range(count):
        # Two generators: what is shared by the axes, and what is not.
        shared = np.random.default_rng([seed, _number(split), number])
        own = np.random.default_rng([seed, _number(split), number, AXES.index(axis) + 1])
        kind = str(shared.choice(list(KINDS), p=list(KINDS.values())))
        first = pool.any_image(shared)
        second = pool.same_concept(first, shared) if kind == "two_images" else None
        if kind == "two_images" and second is None:
            kind = "degrees"
        if twins and own.random() < TWINS:
            shaded, flat = twins.pop()
            sides = [Side(shaded, UNTOUCHED, 0.0), Side(flat, UNTOUCHED, -FLATNESS)]
            prompt = ObjectPhrase(pool.common_concept(shaded, flat)).words()
        else:
            sides, prompt = _sides(kind, axis, pool, first, second, own)
        if own.random() < 0.5:
            sides = sides[::-1]
        yield Pair(f"{axis}-{split}-{number:05d}", axis, prompt, sides[0], sides[1], split)


def votes(pairs: Sequence[Pair], panel: Sequence[Annotator], seed: int) -> list[dict[str, Any]]:
    """One row a vote, in the columns of the preferences contract; vote k of a pair depends on (seed, pair, k) alone."""
    rows = []
    for pair in pairs:
        rng = np.random.default_rng([seed, *pair.pair_id.encode()])
        for annotator in panel:
            chance = vote_probability(pair.a.quality, pair.b.quality, annotator)
            rows.append(
                {
                    "pair_id": pair.pair_id,
                    "axis": pair.axis,
                    "prompt": pair.prompt,
                    "image_a": pair.a.image_id,
                    "derivation_a": pair.a.derivation,
                    "image_b": pair.b.image_id,
                    "derivation_b": pair.b.derivation,
                    "preferred": "a" if rng.random() < chance else "b",
                    "annotator": annotator.number,
                    "weight": annotator.weight,
                    "split": pair.split,
                    "synthetic": True,
                }
            )
    return rows


def _sides(
    kind: str, axis: str, pool: _Pool, first: str, second: str | None, rng: np.random.Generator
) -> tuple[list[Side], str]:
    def degraded(image_id: str, on: str = axis, like: str | None = None) -> Side:
        """A side with a random degradation, or with that of `like` at another strength."""
        fault = parse(like) if like is not None else None
        objects = pool.objects[image_id]
        if fault is None or (fault.operation in NEEDS_TWO_OBJECTS and objects < 2):
            derivation = sample_derivation(on, "reward", rng, objects=objects)
        else:
            strength = _other_strength(fault.strength, rng)
            derivation = sample_derivation(
                on, "reward", rng, objects=objects, strength=strength, operation=fault.operation
            )
        return Side(image_id, derivation, quality(derivation, axis))

    def untouched(image_id: str) -> Side:
        return Side(image_id, UNTOUCHED, 0.0)

    worse = degraded(first)
    prompt = pool.captions[first]
    if kind == "untouched":
        return [untouched(first), worse], prompt
    if kind == "degrees":
        return [degraded(first, like=worse.derivation), worse], prompt
    if kind == "distracted":
        sides = [untouched(first) if rng.random() < 0.5 else degraded(first, like=worse.derivation), worse]
        others = [name for name in AXES if name != axis]
        for number, side in enumerate(sides):
            if rng.random() < DISTRACTION:
                distraction = degraded(first, str(rng.choice(others))).derivation
                sides[number] = Side(first, combined(side.derivation, distraction), side.quality)
        return sides, prompt
    assert second is not None
    other = untouched(second) if rng.random() < 0.5 else degraded(second, like=worse.derivation)
    return [other, worse], ObjectPhrase(pool.common_concept(first, second)).words()


def _other_strength(strength: float, rng: np.random.Generator) -> float:
    while True:
        other = float(rng.uniform(0.05, 1.0))
        if abs(other - strength) >= SAME_AXIS_GAP:
            return other


def _number(split: str) -> int:
    return ("train", "validation", "test").index(split)


class _Pool:
    """The images of one split that pairs may show, by concept."""

    def __init__(self, images: ImageTable, split: str) -> None:
        frame = images.frame
        usable = frame[(frame["split"] == split) & (frame["style"] != HELD_OUT_STYLE)]
        self.objects = {image_id: int(images.masks(image_id).any(axis=(1, 2)).sum()) for image_id in usable["image_id"]}
        usable = usable[usable["image_id"].map(self.objects) > 0]
        if usable.empty:
            raise DataContractError(
                f"no image of the split {split} can be shown in a pair",
                file=images.folder,
                expected=f"an image with a visible object in a style other than {HELD_OUT_STYLE}",
            )
        self.captions: dict[str, str] = dict(zip(usable["image_id"], usable["caption"], strict=True))
        self.concepts: dict[str, list[str]] = {row.image_id: list(row.concepts) for row in usable.itertuples()}
        self.styles: dict[str, str] = dict(zip(usable["image_id"], usable["style"], strict=True))
        self._ids = list(self.captions)
        self._by_concept: dict[str, list[str]] = {}
        for image_id, concepts in self.concepts.items():
            for concept in concepts:
                self._by_concept.setdefault(concept, []).append(image_id)

    def any_image(self, rng: np.random.Generator) -> str:
        return self._ids[int(rng.integers(len(self._ids)))]

    def same_concept(self, image_id: str, rng: np.random.Generator) -> str | None:
        """Another image that shows a concept of this one; None when there is none."""
        others = sorted({o for c in self.concepts[image_id] for o in self._by_concept[c]} - {image_id})
        return others[int(rng.integers(len(others)))] if others else None

    def twins(self, rng: np.random.Generator) -> list[tuple[str, str]]:
        """All pairs (shaded, flat) that show one concept in the two editions of one icon set, in random order."""
        pairs = [
            (shaded, flat)
            for shaded in self._ids
            if self.styles[shaded] == SHADED_STYLE
            for flat in sorted({other for concept in self.concepts[shaded] for other in self._by_concept[concept]})
            if self.styles[flat] == FLAT_STYLE
        ]
        return [pairs[place] for place in rng.permutation(len(pairs))]

    def common_concept(self, first: str, second: str) -> str:
        return next(concept for concept in self.concepts[first] if concept in self.concepts[second])
