"""Turns a matplotlib figure into inline SVG that follows the page's light, dark and print colours.

The report's figures (arXiv 2404.05595 §4: rewards, prompt selection, tuning curves) are drawn once, with one
reserved colour a role; here each reserved colour becomes a CSS variable, so that the browser recolours the same
picture and the file stays free of scripts.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Role -> the colour that matplotlib is told to draw with. The values are only names: style.css holds what is seen.
ROLES = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "base": "#040404",
    "stage1": "#050505",
    "stage2": "#060606",
    "color": "#070707",
    "layout": "#080808",
    "lighting": "#090909",
    "detail": "#0a0a0a",
    "kept": "#0b0b0b",
    "dropped": "#0c0c0c",
    "total": "#0d0d0d",
}

PIXELS_PER_INCH = 118  # a figure of 9.6 inches fills the page, and its 9 pt text is as large as the table's

_IDENTIFIER = re.compile(r'\bid="([^"]+)"')
_REFERENCE = re.compile(r'(url\(#|href="#)')


@contextmanager
def drawing(width: float, height: float, rows: int = 1, columns: int = 1) -> Iterator[tuple[Figure, list[list[Axes]]]]:
    """Opens a figure of `width` x `height` inches with `rows` x `columns` axes in the report's style, and closes it.

    Yields the figure and its axes as a list of rows. No global matplotlib state is left changed.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "axes.axisbelow": True,
        "axes.edgecolor": ROLES["line"],
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.labelcolor": ROLES["muted"],
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": ROLES["ink"],
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "figure.facecolor": "none",
        "font.size": 9,
        "grid.color": ROLES["line"],
        "grid.linewidth": 0.6,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "legend.labelcolor": ROLES["ink"],
        "savefig.facecolor": "none",
        "svg.fonttype": "none",
        "svg.hashsalt": "unifl",
        "text.color": ROLES["ink"],
        "xtick.color": ROLES["muted"],
        "ytick.color": ROLES["muted"],
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False).tolist()


def inline_svg(figure: Figure, name: str, description: str) -> Markup:
    """Returns `figure` as one `<svg role="img">` element for the body of a page.

    `name` must be unique on the page: it prefixes every id, because several figures share one document.
    `description` is what a screen reader says in the picture's place.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = _IDENTIFIER.sub(lambda match: f'id="{name}-{match.group(1)}"', text)
    text = _REFERENCE.sub(lambda match: f"{match.group(1)}{name}-", text)
    text = text.replace("xlink:href", "href").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    text = text.replace(' xmlns="http://www.w3.org/2000/svg"', "")
    for role, colour in ROLES.items():
        text = text.replace(colour, f"var(--{role})")
    text = re.sub(
        r"<style type=\"text/css\">.*?</style>", "", text, flags=re.DOTALL
    )  # would reach the whole page; style.css repeats it
    text = re.sub(r" font-family: [^;\"]+;", "", text)  # the page's own font
    text = re.sub(
        r"font: (?:(\d+|bold) )?([0-9.]+)px [^;\"]+",
        lambda m: f"font-weight: {m[1] or 'normal'}; font-size: {m[2]}px",
        text,
    )
    text = re.sub(r' transform="rotate\(-0 [^"]+\)"', "", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    width = figure.get_figwidth() * PIXELS_PER_INCH
    opening = (
        f'<svg class="figure" style="max-width: {width:.0f}px" role="img" aria-label="{escape(description)}" viewBox='
    )
    text = re.sub(r'<svg [^>]*?viewBox=("[^"]+")[^>]*>', lambda match: f"{opening}{match[1]}>", text, count=1)
    return Markup(text.strip())
