"""Adversarial feedback learning (arXiv 2404.05595 §3.3): a reward model that keeps learning, as discriminator.

A frozen reward is hacked within few steps; one that learns to tell real images from predicted ones keeps guiding. The
optimised step ranges over the whole trajectory, from a real latent noised to its last step, so that predictions at high
noise become sharp and few steps suffice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from unifl.core.checkpoint import optimizer_tensors, restore_optimizer
from unifl.core.errors import SettingsError
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.randomness import Randomness
from unifl.feedback.batches import Batch
from unifl.feedback.collapse import picture_statistics
from unifl.feedback.losses import discriminator_loss, generator_loss
from unifl.feedback.objectives import Logs, Objective
from unifl.feedback.objectives.decoupled import SentenceFeatures
from unifl.feedback.ranks import current_ranks
from unifl.feedback.trajectory import Trajectory, denoise_with_gradient, start_from_latents
from unifl.feedback.views import DrawnViews, MultiView
from unifl.rewards.model import RewardModel

RealImages = Literal["autoencoder", "raw"]


class Seen(NamedTuple):
    """What the discriminator is shown once the generator has moved: real and predicted images in the same views."""

    real: Tensor
    fake: Tensor
    features: Tensor | None
    views: DrawnViews


class AdversarialObjective(Objective):
    """L_G for the UNet, and L_D for the discriminator after each update.

    ``discriminator`` is what ``RewardModel.discriminator`` made of the detail reward: its trainable parameters learn.
    ``real_images`` "autoencoder" shows the discriminator real images as the autoencoder gives them back, so that it
    cannot win by spotting the autoencoder; "raw" shows the files' pixels. ``learning_rate`` is the discriminator's.
    """

    name = "generator"

    def __init__(
        self,
        discriminator: RewardModel,
        trajectory: Trajectory,
        features: SentenceFeatures,
        *,
        learning_rate: float,
        real_images: RealImages = "autoencoder",
        views: MultiView | None = None,
    ) -> None:
        self.discriminator = discriminator
        self.trajectory = trajectory
        self.features = features
        self.real_images = real_images
        self.views = views or MultiView()
        self._parameters = dict(discriminator.trainable())
        if not self._parameters:
            raise SettingsError(
                "adversarial feedback has no discriminator: nothing of the reward model learns",
                expected="a reward model with trainable parameters",
                remedy="give RewardModel.discriminator() of the detail reward",
            )
        self._optimizer = torch.optim.AdamW(self._parameters.values(), lr=learning_rate)
        self._seen: list[Seen] = []
        self._learn(False)

    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: Randomness) -> tuple[Tensor, Logs]:
        trajectory = self.trajectory
        table = adapter.step_table(trajectory.steps, trajectory.spacing)
        latents = adapter.encode_image(batch.real_images(), generator)
        start = start_from_latents(adapter, latents, trajectory.steps - 1, table, generator)
        stops = trajectory.draw_stops(len(batch), generator)
        condition = adapter.encode_text(batch.captions)
        fake = adapter.decode(denoise_with_gradient(adapter, start, stops, condition, trajectory))
        return self._judged(adapter, batch, latents, fake, generator), picture_statistics(self.name, fake)

    def _judged(
        self, adapter: DiffusionAdapter, batch: Batch, latents: Tensor, fake: Tensor, generator: Randomness
    ) -> Tensor:
        """L_G of ``fake``, which is kept, with the real images of ``latents``, for the discriminator's own update."""
        with torch.no_grad():
            real = adapter.decode(latents) if self.real_images == "autoencoder" else batch.real_images().to(fake)
        views = self.views.draw(len(batch), generator)
        features = None
        if self.discriminator.config.text:
            features = views.repeated(self.features(batch.captions).to(fake.device))
        viewed = views.of(fake)
        self._seen.append(Seen(views.of(real), viewed.detach(), features, views))
        return generator_loss(views.mean(self.discriminator.score(viewed, features)))

    def _own_loss(self, real_scores: Tensor, fake_scores: Tensor, _shown: Sequence[Seen]) -> Tensor:
        """What the discriminator learns from: scores [N], each image's mean over its views, of what was shown."""
        return discriminator_loss(real_scores, fake_scores)

    def after_update(self) -> Logs:
        """One update of the discriminator on what the generator's update has seen (accumulated batches together)."""
        shown, self._seen = self._seen, []
        features = [seen.features for seen in shown if seen.features is not None]
        images = torch.cat([seen.real for seen in shown] + [seen.fake for seen in shown])
        self._learn(True)
        scores = self.discriminator.score(images, torch.cat(features * 2) if features else None)
        real_scores, fake_scores = (_over_views(half, shown) for half in scores.chunk(2))
        loss = self._own_loss(real_scores, fake_scores, shown)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        current_ranks().average_gradients(self._parameters.values())
        self._optimizer.step()
        self._learn(False)
        right = torch.cat([real_scores.detach() > 0, fake_scores.detach() < 0]).float().mean()
        return {
            "discriminator": float(loss.detach()),
            "discriminator_accuracy": float(right),
            "score_real": float(real_scores.detach().mean()),
            "score_fake": float(fake_scores.detach().mean()),
        }

    def state(self) -> dict[str, Tensor]:
        weights = {f"parameter.{name}": value.detach() for name, value in self._parameters.items()}
        moments = {f"optimizer.{name}": value for name, value in optimizer_tensors(self._optimizer).items()}
        return weights | moments

    def restore(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._parameters.items():
                value.copy_(state[f"parameter.{name}"])
        prefix = "optimizer."
        moments = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        restore_optimizer(self._optimizer, moments)

    def _learn(self, learns: bool) -> None:
        """Its weights carry gradients only in its own update: the generator's would fill them for nothing."""
        for parameter in self._parameters.values():
            parameter.requires_grad_(learns)


def _over_views(scores: Tensor, shown: Sequence[Seen]) -> Tensor:
    """Each image's mean score over its views, from the scores of everything ``shown``."""
    parts = scores.split([len(seen.real) for seen in shown])
    return torch.cat([seen.views.mean(part) for seen, part in zip(shown, parts, strict=True)])
