"""A semantic reading of the instance segmenter: which concept every pixel shows, for layout feedback.

arXiv 2404.05595 §3.1 takes DeepLab-V3 and per-pixel cross-entropy. The dense segmenter knows the same: each grid cell
names concepts and draws a mask. The number of objects of concept c over pixel x is taken as Poisson with mean
λ_c(x) = Σ_k o_k q_kc m_k(x) (o_k: the cell's largest probability, q_kc: its distribution over concepts, m_k: its mask),
so that P(nothing) = exp(-Σ λ_c), and what is there is c with probability λ_c / Σ λ_c.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unifl.perception.precision import frozen_precision
from unifl.perception.segmenter import SIDE, Segmenter

SHARPNESS = 2.0
"""Concept logits are multiplied by this before the softmax of q, as focal loss leaves probabilities flat. Of 200
validation images 0.928 of the pixels (0.785 of those on objects) are read right with it, 0.898 (0.637) with 1;
cross-entropy 0.39 and 0.58. Always saying "nothing" is right for 0.753."""
UNCERTAINTY = 1e-3
"""Share of a uniform distribution mixed in, which bounds the loss of a pixel: no reading is ever that certain."""


def concept_probabilities(outputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """[N, 1 + C, 64, 64] that sum to 1 over dimension 1: index 0 is no object, 1 + c the segmenter's concept c.

    ``outputs`` are the segmenter's grid logits, kernels and mask features; differentiable.
    """
    logits, kernels, features = outputs
    cells = logits.flatten(2)
    masks = torch.einsum("nek,nehw->nkhw", kernels.flatten(2), features)
    masks = F.interpolate(masks, size=(SIDE, SIDE), mode="bilinear", align_corners=False).sigmoid()
    objects = cells.amax(1, keepdim=True).sigmoid() * (SHARPNESS * cells).softmax(1)
    expected = torch.einsum("nck,nkhw->nchw", objects, masks)
    total = expected.sum(1, keepdim=True)
    nothing = torch.exp(-total)
    # 1 - exp(-t) loses all digits for small t.
    read = torch.cat([nothing, -torch.expm1(-total) * expected / total.clamp(min=1e-12)], 1)
    return (1 - UNCERTAINTY) * read + UNCERTAINTY / read.shape[1]


def semantic_loss(
    segmenter: Segmenter,
    images: Tensor,
    masks: Sequence[NDArray[np.bool_]],
    concepts: Sequence[Sequence[str]],
) -> Tensor:
    """Per-pixel cross-entropy of each image [N, 3, 64, 64] against ``label_maps``, mean over its pixels: [N].

    Differentiable in the image. Raises ValueError for a concept that the segmenter does not know.
    """
    with frozen_precision(images.device):
        outputs = segmenter(images)
    labels = label_maps(masks, concepts, segmenter.concepts).to(images.device)
    return F.nll_loss(concept_probabilities(outputs).log(), labels, reduction="none").mean((1, 2))


def label_maps(
    masks: Sequence[NDArray[np.bool_]], concepts: Sequence[Sequence[str]], vocabulary: Sequence[str]
) -> Tensor:
    """int64 [N, 64, 64]: 0 where no object is, else 1 + the concept's index; of masks that overlap the smaller counts.

    ``masks`` are N arrays bool [K, 64, 64], ``concepts`` N lists of K words. Raises ValueError for an unknown concept
    or unequal counts.
    """
    index = {word: 1 + number for number, word in enumerate(vocabulary)}
    labels = torch.zeros(len(masks), SIDE, SIDE, dtype=torch.long)
    for number, (objects, words) in enumerate(zip(masks, concepts, strict=True)):
        if len(objects) != len(words):
            raise ValueError(f"image {number} has {len(objects)} masks for {len(words)} concepts")
        for k in sorted(range(len(objects)), key=lambda k: -int(objects[k].sum())):
            if words[k] not in index:
                raise ValueError(f"the segmenter knows no concept {words[k]!r}")
            labels[number][torch.from_numpy(objects[k])] = index[words[k]]
    return labels
