"""What every examiner looks at: one pass of EfficientNet-Lite2 over an image, shared by all heads and by KID and FID.

Scores that judge share no weights with scores that train (rewards stand on Lite0, style feedback on VGG-16), or the
comparison of arXiv 2404.05595 §4 would prove nothing. One pass costs about 4 CPU ms an image, each head almost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unifl.core.errors import ModelLoadError
from unifl.core.progress import progress
from unifl.perception.efficientnet import EfficientNetLite, pooled_statistics
from unifl.perception.packages import digest

VARIANT = "lite2"
TRUNK_SIDE = 96  # pixels to which an image is enlarged: a 64-pixel image survives five halvings
CELLS = 6  # positions a side of the middle maps at 96 pixels
EMBEDDING_WIDTH = 1280  # the features of KID and FID: the mean over positions of the last map
_MIDDLE_STAGES = (4, 5)  # maps with 6 x 6 positions; the last stage has 3 x 3, stage 3 has 12 x 12


@dataclass(frozen=True)
class Views:
    """An image as the examiners see it.

    pooled float32 [N, 2464]: means and deviations of six stages, then the embedding [1280]; middle [N, 208, 6, 6] and
    last [N, 352, 3, 3], fine [N, 48, 6, 6]: maps that still know where things are (float16 where they are kept).
    """

    pooled: Tensor
    fine: Tensor
    middle: Tensor
    last: Tensor

    def __len__(self) -> int:
        return len(self.pooled)

    @property
    def embedding(self) -> Tensor:
        """Float32 [N, 1280]: what KID and FID compare."""
        return self.pooled[:, -EMBEDDING_WIDTH:]

    @property
    def cells_width(self) -> int:
        """Channels of `cells`."""
        return self.fine.shape[1] + self.middle.shape[1] + self.last.shape[1]

    @property
    def cells(self) -> Tensor:
        """Float32 [N, 608, 6, 6]: the three maps at one resolution."""
        last = F.interpolate(self.last.float(), size=(CELLS, CELLS), mode="nearest")
        return torch.cat([self.fine.float(), self.middle.float(), last], 1)

    def __getitem__(self, rows: Tensor | slice) -> Views:
        return Views(self.pooled[rows], self.fine[rows], self.middle[rows], self.last[rows])

    def compact(self) -> Views:
        """The maps as float16, for keeping tens of thousands of views in memory (28 kB each)."""
        return Views(self.pooled, self.fine.half(), self.middle.half(), self.last.half())

    @staticmethod
    def joined(parts: Sequence[Views]) -> Views:
        return Views(
            torch.cat([one.pooled for one in parts]),
            torch.cat([one.fine for one in parts]),
            torch.cat([one.middle for one in parts]),
            torch.cat([one.last for one in parts]),
        )


class Trunk:
    """The frozen network that all examiners share. Raises ModelLoadError when its packaged weights are missing."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._network = EfficientNetLite("lite2").to(self.device)
        widths = self._network.stage_widths
        self.pooled_width = self._network.pooled_width
        self.cell_width = widths[3] + sum(widths[i] for i in _MIDDLE_STAGES) + widths[7]

    @torch.no_grad()
    def look(self, images: Tensor) -> Views:
        """Views of images [N, 3, H, W] in [0, 1], in one pass (keep N below a few hundred)."""
        maps = self._network.stages(images.to(self.device), TRUNK_SIDE)
        pooled = pooled_statistics(maps)
        middle = torch.cat([maps[i] for i in _MIDDLE_STAGES], 1)
        return Views(pooled, F.avg_pool2d(maps[3], 2), middle, maps[7])

    def pooled_of_all(
        self, images: NDArray[np.uint8], batch_size: int = 64, description: str = "trunk features"
    ) -> Tensor:
        """Only `Views.pooled` [N, 2464] of uint8 images [N, H, W, 3], for heads that need no maps."""
        starts = range(0, len(images), batch_size)
        return torch.cat(
            [
                self.look(as_tensor(images[start : start + batch_size])).pooled
                for start in progress(starts, description, f"x{batch_size}")
            ]
        )

    def look_at_all(
        self, images: NDArray[np.uint8], batch_size: int = 64, description: str = "trunk features"
    ) -> Views:
        """Compact views of uint8 images [N, H, W, 3], batch by batch with progress."""
        starts = range(0, len(images), batch_size)
        return Views.joined(
            [
                self.look(as_tensor(images[start : start + batch_size])).compact()
                for start in progress(starts, description, f"x{batch_size}")
            ]
        )


def as_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Uint8 images [N, H, W, 3] -> float32 [N, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def trunk_reference() -> dict[str, Any]:
    """How a head's config.json names the trunk that it belongs to."""
    return {"network": f"efficientnet-{VARIANT}", "sha256": digest(f"efficientnet-{VARIANT}"), "side": TRUNK_SIDE}


def check_trunk(reference: Any, folder: Any) -> None:
    """Refuse a head that was trained on another trunk. Raises ModelLoadError."""
    if reference != trunk_reference():
        raise ModelLoadError(
            f"the head belongs to the trunk {reference}",
            file=folder,
            expected=str(trunk_reference()),
            remedy="train the examiners again with `unifl judge_models`",
        )
