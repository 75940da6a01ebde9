"""How good the examiners are themselves, on images that none of them was trained on: their figures with intervals.

A judge's verdict on a model (arXiv 2404.05595 §4) is worth as much as its own accuracy, so each head's config.json
states it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifl.evaluation.heads import ConceptHead, ImageTextHead, PooledHead, StyleHead
from unifl.evaluation.judge_pairs import KINDS, JudgePairs
from unifl.evaluation.metrics import recall_at, share
from unifl.evaluation.trunk import Views

GALLERY = 200  # captions among which the right one is sought


@torch.no_grad()
def judge_figures(head: PooledHead, pooled: Tensor, pairs: JudgePairs) -> dict[str, Any]:
    """Agreement with the annotators' majority, and with how the pairs were made, over all pairs and by kind."""
    scores = head(pooled)[:, 0].numpy()
    chosen = scores[pairs.a] > scores[pairs.b]
    figures: dict[str, Any] = {
        "pairs": len(chosen),
        "agreement_with_majority": share(chosen == (pairs.votes > 0.5)).as_dict(),
        "accuracy": share(chosen == pairs.truth).as_dict(),
    }
    for number, kind in enumerate(KINDS):
        rows = pairs.kind == number
        if rows.any():
            figures[f"accuracy_{kind.replace(' ', '_')}"] = share((chosen == pairs.truth)[rows]).as_dict()
    return figures


@torch.no_grad()
def style_figures(head: StyleHead, views: Views, labels: Tensor, painted: NDArray[np.bool_]) -> dict[str, Any]:
    """Top-1 accuracy, also apart for painted styles and for drawn ones; painted bool [N]."""
    logits = torch.cat([head(views[slice(start, start + 256)]) for start in range(0, len(views), 256)])
    hits = (logits.argmax(1) == labels).numpy()
    figures: dict[str, Any] = {"images": len(hits), "accuracy": share(hits).as_dict()}
    for name, rows in (("accuracy_painted", painted), ("accuracy_drawn", ~painted)):
        if rows.any():
            figures[name] = share(hits[rows]).as_dict()
    return figures


@torch.no_grad()
def concept_figures(
    head: ConceptHead, views: Views, concepts: Sequence[Sequence[str]], names: Sequence[str], unseen: NDArray[np.bool_]
) -> dict[str, Any]:
    """Top-1 accuracy on images of one object, apart for instances whose drawing was never seen, and top-1 on all.

    unseen bool [N]: images of one object that shows a held-out drawing.
    """
    logits = torch.cat([head(views[slice(start, start + 256)]) for start in range(0, len(views), 256)])
    best = [names[int(i)] for i in logits.argmax(1)]
    hits = np.array([one in wanted for one, wanted in zip(best, concepts, strict=True)], bool)
    single = np.array([len(wanted) == 1 for wanted in concepts], bool)
    figures: dict[str, Any] = {"images": len(hits), "accuracy_any_of_several": share(hits).as_dict()}
    for name, rows in (("accuracy", single), ("accuracy_unseen_drawing", single & unseen)):
        if rows.any():
            figures[name] = {**share(hits[rows]).as_dict(), "images": int(rows.sum())}
    return figures


@torch.no_grad()
def scorer_figures(head: ImageTextHead, views: Views, texts: Tensor, captions: Sequence[str]) -> dict[str, Any]:
    """Recall at 1, 5 and 10 of the right caption among GALLERY different ones, over as many galleries as there are."""
    _, distinct = np.unique(np.array(captions), return_index=True)
    rows = np.sort(distinct)
    galleries = [rows[start : start + GALLERY] for start in range(0, len(rows) - GALLERY + 1, GALLERY)] or [rows]
    hits: dict[int, list[NDArray[np.bool_]]] = {1: [], 5: [], 10: []}
    for gallery in galleries:
        chosen = torch.from_numpy(gallery)
        similarities = (head.images(views[chosen]) @ head.texts(texts[chosen]).T).double().numpy()
        for k, found in hits.items():
            found.append(recall_at(similarities, k))
    figures: dict[str, Any] = {"gallery": len(galleries[0]), "images": sum(len(one) for one in galleries)}
    return figures | {f"recall_at_{k}": share(np.concatenate(found)).as_dict() for k, found in hits.items()}
