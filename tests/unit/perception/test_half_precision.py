"""Half-size storage: float16 on disk, float32 in memory, refusal of what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unifl.perception.half_precision import load_float, save_half


def test_tensors_come_back_as_float32_rounded_to_float16(tmp_path: Path) -> None:
    state = {"weight": torch.randn(3, 4), "count": torch.tensor(7)}
    save_half(state, tmp_path / "model.safetensors")
    back = load_float(tmp_path / "model.safetensors")
    assert back["weight"].dtype == torch.float32
    assert torch.equal(back["weight"], state["weight"].half().float())
    assert back["count"] == 7
    assert back["count"].dtype == torch.int64


def test_a_number_beyond_float16_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weight does not fit"):
        save_half({"weight": torch.tensor([1e6])}, tmp_path / "model.safetensors")
