"""Which floating-point format frozen convolutional networks run in on this machine.

Convolutions of the perception models (arXiv 2404.05595 §3.1) cost four times less in bfloat16 on CPUs that compute it
natively, and several times more on those that emulate it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def native_bfloat16(device: torch.device | str) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16 CPUs, Ampere and later GPUs)."""
    kind = torch.device(device).type
    if kind == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return False


def frozen_precision(device: torch.device | str) -> AbstractContextManager[object]:
    """Context for a frozen convolutional network: bfloat16 autocast where it is native, else nothing."""
    if native_bfloat16(device):
        return torch.autocast(torch.device(device).type, torch.bfloat16)
    return nullcontext()


def plain_attention(device: torch.device | str) -> AbstractContextManager[object]:
    """Context in which attention on a CPU is two matrix products; elsewhere PyTorch chooses.

    The fused CPU kernel's bfloat16 backward took 39 % of forward and backward of a UNet like the embedded one.
    """
    return sdpa_kernel(SDPBackend.MATH) if torch.device(device).type == "cpu" else nullcontext()
