"""The semantic filter: keeps prompts that say enough about one subject or object (arXiv 2404.05595 Algorithm 2).

Two checks of the text come before it, because a real prompt log holds texts that no English scene graph describes and
texts that a text encoder cuts off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from unifl.prompts.scene_graph import SceneGraph

Comparison = Literal["more than", "at least"]
Fate = Literal["too long", "not English", "poor", "rich"]


def semantic_fate(
    text: str, graph: SceneGraph, *, threshold: int, comparison: Comparison, english_share: float, longest_words: int
) -> Fate:
    """Say what the filter makes of one prompt.

    Args:
        text: the prompt as written.
        graph: its scene graph.
        threshold: tau_1, a count of relations.
        comparison: Algorithm 2 keeps richness ``more than`` tau_1; the paper's prose drops what is "fewer than" it,
            which keeps ``at least`` tau_1.
        english_share: the smallest share of English words, 0..1.
        longest_words: the largest number of words between spaces.

    Returns:
        ``rich`` for a prompt that passes; else the first check that it fails.
    """
    if len(text.split()) > longest_words:
        return "too long"
    passes = graph.richness > threshold if comparison == "more than" else graph.richness >= threshold
    if passes and graph.english < english_share:
        return "not English"
    return "rich" if passes else "poor"


def richness_histogram(graphs: Sequence[SceneGraph]) -> dict[int, int]:
    """Return richness -> number of prompts, in ascending order."""
    return dict(sorted(Counter(graph.richness for graph in graphs).items()))
