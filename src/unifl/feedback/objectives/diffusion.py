"""The plain diffusion loss on real images: plain fine-tuning, and the term ReFL adds beside its reward.

It is the baseline arXiv 2404.05595 compares PeFL's style response with (its table of style response rates).
"""

from __future__ import annotations

import torch
from torch import Tensor

from unifl.diffusion.adapter import DiffusionAdapter
from unifl.feedback.batches import Batch
from unifl.feedback.losses import diffusion_loss
from unifl.feedback.objectives import Logs, Objective


class DiffusionObjective(Objective):
    """E |noise - predicted noise|^2 at a uniformly drawn training timestep."""

    name = "diffusion"

    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Logs]:
        latents = adapter.encode_image(batch.real_images(), generator)
        noise = torch.randn(latents.shape, generator=generator).to(adapter.device)
        count = len(adapter.alphas_cumprod)
        timesteps = torch.randint(0, count, (len(batch),), generator=generator).to(adapter.device)
        noisy = adapter.add_noise(latents, noise, timesteps)
        loss = diffusion_loss(adapter.predict_noise(noisy, timesteps, adapter.encode_text(batch.captions)), noise)
        return loss, {}
