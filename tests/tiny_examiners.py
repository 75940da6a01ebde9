"""Examiners in their true folders with random heads on the real trunk: what an evaluation loads, trained by nobody."""

from pathlib import Path

import numpy as np
import torch

from unifl.data.vocabulary import AXES, CONCEPTS, TRAINING_STYLES
from unifl.evaluation.heads import ConceptHead, ImageTextHead, PooledHead, StyleHead, save_head
from unifl.evaluation.metrics import Projection
from unifl.evaluation.panel import save_projection
from unifl.evaluation.trunk import EMBEDDING_WIDTH

POOLED, CELLS, TEXT = 2464, 608, 384  # widths of EfficientNet-Lite2's views and of MiniLM


def write_tiny_examiners(home: Path) -> tuple[Path, Path]:
    """Write judges/ and scorer/ below ``home`` and give both."""
    torch.manual_seed(0)
    judges, scorer = home / "judges", home / "scorer"
    for axis in AXES:
        save_head(PooledHead(POOLED, 4, 1), judges / axis, "judge", {"axis": axis, "held_out": {}})
    style = {"labels": list(TRAINING_STYLES), "held_out": {}}
    save_head(StyleHead(CELLS, 8, POOLED, len(TRAINING_STYLES)), judges / "style", "style classifier", style)
    concept = {"labels": list(CONCEPTS), "held_out": {}}
    save_head(ConceptHead(CELLS, 8, len(CONCEPTS)), judges / "concept", "concept classifier", concept)
    save_head(ImageTextHead(CELLS, 8, POOLED, TEXT, 16), scorer, "image-text scorer", {"held_out": {}})
    features = np.random.default_rng(0).normal(size=(20, EMBEDDING_WIDTH))
    basis = Projection(features.mean(0), np.linalg.qr(features.T)[0][:, :2].T)
    save_projection(basis, judges / "projection", {})
    return judges, scorer
