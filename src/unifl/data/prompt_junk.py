"""The junk of real prompt logs, made up: bare words, keyword lists, typos, commands, addresses, emoji, other languages.

prompt_database mixes these rows among captions, so that the semantic filter and the compression of active prompt
selection (arXiv 2404.05595 §3.2) have something to drop. Every generator takes a random source and the flavours.
"""

import random
import re
from collections.abc import Sequence

from unifl.data.vocabulary import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    CONCEPTS,
    PLURAL_CONCEPTS,
    RELATIONS,
    STYLE_PHRASES,
    ObjectPhrase,
)

_BUZZWORDS = (
    "trending on artstation", "8k", "4k", "masterpiece", "highly detailed", "best quality", "sharp focus",
    "octane render", "unreal engine 5", "ultra realistic", "award winning", "cinematic lighting", "hyperdetailed",
    "intricate", "elegant", "concept art", "digital painting", "smooth", "hdr", "uhd", "photorealistic",
    "volumetric lighting",
)  # fmt: skip
_EMOJI = "😀😂😍🔥✨🎨🚀🐶🐱🦊🍕🌈❤👀💀🙏⭐🌻🏠🎸"
_HOSTS = ("example.com", "example.org", "images.example.net", "cdn.example.com")
_BLANKS = ("", " ", "   ", "\t", "\n", ".", "...", ",", "-", "?", "!!", "\u200b", "\u00a0", ", ,", "''", "0", "1", "—")

# Language -> sentence patterns, nouns, adjectives. Without grammar's care: logs have none either.
_LANGUAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "de": (
        ("ein {a} {n} neben einem {b} {m}", "der {a} {n} springt über den {b} {m}", "{n} und {m} im Wald, Ölgemälde"),
        ("Hund", "Fuchs", "Baum", "Apfel", "Wagen", "Vogel", "Mond", "Kuchen"),
        ("roten", "kleinen", "großen", "grünen", "alten", "schwarzen"),
    ),
    "fr": (
        ("un {a} {n} à côté d'un {b} {m}", "le {a} {n} dort sous le {b} {m}", "{n} et {m} dans la forêt, aquarelle"),
        ("chien", "renard", "arbre", "gâteau", "bateau", "oiseau", "soleil", "chapeau"),
        ("petit", "grand", "vieux", "joli", "beau", "rouge"),
    ),
    "es": (
        ("un {n} {a} debajo de un {m} {b}", "el {n} {a} duerme junto al {m} {b}", "{n} y {m} en el bosque, acuarela"),
        ("perro", "zorro", "árbol", "coche", "pájaro", "sombrero", "barco", "gato"),
        ("rojo", "pequeño", "grande", "verde", "viejo", "negro"),
    ),
    "it": (
        ("un {n} {a} sopra una {b} macchina", "il {n} {a} dorme sotto il {m} {b}", "{n} e {m} nel bosco, acquerello"),
        ("cane", "gatto", "albero", "cappello", "uccello", "treno", "cavallo", "pesce"),
        ("rosso", "piccolo", "grande", "verde", "vecchio", "nero"),
    ),
    "ja": (
        ("{a}{n}と{b}{m}", "{m}の上の{a}{n}", "{n}、{m}、水彩画"),
        ("犬", "猫", "木", "車", "鳥", "月", "花", "魚"),
        ("赤い", "青い", "小さな", "大きな", "黒い", "白い"),
    ),
    "ru": (
        ("{a} {n} рядом с {b} {m}", "{a} {n} под деревом", "{n} и {m}, акварель"),
        ("кот", "пёс", "лис", "дом", "поезд", "слон", "мяч", "цветок"),
        ("красный", "большой", "маленький", "старый", "синий", "чёрный"),
    ),
}


def bare_words(rng: random.Random, flavours: Sequence[str]) -> str:
    """``fox``, ``red fox``, ``fox and owl``: too little to draw by."""
    concept, other = rng.sample(CONCEPTS, 2)
    return rng.choice(
        (concept, concept, f"{rng.choice(ATTRIBUTES)} {concept}", f"{concept} and {other}", f"{concept} {other}")
    )


def keyword_list(rng: random.Random, flavours: Sequence[str]) -> str:
    """``trending on artstation, 8k, warm cinematic lighting``: nothing but praise."""
    some = [*rng.sample(_BUZZWORDS, rng.randint(1, 4)), *rng.sample(flavours, rng.randint(1, 4))]
    rng.shuffle(some)
    return ", ".join(some)


def praised_concept(rng: random.Random, flavours: Sequence[str]) -> str:
    """``a fox, masterpiece, macro focus``: a subject of which nothing is said, and much praise."""
    return f"{ObjectPhrase(rng.choice(CONCEPTS)).words()}, {keyword_list(rng, flavours)}"


def command(rng: random.Random, flavours: Sequence[str]) -> str:
    """``/imagine prompt: a fox, 4k realistic --ar 16:9 --v 5``: what was typed at a bot."""
    ratio, version = rng.choice(("1:1", "16:9", "2:3", "9:16")), rng.randint(3, 6)
    start = rng.choice(("/imagine prompt: ", "/imagine ", ""))
    return f"{start}{rng.choice(CONCEPTS)}, {rng.choice(flavours)} --ar {ratio} --v {version}"


def address(rng: random.Random, flavours: Sequence[str]) -> str:
    """An address of an image instead of a description."""
    name = "".join(rng.choices("0123456789abcdef", k=rng.randint(6, 16)))
    text = f"https://{rng.choice(_HOSTS)}/{name}.{rng.choice(('png', 'jpg', 'webp'))}"
    return text if rng.random() < 0.6 else f"{text} {rng.choice(CONCEPTS)}"


def emoji(rng: random.Random, flavours: Sequence[str]) -> str:
    """Pictographs, sometimes with a word."""
    signs = "".join(rng.choices(_EMOJI, k=rng.randint(1, 6)))
    return signs if rng.random() < 0.6 else f"{rng.choice(CONCEPTS)} {signs}"


def blank(rng: random.Random, flavours: Sequence[str]) -> str:
    """Empty, or as good as empty."""
    return rng.choice(_BLANKS)


def foreign(rng: random.Random, flavours: Sequence[str]) -> str:
    """A prompt in German, French, Spanish, Italian, Japanese or Russian."""
    patterns, nouns, adjectives = _LANGUAGES[rng.choice(sorted(_LANGUAGES))]
    (n, m), (a, b) = rng.sample(nouns, 2), rng.sample(adjectives, 2)
    return rng.choice(patterns).format(n=n, m=m, a=a, b=b)


def overlong(rng: random.Random, flavours: Sequence[str]) -> str:
    """More words than a text encoder reads: the end is never seen."""
    return f"{ObjectPhrase(rng.choice(CONCEPTS)).words()}, " + ", ".join(rng.choices(flavours, k=rng.randint(40, 60)))


def respelled(rng: random.Random, text: str) -> str:
    """The same words in another case or with other punctuation."""
    bare = text.replace(",", "")
    return rng.choice(
        (text.upper(), text.title(), text.capitalize() + ".", bare, f"  {text} ", f"{text}!!!", f'"{text}"')
    )


_BACKGROUND = re.compile(r"\bon a [a-z ]+ background\b")


def retried(rng: random.Random, text: str, flavours: Sequence[str]) -> str:
    """The same caption tried again: another background, or praise at its end."""
    if _BACKGROUND.search(text) and rng.random() < 0.5:
        return _BACKGROUND.sub(f"on a {rng.choice(list(BACKGROUNDS))}{rng.choice(('', ' gradient'))} background", text)
    praise = [*rng.sample(_BUZZWORDS, rng.randint(0, 2)), *rng.sample(flavours, rng.randint(1, 2))]
    return f"{text}, {', '.join(praise)}"


_WORD = re.compile(r"[a-z]{4,}")
_VOCABULARY = frozenset(
    word
    for phrase in (*CONCEPTS, *PLURAL_CONCEPTS, *COLOURS, *ATTRIBUTES, *RELATIONS, *STYLE_PHRASES.values())
    for word in phrase.split()
)


def misspelled(rng: random.Random, text: str) -> str:
    """The same text with one to three typos, none of which makes another word of the vocabulary (``lock``)."""
    for match in rng.sample(found := list(_WORD.finditer(text)), min(rng.randint(1, 3), len(found))):
        wrong = _typo(rng, match[0])
        if wrong not in _VOCABULARY:
            text = re.sub(rf"\b{match[0]}\b", wrong, text, count=1)
    return text


def _typo(rng: random.Random, word: str) -> str:
    at = rng.randrange(len(word) - 1)
    return rng.choice(
        (
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],  # letters swapped
            word[:at] + word[at + 1 :],  # a letter left out
            word[: at + 1] + word[at:],  # a letter doubled
        )
    )
