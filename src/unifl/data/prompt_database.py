"""Makes the embedded prompt database: captions of the base's own vocabulary among the junk of real prompt logs.

What DiffusionDB is to arXiv 2404.05595 §3.2, this is to the embedded preset: prompt_curation has to find the rich and
diverse prompts in it. Captions use training compositions alone; flavours and mediums come from clip-interrogator (MIT).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from unifl.data import prompt_junk
from unifl.data.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    CONCEPTS,
    DRAWN_STYLES,
    RELATIONS,
    SIZES,
    STYLE_PHRASES,
    TRAINING_STYLES,
    ObjectPhrase,
    caption,
    held_out_set,
    scene_split,
)

if TYPE_CHECKING:
    import pandas as pd

OWN_LICENCE = "Apache-2.0"
WORD_LIST_LICENCE = "MIT"
WORD_LISTS = {
    "flavors.txt": "c99d83a7a435157339f3b60a34794c524de37159a9b72f3a2034df8245c4a2f1",
    "mediums.txt": "91f26b9d0d7d93f8e30139a94f895ba5a97744033ec0b174539f3a88bc49cd2c",
}
"""Files of clip-interrogator 0.6.0 in its folder ``data``, and their SHA-256."""

# Of 100,970 flavours only those that speak of how a picture is made, in words that many of them use: no people, no
# artists, nothing unfit for a data set.
_TECHNICAL = re.compile(
    r"\b(render|lighting|focus|detailed|details?|8k|4k|lens|resolution|octane|bokeh|artstation|deviantart|cinematic|hdr|unreal"
    r"|masterpiece|quality|realistic|photorealistic)$"
)
_UNFIT = re.compile(
    r"\b(nude|naked|nsfw|sexy|sex|erotic|gore|gory|blood\w*|corpse|dead|death|kill\w*|violen\w*|nazi|hitler|girl|boy|child\w*"
    r"|wom[ae]n|m[ae]n|body|skin|flesh\w*|face|facial|breast\w*|by|style|inspired|portrait)\b"
)
_LETTERS = re.compile(r"[^\W\d_]+")
_COMMON_USES = (
    10  # names of people are rarer among the technical flavours; looked through by eye: 1,500 flavours are left
)


@dataclass(frozen=True)
class Words:
    """Raw material that the vocabulary does not have: flavours (keywords of prompts) and mediums (``an etching``)."""

    flavours: tuple[str, ...]
    mediums: tuple[str, ...]


def read_words() -> Words:
    """Read the word lists of clip-interrogator. Raises ModelLoadError when the package is missing or altered."""
    from unifl.perception.packages import verified

    lines: dict[str, list[str]] = {}
    for name, sha256 in WORD_LISTS.items():
        text = verified("clip_interrogator", f"data/{name}", sha256).read_text(encoding="utf-8")
        lines[name] = [line.strip() for line in text.splitlines() if line.strip()]
    technical = [
        one for one in lines["flavors.txt"] if _TECHNICAL.search(one) and not _UNFIT.search(one) and "." not in one
    ]
    uses = Counter(word for one in technical for word in set(_LETTERS.findall(one)))
    flavours = [one for one in technical if all(uses[word] >= _COMMON_USES for word in _LETTERS.findall(one))]
    return Words(tuple(flavours), tuple(one.removesuffix(" of") for one in lines["mediums.txt"]))


# -- captions --------------------------------------------------------------------------------------------------------


def scene_caption(rng: random.Random, *, objects: Sequence[int], related: bool, attribute: float) -> str:
    """Return a caption as the base was trained on, such as ``a red apple above a dog on a blue background, noto icon``.

    Args:
        rng: the random source.
        objects: numbers of objects to choose from; with ``related`` only two.
        related: whether two objects stand in a relation.
        attribute: probability that an object has an attribute.
    """
    chosen, relation, style = _training_composition(rng, rng.choice(objects), related, attribute)
    background = None
    if style in DRAWN_STYLES and rng.random() < 0.7:  # captions of painted pictures name no background
        background = rng.choice(list(BACKGROUNDS)) + rng.choice(("", "", " gradient"))
    return caption(chosen, relation, background, style)


def medium_caption(rng: random.Random, words: Words) -> str:
    """Return a training composition in a medium unknown to the base: ``an etching of a red apple above a dog``."""
    objects, relation, style = _training_composition(rng, 2, True, 0.6)
    return f"{rng.choice(words.mediums)} of {caption(objects, relation, None, style)}".removesuffix(
        f", {STYLE_PHRASES[style]}"
    )


def _training_composition(
    rng: random.Random, count: int, related: bool, attribute: float
) -> tuple[tuple[ObjectPhrase, ...], str | None, str]:
    """Draw objects, relation and style; nothing that is held out leaves this function."""
    while True:
        style = rng.choice(TRAINING_STYLES)
        # A painted style swallows colors: captions of painted pictures name sizes only.
        pool = [*COLOURS, *SIZES] if style in DRAWN_STYLES else list(SIZES)
        names = rng.sample(CONCEPTS, count)
        objects = tuple(ObjectPhrase(name, rng.choice(pool) if rng.random() < attribute else None) for name in names)
        relation = rng.choice(RELATIONS) if related else None
        unseen_instance = any(held_out_set(name) == style for name in names)
        if not unseen_instance and scene_split(objects, relation, style) == "train":
            return objects, relation, style


# -- the database ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A generator of rows: its weight in the database, its licence, and whether it may repeat itself as logs do."""

    weight: int
    licence: str
    repeats: bool
    make: Callable[[random.Random], str]


def sources(words: Words, captions: Sequence[str]) -> dict[str, Source]:
    """Return name -> source, in the order of generation.

    Args:
        words: word lists, see :func:`read_words`.
        captions: texts that the near-duplicates vary; filled by the caller with the rows of the sources ``caption-*``
            before the others are drawn.
    """

    def own(weight: int, make: Callable[[random.Random], str], repeats: bool = False) -> Source:
        return Source(weight, OWN_LICENCE, repeats, make)

    def listed(weight: int, make: Callable[[random.Random, Sequence[str]], str], repeats: bool = False) -> Source:
        return Source(weight, WORD_LIST_LICENCE, repeats, lambda rng: make(rng, words.flavours))

    def varied(weight: int, make: Callable[[random.Random, str], str], licence: str = OWN_LICENCE) -> Source:
        return Source(weight, licence, True, lambda rng: make(rng, _popular(rng, captions)))

    return {
        "caption-related": own(190, partial(scene_caption, objects=(2,), related=True, attribute=0.6)),
        "caption-single": own(80, partial(scene_caption, objects=(1,), related=False, attribute=0.8)),
        "caption-listed": own(50, partial(scene_caption, objects=(2, 3), related=False, attribute=0.6)),
        "medium": Source(20, WORD_LIST_LICENCE, False, lambda rng: medium_caption(rng, words)),
        "keywords": listed(30, prompt_junk.keyword_list),
        "praised": listed(30, prompt_junk.praised_concept),
        "bare": own(15, lambda rng: prompt_junk.bare_words(rng, ()), repeats=True),
        "command": listed(8, prompt_junk.command),
        "address": own(4, lambda rng: prompt_junk.address(rng, ()), repeats=True),
        "emoji": own(5, lambda rng: prompt_junk.emoji(rng, ()), repeats=True),
        "blank": own(3, lambda rng: prompt_junk.blank(rng, ()), repeats=True),
        "foreign": own(8, lambda rng: prompt_junk.foreign(rng, ()), repeats=True),
        "overlong": listed(2, prompt_junk.overlong),
        "duplicate": varied(30, lambda _, text: text),
        "respelled": varied(40, prompt_junk.respelled),
        "misspelled": varied(15, prompt_junk.misspelled),
        "retried": varied(70, lambda rng, text: prompt_junk.retried(rng, text, words.flavours), WORD_LIST_LICENCE),
    }


def _popular(rng: random.Random, captions: Sequence[str]) -> str:
    """Draw a caption as logs repeat them: the most popular tenth of them takes two thirds of the draws."""
    return captions[int(len(captions) * rng.random() ** 6)]


def make_prompts(count: int, seed: int, words: Words) -> pd.DataFrame:
    """Make ``count`` prompts in random order (columns prompt_id, text, source, licence), the same in every run."""
    import pandas as pd

    captions: list[str] = []
    table = sources(words, captions)
    total = sum(source.weight for source in table.values())
    rows: list[tuple[str, str, str]] = []
    taken: set[str] = set()
    for name, source in table.items():
        rng = random.Random(f"{seed}/{name}")
        first = len(rows)
        wanted = count - first if name == list(table)[-1] else round(count * source.weight / total)
        while len(rows) < first + wanted:
            text = source.make(rng)
            if source.repeats or text not in taken:
                taken.add(text)
                rows.append((text, name, source.licence))
        if name.startswith("caption-"):
            captions += [text for text, _, _ in rows[first:]]
    random.Random(f"{seed}/order").shuffle(rows)
    frame = pd.DataFrame(rows, columns=["text", "source", "licence"])
    frame.insert(0, "prompt_id", [f"p{number:06d}" for number in range(len(rows))])
    return frame


def write_prompts(frame: pd.DataFrame, path: Path) -> None:
    """Write the columns of the contract prompts as zstd Parquet; the same rows give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from unifl.data.contracts import PROMPTS

    table = pa.Table.from_pandas(frame[PROMPTS.names], schema=PROMPTS, preserve_index=False).replace_schema_metadata()
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=["source", "licence"],
        column_encoding={"prompt_id": "DELTA_BYTE_ARRAY", "text": "PLAIN"},
    )
