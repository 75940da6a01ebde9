"""Prompts to images: the samplers behind evaluation, sample sheets and the over-optimisation guard.

The paper (arXiv 2404.05595 §4.1) samples with 20 DDIM steps, and with 4 after adversarial feedback learning. The
consistency models that it compares with walk with fresh noise a step. Pictures equal those of
``diffusers.StableDiffusionPipeline`` with a ``DDIMScheduler`` or an ``LCMScheduler``, and every image has its own seed,
so that a result depends neither on the batch size nor on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from unifl.core.errors import SettingsError
from unifl.diffusion.adapter import DiffusionAdapter, Spacing
from unifl.diffusion.consistency import consistency_function, sampling_timesteps

Sampler = Literal["ddim", "lcm"]


def initial_noise(shape: tuple[int, int, int], seeds: Sequence[int]) -> Tensor:
    """Standard normal latents [N, C, h, w], one CPU generator a seed."""
    return _noise(shape, _generators(seeds))


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def _noise(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def sample_latents(
    adapter: DiffusionAdapter,
    prompts: Sequence[str],
    noise: Tensor,
    *,
    steps: int = 20,
    guidance_scale: float = 1.0,
    spacing: Spacing = "trailing",
    sampler: Sampler = "ddim",
    generators: Sequence[torch.Generator] = (),
) -> Tensor:
    """Clean latents [N, C, h, w] from ``noise`` after ``steps`` steps, without a graph.

    ``sampler`` "lcm" adds fresh noise between its steps, from the ``generators``, one an image, which it needs; it has
    timesteps of its own: ``spacing`` counts for "ddim" alone. Raises SettingsError without a generator an image.
    """
    latents = noise.to(adapter.device)
    condition = adapter.encode_text(prompts)
    if sampler == "lcm":
        return _consistency_walk(adapter, latents, condition, steps, guidance_scale, generators)
    table = adapter.step_table(steps, spacing)
    with torch.no_grad():
        for index in range(steps - 1, -1, -1):
            indices = torch.full((len(latents),), index, device=adapter.device)
            prediction = adapter.predict(latents, indices, table, condition, guidance_scale)
            latents = adapter.ddim_step(prediction, indices, table)
    return latents


def _consistency_walk(
    adapter: DiffusionAdapter,
    latents: Tensor,
    condition: Tensor,
    steps: int,
    guidance_scale: float,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Multistep consistency sampling (arXiv 2310.04378 algorithm 3): to the clean latent, noised again a step later."""
    if len(generators) != len(latents):
        raise SettingsError(
            f"{len(latents)} images and {len(generators)} generators",
            expected="one generator an image, as the sampler lcm draws noise in every step",
        )
    timesteps = sampling_timesteps(adapter, steps)
    with torch.no_grad():
        for timestep, following in zip(timesteps, [*timesteps[1:], None], strict=True):
            now = torch.full((len(latents),), timestep, device=adapter.device)
            latents = consistency_function(adapter, latents, now, condition, guidance_scale)
            if following is not None:
                fresh = _noise(latents.shape[1:], generators).to(latents)
                latents = adapter.add_noise(latents, fresh, torch.full_like(now, following))
    return latents


def sample(
    adapter: DiffusionAdapter,
    prompts: Sequence[str],
    *,
    steps: int = 20,
    guidance_scale: float = 1.0,
    seeds: Sequence[int],
    spacing: Spacing = "trailing",
    sampler: Sampler = "ddim",
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
            generators = _generators(seeds[first : first + batch_size])
            latents = sample_latents(
                adapter,
                prompts[first : first + batch_size],
                _noise(adapter.latent_shape, generators),
                steps=steps,
                guidance_scale=guidance_scale,
                spacing=spacing,
                sampler=sampler,
                generators=generators,
            )
            with torch.no_grad():
                images = adapter.decode(latents)
            pictures.append((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
    finally:
        adapter.unet.train(training)
    if not pictures:
        raise SettingsError("no prompts to sample", expected="at least one prompt")
    return np.concatenate(pictures)
