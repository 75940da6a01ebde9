"""The words of the embedded data set: concepts, styles, attributes, relations, backgrounds, and how a caption is made.

Everything that draws a scene, writes a prompt or reads a caption shares these tables, so that the embedded base model's
vocabulary is complete. Held-out compositions and instances are decided here by hashing, never by a random generator,
so that every part of the project agrees on them for ever.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation", "test"]

AXES: tuple[str, ...] = ("color", "layout", "lighting", "detail")

# Caption word -> icon name in the four sets (the slug of the emoji's CLDR label).
CONCEPT_ICONS: dict[str, str] = {
    # animals
    "monkey": "monkey", "gorilla": "gorilla", "dog": "dog", "wolf": "wolf", "fox": "fox", "raccoon": "raccoon",
    "cat": "cat", "lion": "lion", "tiger": "tiger", "horse": "horse", "unicorn": "unicorn", "zebra": "zebra",
    "cow": "cow", "pig": "pig", "elephant": "elephant", "giraffe": "giraffe", "rabbit": "rabbit", "bear": "bear",
    "koala": "koala", "panda": "panda", "chicken": "chicken", "penguin": "penguin", "owl": "owl", "duck": "duck",
    "flamingo": "flamingo", "parrot": "parrot", "frog": "frog", "crocodile": "crocodile", "turtle": "turtle",
    "snake": "snake", "whale": "whale", "dolphin": "dolphin", "fish": "tropical-fish", "shark": "shark",
    "octopus": "octopus", "crab": "crab", "snail": "snail", "butterfly": "butterfly", "bee": "honeybee",
    "ladybug": "lady-beetle",
    # plants
    "rose": "rose", "sunflower": "sunflower", "tulip": "tulip", "cactus": "cactus", "mushroom": "mushroom",
    "tree": "deciduous-tree", "pine": "evergreen-tree", "palm": "palm-tree",
    # food
    "grapes": "grapes", "watermelon": "watermelon", "lemon": "lemon", "banana": "banana", "pineapple": "pineapple",
    "pear": "pear", "peach": "peach", "cherries": "cherries", "strawberry": "strawberry", "apple": "red-apple",
    "tomato": "tomato", "coconut": "coconut", "avocado": "avocado", "eggplant": "eggplant", "carrot": "carrot",
    "broccoli": "broccoli", "bread": "bread", "croissant": "croissant", "pretzel": "pretzel",
    "cheese": "cheese-wedge", "hamburger": "hamburger", "pizza": "pizza", "taco": "taco", "egg": "egg",
    "popcorn": "popcorn", "doughnut": "doughnut", "cookie": "cookie", "cupcake": "cupcake", "lollipop": "lollipop",
    "cake": "birthday-cake", "teapot": "teapot",
    # places and vehicles
    "volcano": "volcano", "house": "house", "castle": "castle", "tent": "tent", "train": "locomotive", "bus": "bus",
    "ambulance": "ambulance", "taxi": "taxi", "car": "automobile", "tractor": "tractor", "bicycle": "bicycle",
    "motorcycle": "motorcycle", "sailboat": "sailboat", "airplane": "airplane", "helicopter": "helicopter",
    "rocket": "rocket", "sun": "sun", "moon": "crescent-moon", "star": "star", "cloud": "cloud", "rainbow": "rainbow",
    "umbrella": "umbrella", "snowman": "snowman", "fire": "fire",
    # things
    "balloon": "balloon", "trophy": "trophy", "basketball": "basketball", "kite": "kite", "gift": "wrapped-gift",
    "glasses": "glasses", "shirt": "t-shirt", "crown": "crown", "ring": "ring", "bell": "bell", "guitar": "guitar",
    "violin": "violin", "drum": "drum", "trumpet": "trumpet", "laptop": "laptop", "camera": "camera",
    "candle": "candle", "lightbulb": "light-bulb", "book": "closed-book", "key": "key", "hammer": "hammer",
    "scissors": "scissors", "bomb": "bomb", "shield": "shield", "magnet": "magnet", "lock": "locked",
    "chair": "chair", "telephone": "telephone", "clock": "alarm-clock", "pencil": "pencil", "hat": "top-hat",
    "backpack": "backpack", "gem": "gem-stone", "microscope": "microscope",
}  # fmt: skip
CONCEPTS: tuple[str, ...] = tuple(CONCEPT_ICONS)
PLURAL_CONCEPTS = frozenset({"grapes", "cherries", "glasses", "scissors"})  # take no article

# Style -> the phrase that names it in a caption. A drawn style is an icon set; a painted style is a style-transfer
# network's index applied to a drawn scene.
DRAWN_STYLES: dict[str, str] = {
    "noto": "noto icon",
    "twemoji": "twemoji icon",
    "fluent-emoji": "glossy icon",
    "fluent-emoji-flat": "flat icon",
}
PAINTED_STYLES: dict[str, str] = {
    "engraving": "sepia engraving",
    "watercolor": "watercolor painting",
    "woodcut": "woodcut print",
    "impasto": "impasto painting",
    "crimson": "crimson oil painting",
    "indigo": "indigo print",
}
PAINTED_STYLE_INDEX: dict[str, int] = {
    "engraving": 11,
    "watercolor": 14,
    "woodcut": 18,
    "impasto": 19,
    "crimson": 20,
    "indigo": 24,
}
HELD_OUT_STYLE = "indigo"  # no model sees a picture of it before few-shot adaptation
STYLE_PHRASES: dict[str, str] = DRAWN_STYLES | PAINTED_STYLES
TRAINING_STYLES: tuple[str, ...] = tuple(s for s in STYLE_PHRASES if s != HELD_OUT_STYLE)

COLOURS: dict[str, float] = {
    "red": 0.0,
    "orange": 0.08,
    "yellow": 0.15,
    "green": 0.34,
    "blue": 0.6,
    "purple": 0.77,
    "pink": 0.9,
}
SIZES: dict[str, float] = {"small": 0.62, "big": 1.3}
ATTRIBUTES: tuple[str, ...] = (*COLOURS, *SIZES)
RELATIONS: tuple[str, ...] = ("to the left of", "to the right of", "above", "below")
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (248, 248, 246),
    "gray": (150, 152, 156),
    "black": (32, 32, 38),
    "blue": (150, 195, 235),
    "green": (165, 215, 165),
    "yellow": (250, 228, 150),
    "pink": (248, 195, 205),
    "purple": (190, 170, 225),
}


@dataclass(frozen=True)
class ObjectPhrase:
    """One object of a caption: a concept and at most one attribute."""

    concept: str
    attribute: str | None = None

    def words(self) -> str:
        """Return the noun phrase, such as ``a small dog`` or ``red cherries``."""
        noun = f"{self.attribute} {self.concept}" if self.attribute else self.concept
        if self.concept in PLURAL_CONCEPTS:
            return noun
        return f"{'an' if noun[0] in 'aeiou' and not noun.startswith('uni') else 'a'} {noun}"


def caption(objects: Sequence[ObjectPhrase], relation: str | None, background: str | None, style: str) -> str:
    """Return the caption of a scene, such as ``a red apple above a dog on a blue background, woodcut print``.

    Args:
        objects: one to three objects, in reading order; with a relation exactly two.
        relation: one of :data:`RELATIONS`, or None for a list.
        background: the background's phrase (``blue`` or ``blue gradient``), or None to leave it out.
        style: a key of :data:`STYLE_PHRASES`.
    """
    phrases = [one.words() for one in objects]
    if relation is not None:
        text = f"{phrases[0]} {relation} {phrases[1]}"
    else:
        text = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    if background is not None:
        text += f" on a {background} background"
    return f"{text}, {STYLE_PHRASES[style]}"


def _bucket(*parts: str | None) -> int:
    key = "\x1f".join(part or "" for part in parts)
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")


def composition_split(concept: str, attribute: str | None, relation: str | None, style: str) -> Split:
    """Return the split of a composition: 80 % train, 10 % validation, 10 % test, by hash."""
    bucket = _bucket("composition", concept, attribute, relation, style) % 10
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def scene_split(objects: Sequence[ObjectPhrase], relation: str | None, style: str) -> Split:
    """Return the split of a scene: the most held-out split among its objects' compositions."""
    splits = {composition_split(one.concept, one.attribute, relation, style) for one in objects}
    return "test" if "test" in splits else "validation" if "validation" in splits else "train"


def held_out_set(concept: str) -> str | None:
    """Return the icon set whose picture of ``concept`` is seen in the test split only; None for two in three."""
    bucket = _bucket("instance", concept)
    return tuple(DRAWN_STYLES)[bucket // 3 % len(DRAWN_STYLES)] if bucket % 3 == 0 else None
