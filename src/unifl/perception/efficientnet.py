"""EfficientNet-Lite feature extractors: the frozen trunks of rewards (Lite0) and, kept apart, of judges (Lite2).

ImageReward's BLIP plays this part in arXiv 2404.05595 §3.2; the embedded preset takes the small ImageNet networks of
github.com/tensorflow/tpu (models/official/efficientnet/lite), whose weights `packages` verifies. Everything here is
differentiable with respect to the image, since feedback learning back-propagates through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unifl.perception.packages import digest, model_path
from unifl.perception.precision import frozen_precision

Variant = Literal["lite0", "lite1", "lite2"]

# kernel, stride, expansion of the seven stages (tensorflow/tpu, efficientnet_lite_builder.py).
_STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
_WIDTHS: dict[str, tuple[int, ...]] = {
    "lite0": (16, 24, 40, 80, 112, 192, 320),
    "lite1": (16, 24, 40, 80, 112, 192, 320),
    "lite2": (16, 24, 48, 88, 120, 208, 352),
}
_REPEATS: dict[str, tuple[int, ...]] = {
    "lite0": (1, 2, 2, 3, 3, 4, 1),
    "lite1": (1, 3, 3, 4, 4, 5, 1),
    "lite2": (1, 3, 3, 4, 4, 5, 1),
}
_STEM_WIDTH = 32
_EMBEDDING_WIDTH = 1280
_BATCH_NORM_EPSILON = 1e-3
# Which entries of `stages` `pooled` describes: stem, then the last block at each resolution.
POOLED_STAGES = (0, 1, 2, 3, 5, 7)


class EfficientNetLite(nn.Module):
    """Frozen EfficientNet-Lite with ImageNet weights; always in evaluation mode, batch norms folded into convolutions.

    Images are float [N, 3, H, W] in [0, 1]; each method resizes them bilinearly to `size` pixels a side (96 keeps a
    64-pixel image's detail through the five halvings; None leaves the size alone). Outputs are float32.
    Raises ModelLoadError when the packaged weights are missing or altered.
    """

    def __init__(self, variant: Variant = "lite0") -> None:
        super().__init__()
        self.variant = variant
        state = _state_dict(variant)
        self.stem = _folded(state, "_conv_stem", "_bn0", kernel=3, stride=2)
        blocks: list[nn.Module] = []
        ends: list[int] = []
        width = _STEM_WIDTH
        for (kernel, stride, expansion), out, repeats in zip(_STAGES, _WIDTHS[variant], _REPEATS[variant], strict=True):
            for repeat in range(repeats):
                first = repeat == 0
                blocks.append(
                    _Block(state, f"_blocks.{len(blocks)}.", kernel, stride if first else 1, expansion, width, out)
                )
                width = out
            ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        self.stage_ends = frozenset(ends)
        self.head = _folded(state, "_conv_head", "_bn1", kernel=1, stride=1)
        self.classifier = nn.Linear(_EMBEDDING_WIDTH, 1000)
        self.classifier.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
        self.requires_grad_(False)
        for parameter in self.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        super().train(False)

    @property
    def sha256(self) -> str:
        """Digest of the weight file: the trunk's identity in configurations and cache keys."""
        return digest(f"efficientnet-{self.variant}")

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each map that `stages` returns: stem, seven stages, head (1280)."""
        return (_STEM_WIDTH, *_WIDTHS[self.variant], _EMBEDDING_WIDTH)

    @property
    def pooled_width(self) -> int:
        """D of `pooled`."""
        return 2 * sum(self.stage_widths[i] for i in POOLED_STAGES) + _EMBEDDING_WIDTH

    def train(self, mode: bool = True) -> EfficientNetLite:
        """Stays in evaluation mode: the trunk is frozen, and its batch norms are already folded away."""
        return self

    def stages(self, images: Tensor, size: int | None = 96) -> list[Tensor]:
        """Feature maps float32 [N, C, h, w]: stem (1/2), seven stages (1/2, 1/4, 1/8, 1/16, 1/16, 1/32, 1/32), head."""
        x = _prepared(images, size)
        with frozen_precision(images.device):
            x = F.relu6(self.stem(x))
            maps = [x]
            for index, block in enumerate(self.blocks):
                x = block(x)
                if index in self.stage_ends:
                    maps.append(x)
            maps.append(F.relu6(self.head(x)))
        return [feature_map.float() for feature_map in maps]

    def pooled(self, images: Tensor, size: int | None = 96) -> Tensor:
        """[N, D] float32: mean and standard deviation over positions of `POOLED_STAGES`, then the mean of the head.

        Early stages keep the low-level statistics (contrast, sharpness, saturation) that the head forgets.
        """
        return pooled_statistics(self.stages(images, size))

    def embedding(self, images: Tensor, size: int | None = 96) -> Tensor:
        """[N, 1280] float32: mean of the head's map, what ImageNet's classifier sees."""
        return self.stages(images, size)[-1].mean(dim=(2, 3))

    def forward(self, images: Tensor, size: int | None = 96) -> Tensor:
        """ImageNet logits [N, 1000]."""
        logits: Tensor = self.classifier(self.embedding(images, size))
        return logits


def pooled_statistics(stages: Sequence[Tensor]) -> Tensor:
    """`EfficientNetLite.pooled` of maps that are already there: [N, D]. The deviation has a floor of 1e-3."""
    parts: list[Tensor] = []
    for index in POOLED_STAGES:
        feature_map = stages[index]
        parts.append(feature_map.mean(dim=(2, 3)))
        parts.append((feature_map.var(dim=(2, 3), unbiased=False) + 1e-6).sqrt())
    parts.append(stages[-1].mean(dim=(2, 3)))
    return torch.cat(parts, dim=1)


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding, which is asymmetric where the stride is 2 and the size even."""

    def forward(self, input: Tensor) -> Tensor:
        height, width = input.shape[-2:]
        vertical = _same_padding(height, self.kernel_size[0], self.stride[0])
        horizontal = _same_padding(width, self.kernel_size[1], self.stride[1])
        top, left = vertical // 2, horizontal // 2
        if vertical == 2 * top and horizontal == 2 * left:
            return F.conv2d(input, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)
        padded = F.pad(input, (left, horizontal - left, top, vertical - top))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _same_padding(size: int, kernel: int, stride: int) -> int:
    return max((-(-size // stride) - 1) * stride + kernel - size, 0)


class _Block(nn.Module):
    """Inverted residual: expand 1x1, depthwise, project 1x1; Lite has ReLU6 and no squeeze-and-excitation."""

    def __init__(
        self, state: Mapping[str, Tensor], prefix: str, kernel: int, stride: int, expansion: int, width: int, out: int
    ) -> None:
        super().__init__()
        inner = width * expansion
        self.expand = _folded(state, f"{prefix}_expand_conv", f"{prefix}_bn0", 1, 1) if expansion != 1 else None
        self.depthwise = _folded(state, f"{prefix}_depthwise_conv", f"{prefix}_bn1", kernel, stride, groups=inner)
        self.project = _folded(state, f"{prefix}_project_conv", f"{prefix}_bn2", 1, 1)
        self.residual = stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        projected: Tensor = self.project(F.relu6(self.depthwise(y)))
        return x + projected if self.residual else projected


def _folded(state: Mapping[str, Tensor], conv: str, norm: str, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    weight = state[f"{conv}.weight"]
    bare = _SameConv(weight.shape[1] * groups, weight.shape[0], kernel, stride, groups=groups, bias=False)
    bare.load_state_dict({"weight": weight})
    batch_norm = nn.BatchNorm2d(weight.shape[0], eps=_BATCH_NORM_EPSILON)
    names = ("weight", "bias", "running_mean", "running_var")
    batch_norm.load_state_dict({name: state[f"{norm}.{name}"] for name in names}, strict=False)
    return fuse_conv_bn_eval(bare.eval(), batch_norm.eval())


def _state_dict(variant: Variant) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(model_path(f"efficientnet-{variant}"), map_location="cpu", weights_only=True)
    return state


def _prepared(images: Tensor, size: int | None) -> Tensor:
    if size is not None and images.shape[-2:] != (size, size):
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=False)
    # The Lite models were trained on (pixel - 127) / 128 of 8-bit pixels.
    return ((images * 255.0 - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
