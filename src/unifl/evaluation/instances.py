"""How well found objects agree with exact masks: the held-out figures of the instance segmenter.

Average precision is COCO's (cocodataset.org, detection evaluation): masks matched greedily by score, precision made
monotone and read at 101 recalls, averaged over overlap thresholds 0.50, 0.55 ... 0.95 where asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COCO_THRESHOLDS = tuple(np.arange(0.5, 1.0, 0.05).round(2).tolist())


def overlaps(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Intersection over union of masks found [P, H, W] and truth [K, H, W] -> [P, K]; 0 where both are empty."""
    pixels = int(np.prod(truth.shape[1:]))
    p = found.reshape(len(found), pixels).astype(np.float64)
    k = truth.reshape(len(truth), pixels).astype(np.float64)
    together = p @ k.T
    union = p.sum(1)[:, None] + k.sum(1)[None] - together
    return np.asarray(together / np.maximum(union, 1))


def average_precision(
    iou: Sequence[NDArray[np.float64]], scores: Sequence[NDArray[np.float64]], threshold: float
) -> float:
    """AP at one overlap threshold over images: iou[i] [P_i, K_i], scores[i] [P_i]. 0 when there is no object at all."""
    truths = sum(one.shape[1] for one in iou)
    if not truths:
        return 0.0
    hits: list[tuple[float, bool]] = []
    for table, confidence in zip(iou, scores, strict=True):
        taken = np.zeros(table.shape[1], bool)
        for row in np.argsort(-confidence, kind="stable"):
            free = np.where(taken, -1.0, table[row]) if table.shape[1] else np.array([-1.0])
            best = int(free.argmax())
            matched = bool(free[best] >= threshold)
            if matched:
                taken[best] = True
            hits.append((float(confidence[row]), matched))
    if not hits:
        return 0.0
    order = np.argsort([-score for score, _ in hits], kind="stable")
    right = np.cumsum(np.array([hit for _, hit in hits])[order])
    recall, precision = right / truths, right / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.where(at < len(envelope), envelope[np.minimum(at, len(envelope) - 1)], 0.0).mean())


def coco_average_precision(iou: Sequence[NDArray[np.float64]], scores: Sequence[NDArray[np.float64]]) -> float:
    """AP averaged over the ten COCO thresholds."""
    return float(np.mean([average_precision(iou, scores, threshold) for threshold in COCO_THRESHOLDS]))


def best_overlap(iou: Sequence[NDArray[np.float64]]) -> float:
    """The mean, over all true objects, of the overlap with the found mask that fits it best (0 if none was found)."""
    best = [table.max(0) if len(table) else np.zeros(table.shape[1]) for table in iou]
    return float(np.concatenate(best).mean())
