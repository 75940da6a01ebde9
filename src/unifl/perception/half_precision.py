"""Stores small trained networks at half the size: float16 on disk, float32 in memory.

The evaluation models travel inside the repository's embedded remote, where each mebibyte counts; a network is
measured after the round trip, so that its stated figures hold for the stored numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


def save_half(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, floating ones as float16. Raises ValueError when one leaves float16's range."""
    from safetensors.torch import save_file

    stored = {}
    for name, value in state.items():
        stored[name] = value.detach().cpu().contiguous()
        if value.is_floating_point():
            stored[name] = stored[name].half()
            if not torch.isfinite(stored[name]).all():
                raise ValueError(f"{name} does not fit into float16")
    save_file(stored, path)


def load_float(path: Path) -> dict[str, Tensor]:
    """Read what `save_half` wrote, floating tensors as float32."""
    from safetensors.torch import load_file

    return {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
