"""The plain diffusion loss on real images: plain fine-tuning, and the term ReFL adds beside its reward.

It is the baseline arXiv 2404.05595 compares PeFL's style response with (its table of style response rates).
"""

from __future__ import annotations

from torch import Tensor

from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.loss_weight import velocity_weight
from unifl.diffusion.randomness import Randomness, integers, normal
from unifl.feedback.batches import Batch
from unifl.feedback.losses import diffusion_loss
from unifl.feedback.objectives import Logs, Objective


class DiffusionObjective(Objective):
    """E |noise - predicted noise|^2 at a uniformly drawn training timestep.

    ``min_snr`` above 0 weighs each sample's error as v-prediction with min-SNR does (``unifl.diffusion.loss_weight``).
    """

    name = "diffusion"

    def __init__(self, min_snr: float = 0.0) -> None:
        self.min_snr = min_snr

    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: Randomness) -> tuple[Tensor, Logs]:
        latents = adapter.encode_image(batch.real_images(), generator)
        noise = normal(tuple(latents.shape), generator).to(adapter.device)
        count = len(adapter.alphas_cumprod)
        timesteps = integers(0, count, len(batch), generator).to(adapter.device)
        noisy = adapter.add_noise(latents, noise, timesteps)
        predicted = adapter.predict_noise(noisy, timesteps, adapter.encode_text(batch.captions))
        weight = None
        if self.min_snr:
            weight = velocity_weight(adapter.alphas_cumprod[timesteps], latents.std(), self.min_snr)
        return diffusion_loss(predicted, noise, weight), {}
