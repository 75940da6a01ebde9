"""VGG-16's convolutions and the Gram matrices of style feedback (arXiv 2404.05595 §3.1, "style").

The weights come from a packaged edge detector whose trunk stayed within five per cent of ImageNet's VGG-16. Everything
is differentiable with respect to the image; the weights are frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unifl.core.errors import ModelLoadError
from unifl.perception.packages import model_path
from unifl.perception.precision import frozen_precision

# Convolutions of each block and their width (Simonyan and Zisserman, arXiv 1409.1556, configuration D).
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
# Mean of ImageNet's pixels in blue, green, red: what these weights were trained to see subtracted.
_BGR_MEAN = (104.00699, 116.66877, 122.67892)


class StyleLayer(NamedTuple):
    """A layer by its place: `block` and `convolution` count from 1, as in "relu3_3"."""

    block: int
    convolution: int


# relu1_2, relu2_2, relu3_3, relu4_3: the style layers of Johnson et al., arXiv 1603.08155.
STYLE_LAYERS = (StyleLayer(1, 2), StyleLayer(2, 2), StyleLayer(3, 3), StyleLayer(4, 3))

# relu2_2, relu3_3: fine enough for the place of a stroke, high enough not to ask for its very pixels.
CONTENT_LAYERS = STYLE_LAYERS[1:3]


# Rectified maps of every convolution, block by block.
Maps = list[list[Tensor]]


class VGG16Trunk(nn.Module):
    """The first `blocks` blocks of VGG-16 with frozen weights from a Keras file `weights`.

    Raises ModelLoadError when the file has no such layers or layers of another shape.
    """

    def __init__(self, weights: Path, blocks: int = 5) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        width_in = 3
        with h5py.File(weights) as file:
            for number, (count, width) in enumerate(BLOCKS[:blocks], start=1):
                layers = nn.ModuleList()
                for position in range(count):
                    key = f"block{number}/layers/conv2d{f'_{position}' if position else ''}"
                    layers.append(keras_convolution(file, key, weights, (width, width_in, 3, 3)))
                    width_in = width
                self.blocks.append(layers)
        self.register_buffer("mean", torch.tensor(_BGR_MEAN).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Maps:
        """Rectified maps [N, C, h, w] of every convolution, block by block, for images [N, 3, H, W] in [0, 1]."""
        x = (images.flip(1) * 255 - self.get_buffer("mean")).contiguous(memory_format=torch.channels_last)
        maps: Maps = []
        with frozen_precision(images.device):
            for number, block in enumerate(self.blocks):
                if number:
                    x = F.max_pool2d(x, 2, ceil_mode=True)
                assert isinstance(block, nn.ModuleList)
                here: list[Tensor] = []
                for convolution in block:
                    x = F.relu(convolution(x))
                    here.append(x)
                maps.append(here)
        return maps


def load_trunk(layers: Sequence[StyleLayer] = STYLE_LAYERS) -> VGG16Trunk:
    """The packaged VGG-16 as far as the deepest of ``layers``.

    Raises ModelLoadError when the packaged weights are missing or altered.
    """
    return VGG16Trunk(model_path("vgg16"), blocks=max(layer.block for layer in layers))


def at_layers(maps: Maps, layers: Sequence[StyleLayer]) -> list[Tensor]:
    """The maps [N, C, h, w] (bfloat16 where that is native) of chosen layers."""
    return [maps[layer.block - 1][layer.convolution - 1] for layer in layers]


def gram_matrices(maps: Maps) -> list[Tensor]:
    """Gram matrices [N, C, C] float32 of the style layers: what two images of one artistic style have in common."""
    return [gram_matrix(feature_map) for feature_map in at_layers(maps, STYLE_LAYERS)]


def gram_matrix(feature_map: Tensor) -> Tensor:
    """[N, C, C] float32: inner products of the channels of [N, C, h, w], divided by C h w (arXiv 1603.08155 eq. 3)."""
    _, channels, height, width = feature_map.shape
    flat = feature_map.float().flatten(2)
    return torch.bmm(flat, flat.transpose(1, 2)) / (channels * height * width)


def keras_convolution(file: h5py.File, key: str, path: Path, shape: tuple[int, int, int, int]) -> nn.Conv2d:
    """A convolution of `shape` (out, in, height, width), "same" padding, with the weights at `key` of a Keras file."""
    try:
        kernel = np.asarray(file[f"{key}/vars/0"], dtype=np.float32).transpose(3, 2, 0, 1)
        bias = np.asarray(file[f"{key}/vars/1"], dtype=np.float32)
    except KeyError as error:
        raise ModelLoadError("a layer is missing from the weight file", file=str(path), expected=key) from error
    if kernel.shape != shape:
        raise ModelLoadError(f"layer {key} has shape {kernel.shape}", file=str(path), expected=str(shape))
    out, width_in, height, width = shape
    convolution = nn.Conv2d(width_in, out, (height, width), padding=(height // 2, width // 2))
    convolution.load_state_dict(
        {"weight": torch.from_numpy(np.ascontiguousarray(kernel)), "bias": torch.from_numpy(bias)}
    )
    return convolution
