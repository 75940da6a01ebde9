"""Prompts to images with DDIM: the sampler behind evaluation, sample sheets and the over-optimisation guard.

The paper (arXiv 2404.05595 §4.1) samples with 20 DDIM steps, and with 4 after adversarial feedback learning.
Pictures equal those of ``diffusers.StableDiffusionPipeline`` with a ``DDIMScheduler``, and every image has its own
seed, so that a result depends neither on the batch size nor on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unifl.core.errors import SettingsError
from unifl.diffusion.adapter import DiffusionAdapter, Spacing


def initial_noise(shape: tuple[int, int, int], seeds: Sequence[int]) -> Tensor:
    """Standard normal latents [N, C, h, w], one CPU generator a seed."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])


def sample_latents(
    adapter: DiffusionAdapter,
    prompts: Sequence[str],
    noise: Tensor,
    *,
    steps: int = 20,
    guidance_scale: float = 1.0,
    spacing: Spacing = "trailing",
) -> Tensor:
    """Clean latents [N, C, h, w] from ``noise`` after ``steps`` DDIM steps, without a graph."""
    table = adapter.step_table(steps, spacing)
    latents = noise.to(adapter.device)
    condition = adapter.encode_text(prompts)
    with torch.no_grad():
        for index in range(steps - 1, -1, -1):
            indices = torch.full((len(latents),), index, device=adapter.device)
            prediction = adapter.predict(latents, indices, table, condition, guidance_scale)
            latents = adapter.ddim_step(prediction, indices, table)
    return latents


def sample(
    adapter: DiffusionAdapter,
    prompts: Sequence[str],
    *,
    steps: int = 20,
    guidance_scale: float = 1.0,
    seeds: Sequence[int],
    spacing: Spacing = "trailing",
    batch_size: int = 64,
) -> np.ndarray:
    """uint8 images [N, H, W, 3], one for each (prompt, seed).

    ``guidance_scale`` 1 is no classifier-free guidance. Raises ``SettingsError`` unless each prompt has one seed.
    """
    if len(prompts) != len(seeds):
        raise SettingsError(f"{len(prompts)} prompts and {len(seeds)} seeds", expected="one seed an image")
    pictures: list[np.ndarray] = []
    training = adapter.unet.training
    adapter.unet.eval()
    try:
        for first in range(0, len(prompts), batch_size):
            noise = initial_noise(adapter.latent_shape, seeds[first : first + batch_size])
            latents = sample_latents(
                adapter,
                prompts[first : first + batch_size],
                noise,
                steps=steps,
                guidance_scale=guidance_scale,
                spacing=spacing,
            )
            with torch.no_grad():
                images = adapter.decode(latents)
            pictures.append((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
    finally:
        adapter.unet.train(training)
    if not pictures:
        raise SettingsError("no prompts to sample", expected="at least one prompt")
    return np.concatenate(pictures)
