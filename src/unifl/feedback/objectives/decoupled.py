"""Decoupled feedback learning (arXiv 2404.05595 §3.2): one hinge an aesthetic axis, from pure noise.

L_aes = sum over axes of E ReLU(alpha_d - r_d(x', c)), with four reward models on a shared trunk and one decode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unifl.core.errors import SettingsError
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.randomness import Randomness
from unifl.feedback.batches import Batch
from unifl.feedback.losses import decoupled_hinge
from unifl.feedback.objectives import Logs, Objective
from unifl.feedback.trajectory import Trajectory, denoise_with_gradient, start_from_noise
from unifl.perception.minilm import SentenceEncoder
from unifl.rewards.model import RewardModel, score_all


class SentenceFeatures:
    """Sentence features [N, 384] of prompts for reward models, each distinct prompt encoded once."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self._encoder = encoder
        self._cache: dict[str, Tensor] = {}

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cache]
        if missing:
            encoded = torch.from_numpy(self._encoder.encode(missing))
            self._cache.update(zip(missing, encoded, strict=True))
        return torch.stack([self._cache[prompt] for prompt in prompts])


class DecoupledObjective(Objective):
    """The aesthetic term. ``weights`` maps axes of ``rewards`` to their weight, ``alpha_offsets`` to what is added to
    the alpha that a reward model brings.

    Raises SettingsError without any axis of weight above 0, or for an alpha above every score its reward has seen.
    """

    name = "aesthetic"

    def __init__(
        self,
        rewards: Mapping[str, RewardModel],
        weights: Mapping[str, float],
        alpha_offsets: Mapping[str, float],
        trajectory: Trajectory,
        features: SentenceFeatures,
    ) -> None:
        axes = [axis for axis, weight in weights.items() if weight > 0]
        if not axes:
            raise SettingsError(
                "decoupled feedback has no axis to learn from: every weight is 0",
                remedy=f"set {' or '.join(f'lambda_{axis}' for axis in rewards)} above 0",
            )
        self.rewards = {axis: rewards[axis] for axis in axes}
        self.alphas = {axis: rewards[axis].config.alpha + alpha_offsets[axis] for axis in axes}
        for axis, alpha in self.alphas.items():
            rewards[axis].config.check_alpha(alpha, f"alpha_offset_{axis}")
        self.weights = {axis: weights[axis] for axis in axes}
        self.trajectory = trajectory
        self.features = features

    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: Randomness) -> tuple[Tensor, Logs]:
        start = start_from_noise(adapter, len(batch), self.trajectory.steps, generator)
        stops = self.trajectory.draw_stops(len(batch), generator)
        condition = adapter.encode_text(batch.captions)
        images = adapter.decode(denoise_with_gradient(adapter, start, stops, condition, self.trajectory))
        scores = self.scores(images, batch.captions)
        loss, terms = decoupled_hinge(scores, self.alphas, self.weights)
        logs: Logs = {}
        for axis in scores:
            logs[f"hinge_{axis}"] = float(terms[axis].detach())
            logs[f"reward_{axis}"] = float(scores[axis].detach().mean())
        return loss, logs

    def scores(self, images: Tensor, captions: Sequence[str]) -> dict[str, Tensor]:
        """Score [N] of every axis; the trunk runs once for all of them."""
        reads_text = any(reward.config.text for reward in self.rewards.values())
        features = self.features(captions).to(images.device) if reads_text else None
        scored = score_all(list(self.rewards.values()), images, features)
        return dict(zip(self.rewards, scored, strict=True))
