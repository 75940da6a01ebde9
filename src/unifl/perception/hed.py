"""Holistically-nested edge detection (Xie and Tu, arXiv 1504.06375): edges of an image, differentiable.

Edges are one of the further feedbacks that arXiv 2404.05595 §3.1 names; the weights are frozen.
"""

from __future__ import annotations

import h5py
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unifl.perception.packages import model_path
from unifl.perception.vgg import BLOCKS, VGG16Trunk, keras_convolution


class HED(nn.Module):
    """Edge logits at every pixel. Raises ModelLoadError when the packaged weights are missing or altered."""

    def __init__(self) -> None:
        super().__init__()
        weights = model_path("hed")
        self.trunk = VGG16Trunk(weights)
        with h5py.File(weights) as file:
            self.sides = nn.ModuleList(
                keras_convolution(file, f"dsn{number}", weights, (1, width, 1, 1))
                for number, (_, width) in enumerate(BLOCKS, start=1)
            )
            self.fuse = keras_convolution(file, "fuse", weights, (1, len(BLOCKS), 1, 1))
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, H, W] float32 of images [N, 3, H, W] in [0, 1]; their sigmoid is the probability of an edge."""
        size = images.shape[-2:]
        maps = [block[-1].float() for block in self.trunk(images)]
        sides = [
            F.interpolate(side(feature_map), size=size, mode="bilinear", align_corners=False)
            for side, feature_map in zip(self.sides, maps, strict=True)
        ]
        fused: Tensor = self.fuse(torch.cat(sides, dim=1))
        return fused[:, 0]

    def edges(self, images: Tensor) -> Tensor:
        """Probability of an edge [N, H, W] in [0, 1]."""
        logits: Tensor = self(images)
        return logits.sigmoid()
