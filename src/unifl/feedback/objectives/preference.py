"""Diffusion-DPO (arXiv 2311.12908): learns from preference pairs themselves, without a reward model; a baseline.

Both pictures of a pair get the same noise at the same timestep. The model shall predict the preferred one's noise
better, and the rejected one's worse, than the frozen base does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.randomness import Randomness, integers, normal
from unifl.feedback.batches import Batch
from unifl.feedback.losses import preference_loss, squared_errors
from unifl.feedback.objectives import Logs, Objective, parameter_count
from unifl.feedback.preference_batches import PreferenceBatch


class PreferenceObjective(Objective):
    """L of eq. 14 over ``PreferenceBatches``; the reference is ``adapter``'s UNet as it is when the objective is made.

    ``beta`` multiplies differences of mean squared errors: the paper's beta times timestep count and weighting.
    """

    name = "preference"

    def __init__(self, adapter: DiffusionAdapter, beta: float) -> None:
        self.beta = beta
        self._reference = adapter.with_frozen_unet()

    @property
    def teacher_parameters(self) -> int:
        """Parameters of the reference, which this method holds beside the UNet that trains."""
        return parameter_count(self._reference.unet)

    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: Randomness) -> tuple[Tensor, Logs]:
        if not isinstance(batch, PreferenceBatch):
            raise ValueError("this objective needs preference pairs, but its batches hold none")
        sides = [adapter.encode_image(images, generator) for images in (batch.real_images(), batch.rejected_images())]
        noise = normal(tuple(sides[0].shape), generator).to(adapter.device)
        timesteps = integers(0, len(adapter.alphas_cumprod), len(batch), generator).to(adapter.device)
        noisy = torch.cat([adapter.add_noise(latents, noise, timesteps) for latents in sides])
        condition = adapter.encode_text(batch.captions * 2)
        twice = torch.cat([timesteps, timesteps])
        errors = squared_errors(adapter.predict_noise(noisy, twice, condition), torch.cat([noise, noise]))
        with torch.no_grad():
            predicted = self._reference.predict_noise(noisy, twice, condition)
        reference = squared_errors(predicted, torch.cat([noise, noise]))
        preferred, rejected = errors.chunk(2)
        reference_preferred, reference_rejected = reference.chunk(2)
        loss, right = preference_loss(preferred, rejected, reference_preferred, reference_rejected, self.beta)
        return loss, {
            "preference_accuracy": float(right),
            "error_preferred": float(preferred.detach().mean()),
            "error_rejected": float(rejected.detach().mean()),
        }
