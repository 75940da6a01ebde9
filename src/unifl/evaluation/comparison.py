"""Turns what the panel found into the evaluation's figures: one row a model and step count, floors, paired comparisons.

The table is arXiv 2404.05595 table 1 with figures that small sets of images support, each with a 95 % interval: KID and
FID for distance to real images, an image-text cosine for CLIP score, four axis judges for the aesthetic score, and
preference points for the user study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unifl.data.vocabulary import AXES
from unifl.evaluation import metrics
from unifl.evaluation.cells import CellFindings
from unifl.evaluation.metrics import Draws, Estimate
from unifl.evaluation.panel import Findings, Panel, clip_like

METRIC_INFO: dict[str, dict[str, str]] = {
    "kid": {
        "title": "KID ×1000",
        "better": "lower",
        "explanation": "Distance to real held-out images: unbiased MMD² of EfficientNet-Lite2 features, times 1,000.",
    },
    "fid": {
        "title": "FID (64 d)",
        "better": "lower",
        "explanation": "Fréchet distance to real held-out images on fixed principal directions of the same features.",
    },
    "clip_like": {
        "title": "Image–text",
        "better": "higher",
        "explanation": "Cosine of image and caption in a contrastive space trained for this evaluation (no CLIP).",
    },
    **{
        f"judge_{axis}": {
            "title": f"Judge: {axis}",
            "better": "higher",
            "explanation": f"Mean score of a judge of {axis} that learned from other degradations than the reward did.",
        }
        for axis in AXES
    },
    "concept_top1": {
        "title": "Concept top-1",
        "better": "higher",
        "explanation": "Share of one-object prompts whose object an independent classifier names first.",
    },
    "concept_recall": {
        "title": "Concept recall",
        "better": "higher",
        "explanation": "Share of a prompt's K objects among the classifier's K likeliest ones, over all prompts.",
    },
    "style_top1": {
        "title": "Style top-1",
        "better": "higher",
        "explanation": "Share of images whose wanted style an independent classifier names first.",
    },
}


@dataclass(frozen=True)
class Prompts:
    """The N prompts of every cell: captions, wanted styles and concepts, and the reference image of each [N]."""

    captions: list[str]
    styles: list[str]
    concepts: list[list[str]]
    own: NDArray[np.int64]


@dataclass(frozen=True)
class Reference:
    """Real held-out images: their embedding float64 [M, 1280] and its projection [M, k]."""

    embedding: NDArray[np.float64]
    projected: NDArray[np.float64]

    @classmethod
    def of(cls, found: Findings, panel: Panel) -> Reference:
        embedding = found.embedding.astype(np.float64)
        return cls(embedding, panel.projection(embedding))


@dataclass(frozen=True)
class Row:
    """A cell's figures as draws, for subtraction, plus the shares whose interval is not a bootstrap's."""

    drawn: dict[str, Draws]
    shares: dict[str, Estimate]
    judges: NDArray[np.float64]

    def metrics(self) -> dict[str, dict[str, float]]:
        """Every figure with its interval, in the order of METRIC_INFO."""
        estimates = {name: draws.estimate() for name, draws in self.drawn.items()} | self.shares
        return {name: estimates[name].as_dict() for name in METRIC_INFO if name in estimates}


def figures(
    found: Findings, prompts: Prompts, texts: NDArray[np.float32], reference: Reference, panel: Panel, resamples: int
) -> Row:
    """All figures of one cell. Prompts whose style or concepts the classifiers do not know do not count for those."""
    embedding = found.embedding.astype(np.float64)
    judges = found.judges.astype(np.float64).T
    drawn = {
        "kid": metrics.kid(embedding, reference.embedding, resamples, own=prompts.own),
        "fid": metrics.fid(panel.projection(embedding), reference.projected, min(resamples, 200), own=prompts.own),
        "clip_like": metrics.mean(clip_like(found.vectors, texts), resamples),
        **{f"judge_{axis}": metrics.mean(scores, resamples) for axis, scores in zip(AXES, judges, strict=True)},
    }
    shares: dict[str, Estimate] = {}
    single, named, styled = known_rows(prompts, panel)
    if single.any():
        shares["concept_top1"] = metrics.share(panel.concept_hits(found, prompts.concepts)[single])
    if named.any():
        recalled = panel.concept_recall(found, prompts.concepts)[named]
        drawn["concept_recall"] = metrics.mean(recalled, resamples)
    if styled.any():
        shares["style_top1"] = metrics.share(panel.style_hits(found, prompts.styles)[styled])
    return Row(drawn, shares, judges)


def known_rows(prompts: Prompts, panel: Panel) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Which prompts count, bool [N] each: for concept top-1 (one object), concept recall, style top-1."""
    words = set(panel.concept_names)
    named = np.array([bool(one) and set(one) <= words for one in prompts.concepts], bool)
    single = named & np.array([len(one) == 1 for one in prompts.concepts], bool)
    return single, named, np.array([style in panel.style_names for style in prompts.styles], bool)


def floor(
    reconstructed: Findings, own: NDArray[np.int64], reference: Reference, panel: Panel, resamples: int
) -> dict[str, dict[str, float]]:
    """KID and FID of real images that went through the autoencoder: what no model behind it can fall below for long."""
    embedding = reconstructed.embedding.astype(np.float64)
    drawn = {
        "kid": metrics.kid(embedding, reference.embedding, resamples, own=own),
        "fid": metrics.fid(panel.projection(embedding), reference.projected, min(resamples, 200), own=own),
    }
    return {name: draws.estimate().as_dict() for name, draws in drawn.items()}


def comparison(ours: CellFindings, theirs: CellFindings, rows: dict[Any, Row], resamples: int) -> dict[str, Any]:
    """Two cells over the same prompts: paired differences (ours minus theirs) and preference points of the jury."""
    mine, other = rows[ours.cell], rows[theirs.cell]
    differences = {
        name: mine.drawn[name].minus(other.drawn[name]).as_dict() for name in METRIC_INFO if name in mine.drawn
    }
    points = {"jury": metrics.preference_points(mine.judges, other.judges, resamples)}
    for number, axis in enumerate(AXES):
        one = slice(number, number + 1)
        points[axis] = metrics.preference_points(mine.judges[one], other.judges[one], resamples)
    return {
        "model": ours.cell.model,
        "steps": ours.cell.steps,
        "against": theirs.cell.model,
        "against_steps": theirs.cell.steps,
        "differences": differences,
        "preference_points": {name: drawn.estimate().as_dict() for name, drawn in points.items()},
        "kid_intervals_disjoint": mine.drawn["kid"].estimate().disjoint_from(other.drawn["kid"].estimate()),
    }


def flattened(results: Sequence[dict[str, Any]], floors: dict[str, dict[str, float]]) -> dict[str, float]:
    """Figures for `dvc metrics`: `<model>_<steps>_<metric>`, and the two ends of KID's interval."""
    flat: dict[str, float] = {}
    for row in results:
        for name, entry in row["metrics"].items():
            flat[f"{row['model']}_{row['steps']}_{name}"] = entry["value"]
        flat[f"{row['model']}_{row['steps']}_kid_low"] = row["metrics"]["kid"]["low"]
        flat[f"{row['model']}_{row['steps']}_kid_high"] = row["metrics"]["kid"]["high"]
    return flat | {f"autoencoder_{name}": entry["value"] for name, entry in floors.items()}
