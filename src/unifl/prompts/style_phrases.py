"""Removes how a prompt wants its picture made (medium, style, quality words) so that only what it shows is parsed.

Prompt logs end most prompts with comma-separated modifiers, such as ``woodcut print, trending on artstation, 8k``.
They are no relations of a subject, and they derail a dependency parser. Used before scene graph parsing (arXiv
2404.05595 §3.2).
"""

import re

# Nouns for the picture itself. ``a painting of a fox`` shows a fox; a segment ending in one of these shows nothing.
MEDIUMS = frozenset({
    "art", "artwork", "canvas", "cartoon", "clipart", "collage", "comic", "diagram", "doodle", "drawing",
    "emoji", "engraving", "etching", "gouache", "graffiti", "icon", "illustration", "image", "lineart",
    "logo", "manga", "mosaic", "painting", "pastel", "photo", "photograph", "photography",
    "picture", "polaroid", "portrait", "poster", "print", "render", "rendering", "screenprint", "screenshot",
    "sculpture", "sketch", "sticker", "stipple", "tattoo", "wallpaper", "watercolor", "watercolour",
    "woodcut",
})  # fmt: skip

# Last words of a segment that praises or configures the picture.
QUALITY_HEADS = frozenset({
    "4k", "8k", "16k", "aesthetic", "aperture", "artstation", "behance", "beautiful", "bloom", "bokeh", "cgsociety",
    "cgi", "cinematic", "closeup", "colors", "composition", "contrast", "deviantart", "detail", "detailed",
    "details", "dof", "dslr", "elegant", "engine", "engraved", "exposure", "film", "focus", "gorgeous", "grading",
    "hd", "hdr", "high", "hyperdetailed", "hyperrealism", "hyperrealistic", "iso", "intricate", "lens", "light",
    "lighting", "masterpiece", "octane", "photorealism", "photorealistic", "pixiv", "quality", "raytracing",
    "realism", "realistic", "reflections", "res", "resolution", "rtx", "sharp", "shading", "shadows", "shot", "smooth",
    "stunning", "style", "surrealism", "symmetrical", "symmetry", "tones", "uhd", "ultra", "ultradetailed",
    "unreal", "vibrant", "view", "vivid", "vray", "winning",
})  # fmt: skip

_STYLE_CLAUSE = re.compile(
    r"\s*\b(?:(?:painted|drawn|made|rendered)\s+)?(?:"
    r"in\s+(?:the\s+|a\s+|an\s+)?style\s+of\b.*"  # in the style of Hokusai
    r"|in\s+(?:the\s+|an?\s+)?(?:[\w-]+\s+){1,3}style\b"  # in a flat vector style
    r"|(?:trending|featured)\s+on\b.*"
    r"|by\s+[A-Z][\w.'-]*(?:\s+(?:and\s+)?[A-Z][\w.'-]*)*$"  # by Katsushika Hokusai
    r")"
)
_COMMAND = re.compile(r"^\s*/?imagine(?:\s+prompt)?\s*:|\s--\w+(?:\s+[\w:.]+)?")  # /imagine prompt: ... --ar 16:9
_WORD = re.compile(r"[^\W\d_]+|\d+k")
_DETERMINERS = frozenset({
    "a", "an", "the", "one", "two", "three", "four", "five", "some", "many", "several",
})  # fmt: skip
_SEPARATOR = re.compile(r"[,;|\n]+|(?<=[a-z])[.!?]+(?=\s|$)")


def strip_style_phrases(prompt: str) -> str:
    """Return the prompt without its style and quality phrases; empty when it holds nothing else.

    Segments stay in order, joined by ``", "``: ``a red fox above a car, woodcut print`` is ``a red fox above a car``.
    """
    kept = []
    for segment in _SEPARATOR.split(_COMMAND.sub("", prompt)):
        shown = _STYLE_CLAUSE.sub("", segment).strip()
        if shown and not _is_style(shown):
            kept.append(shown)
    return ", ".join(kept)


def _is_style(segment: str) -> bool:
    words = [word.casefold() for word in _WORD.findall(segment)]
    if not words or words[-1] in MEDIUMS:
        return True
    return (
        words[-1] in QUALITY_HEADS and words[0] not in _DETERMINERS
    )  # ``a fire engine`` is shown, ``unreal engine 5`` is not
