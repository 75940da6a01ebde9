"""Active prompt selection from end to end: filter, compress, draw, and measure what that did to the prompts' diversity.

The library behind the step prompt_curation (arXiv 2404.05595 §3.2, Algorithm 2); usable from a notebook on any texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unifl.core.errors import DataContractError
from unifl.core.progress import progress
from unifl.prompts.compression import Compression, compress
from unifl.prompts.embedding import embed
from unifl.prompts.scene_graph import SceneGraph, SceneGraphParser
from unifl.prompts.semantic_filter import Comparison, richness_histogram, semantic_fate
from unifl.prompts.similarity import Embeddings, average_nearest_similarity, neighbours_above

FATES = ("selected", "kept", "near-duplicate", "poor", "not English", "too long")
"""What becomes of a prompt: drawn; kept but not drawn; suppressed by compression; dropped by the semantic filter."""
SHOWN_CHARACTERS = 160
"""Texts longer than this are cut in the details, to keep the report small."""


@dataclass(frozen=True)
class Selection:
    """The outcome of :func:`select_prompts` over N prompts.

    Attributes:
        selected: indices of the drawn prompts, ascending.
        fates: one of :data:`FATES` a prompt.
        graphs: scene graph of every prompt.
        embeddings: float32 [N, 384].
        compression: survivors as indices into ``rich``, k and its sweep.
        rich: indices of the prompts that passed the semantic filter.
        random: as many prompts as selected, drawn from all prompts: the baseline of ANS.
    """

    selected: NDArray[np.int64]
    fates: tuple[str, ...]
    graphs: tuple[SceneGraph, ...]
    embeddings: Embeddings
    compression: Compression
    rich: NDArray[np.int64]
    random: NDArray[np.int64]

    @property
    def kept(self) -> NDArray[np.int64]:
        """Indices of the survivors of compression, drawn or not."""
        return self.rich[self.compression.kept]

    def ans(self) -> dict[str, float]:
        """ANS of all, rich and kept prompts, and at one and the same count of the selected and of random ones."""
        sets = {"all": None, "rich": self.rich, "kept": self.kept, "selected": self.selected, "random": self.random}
        return {
            name: average_nearest_similarity(self.embeddings if chosen is None else self.embeddings[chosen])
            for name, chosen in sets.items()
        }


def select_prompts(
    texts: Sequence[str],
    *,
    count: int,
    seed: int,
    richness_threshold: int = 1,
    richness_comparison: Comparison = "more than",
    similarity_threshold: float = 0.8,
    english_share: float = 0.8,
    longest_words: int = 60,
    cache: Path | None = None,
) -> Selection:
    """Select ``count`` rich and diverse prompts.

    Args:
        texts: the prompts as written.
        count: how many to draw from the survivors, at least 2.
        seed: of the walk, of the draw and of the random baseline.
        richness_threshold, richness_comparison, english_share, longest_words: see
            :func:`unifl.prompts.semantic_filter.semantic_fate`.
        similarity_threshold: tau_2, a cosine; no two survivors exceed it.
        cache: folder of cached embeddings, see :func:`unifl.prompts.embedding.embed`.

    Raises:
        DataContractError: no prompt passes the filter, or fewer survive than are to be drawn.
        ModelLoadError: a packaged model is missing or altered.
    """
    graphs = tuple(progress(SceneGraphParser().parse(texts), "parsing prompts", "prompts", total=len(texts)))
    fates: list[str] = [
        semantic_fate(
            text,
            graph,
            threshold=richness_threshold,
            comparison=richness_comparison,
            english_share=english_share,
            longest_words=longest_words,
        )
        for text, graph in zip(texts, graphs, strict=True)
    ]
    rich = np.array([number for number, fate in enumerate(fates) if fate == "rich"], np.int64)
    if not len(rich):
        raise DataContractError(
            f"not one of {len(texts)} prompts passes the semantic filter",
            expected=f"a subject or object with {richness_comparison} {richness_threshold} relations",
            remedy="lower richness_threshold, or give prompts that say more than a word about their subject",
        )
    embeddings = embed(texts, cache)
    compression = compress(neighbours_above(embeddings[rich], similarity_threshold), seed)
    kept = rich[compression.kept]
    if count > len(kept):
        raise DataContractError(
            f"{len(kept)} prompts survive the selection, {count} are wanted",
            expected=f"at least {count} of {len(texts)} prompts",
            remedy=f"set count to {len(kept)} or less, raise limit, or give more prompts",
        )
    draw, baseline = (np.random.default_rng([seed, stream]) for stream in (1, 2))
    selected = np.sort(draw.choice(kept, count, replace=False))
    for group, fate in ((rich, "near-duplicate"), (kept, "kept"), (selected, "selected")):
        for number in group:
            fates[number] = fate
    random = np.sort(baseline.choice(len(texts), count, replace=False))
    return Selection(selected, tuple(fates), graphs, embeddings, compression, rich, random)


def selection_details(
    selection: Selection, texts: Sequence[str], sources: Sequence[str], *, map_points: int, seed: int
) -> dict[str, Any]:
    """Describe a selection for the report, as plain JSON values.

    Returns a dictionary with ``counts`` (fate -> prompts), ``sources`` (source -> fate -> prompts), ``richness``
    (count of relations -> prompts), ``ans`` (see :meth:`Selection.ans`), ``k``, ``k_sweep``, ``samples`` (fate -> up to
    8 texts), ``map`` (points with x, y, fate and text; ``explained_variance`` of the two axes).
    """
    counts = Counter(selection.fates)
    by_source: dict[str, Counter[str]] = {}
    for source, fate in zip(sources, selection.fates, strict=True):
        by_source.setdefault(source, Counter())[fate] += 1
    order = np.random.default_rng([seed, 3]).permutation(len(texts))
    samples: dict[str, list[str]] = {fate: [] for fate in FATES}
    for number in order:
        if len(samples[selection.fates[number]]) < 8:
            samples[selection.fates[number]].append(texts[number][:SHOWN_CHARACTERS])
    plane, explained = principal_plane(selection.embeddings)
    points = [
        {
            "x": round(float(plane[number, 0]), 4),
            "y": round(float(plane[number, 1]), 4),
            "fate": selection.fates[number],
            "text": texts[number][:SHOWN_CHARACTERS],
        }
        for number in order[:map_points]
    ]
    return {
        "counts": {fate: counts[fate] for fate in FATES},
        "sources": {source: dict(by_source[source]) for source in sorted(by_source)},
        "richness": {str(value): number for value, number in richness_histogram(selection.graphs).items()},
        "ans": selection.ans(),
        "k": selection.compression.k,
        "k_sweep": [vars(trial) for trial in selection.compression.sweep],
        "samples": samples,
        "map": {"points": points, "explained_variance": explained},
    }


def principal_plane(embeddings: Embeddings) -> tuple[NDArray[np.float64], list[float]]:
    """Project on the two directions of largest variance: float64 [N, 2], and the share of variance of each, 0..1.

    The sign of an axis is fixed (its largest coefficient is positive), so that a map looks the same in every run.
    """
    centred = embeddings.astype(np.float64) - embeddings.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    directions = directions[:, ::-1][:, :2]
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), range(2)])
    total = float(variances.sum())
    return centred @ directions, [float(value) / total if total > 0 else 0.0 for value in variances[::-1][:2]]
