"""Draws labelled scenes from sprites: one to three objects on a background, in a drawn or a painted style.

Where it stands: after :mod:`unifl.data.icons`, before the image shards and before every model trained on exact masks
and captions. A scene is drawn at 160 px and shrunk to 64 px; painted styles pass through a style-transfer network
(26 painterly styles in one ONNX graph) in between. The masks come from the sprites' alpha, so they are exact.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unifl.data.icons import Sprite, read_sprites, recolour
from unifl.data.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    CONCEPTS,
    DRAWN_STYLES,
    HELD_OUT_STYLE,
    PAINTED_STYLE_INDEX,
    PAINTED_STYLES,
    RELATIONS,
    SIZES,
    ObjectPhrase,
    Split,
    caption,
    held_out_set,
    scene_split,
)

CANVAS = 160  # pixels on which a scene is drawn and painted
SIDE = 64  # pixels of the finished image
PAINT_STRENGTH = 0.85  # share of the painted picture; the rest keeps small objects readable


@dataclass(frozen=True)
class Scene:
    """A finished picture with everything that is known about it.

    ``image`` is uint8 [64, 64, 3]; ``masks`` is bool [K, 64, 64], the visible pixels of object k.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    caption: str
    objects: tuple[ObjectPhrase, ...]
    relation: str | None
    background: str
    style: str
    drawn_style: str
    split: Split
    sprites: tuple[Sprite, ...]

    @property
    def concepts(self) -> list[str]:
        """The objects' concepts in reading order."""
        return [one.concept for one in self.objects]

    @property
    def attributes(self) -> list[str]:
        """The objects' attributes in reading order, without the objects that have none."""
        return [one.attribute for one in self.objects if one.attribute]


@lru_cache(maxsize=1)
def _painter() -> object:
    import onnxruntime

    from unifl.perception.packages import model_path

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(model_path("painterly-styles")), options, providers=["CPUExecutionProvider"]
    )


def paint(picture: Image.Image, style: str, strength: float = PAINT_STRENGTH) -> Image.Image:
    """Return ``picture`` (RGB, sides a multiple of 4) in a painted style of :data:`PAINTED_STYLES`."""
    pixels = np.ascontiguousarray((np.asarray(picture, np.float32) / 255).transpose(2, 0, 1)[None])
    weights = np.zeros(26, np.float32)
    weights[PAINTED_STYLE_INDEX[style]] = 1
    (painted,) = _painter().run(None, {"image": pixels, "style_weights": weights})  # type: ignore[attr-defined]
    result = Image.fromarray((painted[0].transpose(1, 2, 0).clip(0, 1) * 255 + 0.5).astype(np.uint8))
    return Image.blend(picture, result, strength)


def _background(name: str, gradient: bool, rng: np.random.Generator) -> Image.Image:
    color = np.array(BACKGROUNDS[name], np.float32) + rng.normal(0, 5, 3).astype(np.float32)
    if not gradient:
        pixels = np.broadcast_to(color, (CANVAS, CANVAS, 3))
    else:
        angle = rng.uniform(0, 2 * np.pi)
        axis = np.linspace(-1, 1, CANVAS, dtype=np.float32)
        ramp = axis[None, :] * np.cos(angle) + axis[:, None] * np.sin(angle)
        depth = 0.30 if color.mean() > 90 else -1.2
        pixels = color * (1 - depth * (ramp[..., None] + 1) / 2)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGB").convert("RGBA")


@dataclass(frozen=True)
class SceneSettings:
    """How often a scene has which content; every number is a probability unless said otherwise."""

    objects: tuple[float, float, float] = (0.62, 0.28, 0.10)  # one, two, three objects
    relation: float = 0.75  # of two objects
    attribute: float = 0.4  # an object has one
    size_attribute: float = 0.3  # of the attributes, sizes rather than colors
    gradient: float = 0.35
    named_background: float = 0.8
    painted: float = 0.45


class SceneGenerator:
    """An endless source of scenes from a folder of sprites.

    A scene of the split ``train`` never shows a held-out instance, composition or style. Scenes of ``validation`` and
    ``test`` show held-out compositions; those of ``test`` may also show held-out instances.
    """

    def __init__(self, icons: Path | Mapping[tuple[str, str], Sprite], settings: SceneSettings | None = None) -> None:
        self.sprites = read_sprites(icons) if isinstance(icons, Path) else dict(icons)
        self.settings = settings or SceneSettings()

    def scene(
        self, split: Split, rng: np.random.Generator, *, style: str | None = None, concept: str | None = None
    ) -> Scene:
        """Draw one scene of a split; ``style`` and ``concept`` (of the first object) may be fixed."""
        while True:
            drawn = str(rng.choice(list(DRAWN_STYLES)))
            chosen = style or self._style(drawn, rng)
            if chosen in DRAWN_STYLES:
                drawn = chosen
            objects, relation = self._content(rng, concept, colored=chosen in DRAWN_STYLES)
            unseen_instance = any(held_out_set(one.concept) == drawn for one in objects)
            actual = "test" if unseen_instance else scene_split(objects, relation, chosen)
            if actual == split:
                return self._draw(objects, relation, chosen, drawn, split, rng)

    def scenes(self, split: Split, count: int, seed: int) -> Iterator[Scene]:
        """Yield ``count`` scenes of a split; scene number i depends on ``seed`` and i alone."""
        for index in range(count):
            yield self.scene(split, np.random.default_rng([seed, index]))

    def _style(self, drawn: str, rng: np.random.Generator) -> str:
        if rng.random() >= self.settings.painted:
            return drawn
        return str(rng.choice([name for name in PAINTED_STYLES if name != HELD_OUT_STYLE]))

    def _content(
        self, rng: np.random.Generator, first: str | None, colored: bool
    ) -> tuple[tuple[ObjectPhrase, ...], str | None]:
        """Choose objects and relation; a painted style swallows colors, so there only sizes are said."""
        count = 1 + int(rng.choice(3, p=self.settings.objects))
        names = [str(name) for name in rng.choice(CONCEPTS, size=count, replace=False)]
        if first is not None:
            names = [first, *[name for name in names if name != first]][:count]
        objects = []
        for name in names:
            attribute = None
            if rng.random() < self.settings.attribute:
                sized = rng.random() < self.settings.size_attribute
                pool = SIZES if sized else COLOURS
                attribute = str(rng.choice(list(pool))) if sized or colored else None
            objects.append(ObjectPhrase(name, attribute))
        relation = str(rng.choice(RELATIONS)) if count == 2 and rng.random() < self.settings.relation else None
        return tuple(objects), relation

    def _places(self, count: int, relation: str | None, rng: np.random.Generator) -> list[tuple[float, float, float]]:
        """Return (centre x, centre y, side) of each object as shares of the canvas."""
        wobble = rng.uniform(-0.03, 0.03, (count, 2))
        if count == 1:
            spots = [(0.5, 0.5, rng.uniform(0.6, 0.74))]
        elif count == 2:
            near, far, side = 0.27, 0.73, rng.uniform(0.42, 0.5)
            first = {
                "to the left of": (near, 0.5),
                "to the right of": (far, 0.5),
                "above": (0.5, near),
                "below": (0.5, far),
            }
            x, y = first[relation] if relation else (near, 0.5)
            spots = [(x, y, side), (1 - x, 1 - y, side)]
        else:
            side = rng.uniform(0.36, 0.42)
            spots = [(0.26, 0.28, side), (0.74, 0.28, side), (0.5, 0.74, side)]
        return [(x + dx, y + dy, side) for (x, y, side), (dx, dy) in zip(spots, wobble, strict=True)]

    def _draw(
        self,
        objects: tuple[ObjectPhrase, ...],
        relation: str | None,
        style: str,
        drawn: str,
        split: Split,
        rng: np.random.Generator,
    ) -> Scene:
        name, gradient = str(rng.choice(list(BACKGROUNDS))), bool(rng.random() < self.settings.gradient)
        canvas = _background(name, gradient, rng)
        alphas: list[NDArray[Any]] = []
        used = [self.sprites[one.concept, drawn] for one in objects]
        for one, sprite, (x, y, side) in zip(objects, used, self._places(len(objects), relation, rng), strict=True):
            pixels = sprite.pixels
            if one.attribute in COLOURS:
                pixels = recolour(pixels, COLOURS[one.attribute])
            if one.attribute in SIZES:
                side = min(side * SIZES[one.attribute], 0.92)
            scale = side * CANVAS / max(pixels.size)
            size = max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale))
            pixels = pixels.resize(size, Image.Resampling.LANCZOS)
            corner = round(x * CANVAS - size[0] / 2), round(y * CANVAS - size[1] / 2)
            layer = Image.new("RGBA", canvas.size)
            layer.paste(pixels, corner)
            canvas.alpha_composite(layer)
            shrunk = layer.getchannel("A").resize((SIDE, SIDE), Image.Resampling.BOX)
            alpha = np.asarray(shrunk, np.float32) / np.float32(255)
            alphas = [below * (1 - alpha) for below in alphas] + [alpha]
        picture = canvas.convert("RGB")
        if style in PAINTED_STYLES:
            picture = paint(picture, style)
        phrase = f"{name} gradient" if gradient else name
        named = phrase if style in DRAWN_STYLES and rng.random() < self.settings.named_background else None
        return Scene(
            image=np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)),
            masks=np.stack(alphas) > 0.5,
            caption=caption(objects, relation, named, style),
            objects=objects,
            relation=relation,
            background=phrase,
            style=style,
            drawn_style=drawn,
            split=split,
            sprites=tuple(used),
        )
