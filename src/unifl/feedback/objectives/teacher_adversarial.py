"""Adversarial diffusion distillation (ADD of SDXL-Turbo, arXiv 2311.17042): a baseline for few steps, with a teacher.

The student predicts a clean image in one step from a real latent at one of its few timesteps. A discriminator tells it
from real images, and the frozen base, shown that prediction noised again, says with guidance where it should lie. The
discriminator is the network of adversarial feedback learning, so that a comparison is one of the methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.randomness import Randomness, integers, normal
from unifl.feedback.batches import Batch
from unifl.feedback.collapse import picture_statistics
from unifl.feedback.losses import distillation_distance, gradient_penalty, hinge_discriminator_loss
from unifl.feedback.objectives import Logs, parameter_count
from unifl.feedback.objectives.adversarial import AdversarialObjective, RealImages, Seen
from unifl.feedback.objectives.decoupled import SentenceFeatures
from unifl.feedback.trajectory import Trajectory
from unifl.feedback.views import MultiView
from unifl.rewards.features import image_features
from unifl.rewards.model import RewardModel

DistillationSpace = Literal["pixel", "latent"]


class TeacherAdversarialObjective(AdversarialObjective):
    """L_G + weight * L_distill for the UNet, hinge loss with R1 for the discriminator after each update.

    The teacher is ``adapter``'s UNet as it is when the objective is made; ``trajectory`` gives the student's timesteps
    and the teacher's guidance (the student learns to do without). ``distillation_weight`` is lambda, ``space`` what the
    distance of student and teacher is measured in, ``r1_weight`` gamma of the penalty on the discriminator's gradient.
    """

    name = "teacher_adversarial"

    def __init__(
        self,
        adapter: DiffusionAdapter,
        discriminator: RewardModel,
        trajectory: Trajectory,
        features: SentenceFeatures,
        *,
        learning_rate: float,
        distillation_weight: float,
        r1_weight: float = 0.0,
        space: DistillationSpace = "pixel",
        real_images: RealImages = "autoencoder",
        views: MultiView | None = None,
    ) -> None:
        super().__init__(
            discriminator, trajectory, features, learning_rate=learning_rate, real_images=real_images, views=views
        )
        self.distillation_weight = distillation_weight
        self.r1_weight = r1_weight
        self.space = space
        self._teacher = adapter.with_frozen_unet()

    @property
    def teacher_parameters(self) -> int:
        """Parameters of the teacher, which this method holds beside the UNet that trains and the discriminator."""
        return parameter_count(self._teacher.unet)

    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: Randomness) -> tuple[Tensor, Logs]:
        table = adapter.step_table(self.trajectory.steps, self.trajectory.spacing)
        latents = adapter.encode_image(batch.real_images(), generator)
        condition = adapter.encode_text(batch.captions)
        steps = self.trajectory.draw_stops(len(batch), generator).to(adapter.device)
        noise, again = (normal(tuple(latents.shape), generator).to(adapter.device) for _ in range(2))
        noisy = adapter.add_noise(latents, noise, table.timesteps[steps])
        student = adapter.predict(noisy, steps, table, condition).x0
        image = adapter.decode(student)
        timesteps = integers(1, len(adapter.alphas_cumprod), len(batch), generator).to(adapter.device)
        adversarial = self._judged(adapter, batch, latents, image, generator)
        with torch.no_grad():
            renoised = adapter.add_noise(student.detach(), again, timesteps)
            teacher = self._teacher.predict_at(renoised, timesteps, condition, self.trajectory.guidance_scale).x0
            if self.space == "pixel":
                teacher = adapter.decode(teacher)
        # c(t) = alpha_t, the paper's exponential weighting: what the teacher guesses from much noise counts less.
        weight = adapter.alphas_cumprod[timesteps].sqrt()
        distillation = distillation_distance(image if self.space == "pixel" else student, teacher, weight)
        loss = adversarial + self.distillation_weight * distillation
        terms = {"generator": float(adversarial.detach()), "distillation": float(distillation.detach())}
        return loss, terms | picture_statistics(self.name, image)

    def _own_loss(self, real_scores: Tensor, fake_scores: Tensor, shown: Sequence[Seen]) -> Tensor:
        loss = hinge_discriminator_loss(real_scores, fake_scores)
        return loss + self.r1_weight * self._penalty(shown) if self.r1_weight else loss

    def _penalty(self, shown: Sequence[Seen]) -> Tensor:
        """R1 on real images, at the input of the discriminator's head as in the paper, in its standardised units."""
        with torch.no_grad():
            features = image_features(self.discriminator.trunk, torch.cat([seen.real for seen in shown]))
        head = self.discriminator.head
        standardised = ((features - head.mean) / head.deviation).requires_grad_()
        texts = [seen.features for seen in shown if seen.features is not None]
        text = torch.cat(texts) if texts else None
        scores = self.discriminator.head_scores(standardised * head.deviation + head.mean, text)
        return gradient_penalty(scores, standardised)
