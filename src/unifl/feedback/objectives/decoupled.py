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
from unifl.feedback.collapse import picture_statistics
from unifl.feedback.losses import decoupled_hinge
from unifl.feedback.objectives import Logs, Objective
from unifl.feedback.trajectory import Trajectory, denoise_with_gradient, start_from_noise
from unifl.feedback.views import JUDGED_IN_VIEWS, DrawnViews, MultiView
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

    Raises SettingsError without any axis of weight above 0, for one without a reward model, or for an alpha above every
    score its reward has seen.
    """

    name = "aesthetic"

    def __init__(
        self,
        rewards: Mapping[str, RewardModel],
        weights: Mapping[str, float],
        alpha_offsets: Mapping[str, float],
        trajectory: Trajectory,
        features: SentenceFeatures,
        views: MultiView | None = None,
    ) -> None:
        axes = [axis for axis, weight in weights.items() if weight > 0]
        if not axes:
            raise SettingsError(
                "decoupled feedback has no axis to learn from: every weight is 0",
                remedy=f"set {' or '.join(f'lambda_{axis}' for axis in rewards)} above 0",
            )
        missing = [axis for axis in axes if axis not in rewards]
        if missing:
            raise SettingsError(
                f"decoupled feedback has no reward model for {', '.join(missing)}",
                expected=f"a reward model for each axis with weight: {', '.join(axes)}",
                remedy=f"give it, or set {', '.join(f'lambda_{axis}' for axis in missing)} to 0",
            )
        self.rewards = {axis: rewards[axis] for axis in axes}
        self.alphas = {axis: rewards[axis].config.alpha + alpha_offsets[axis] for axis in axes}
        for axis, alpha in self.alphas.items():
            rewards[axis].config.check_alpha(alpha, f"alpha_offset_{axis}")
        self.weights = {axis: weights[axis] for axis in axes}
        self.trajectory = trajectory
        self.features = features
        self.views = views or MultiView()

    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: Randomness) -> tuple[Tensor, Logs]:
        start = start_from_noise(adapter, len(batch), self.trajectory.steps, generator)
        stops = self.trajectory.draw_stops(len(batch), generator)
        condition = adapter.encode_text(batch.captions)
        images = adapter.decode(denoise_with_gradient(adapter, start, stops, condition, self.trajectory))
        scores = self.scores(images, batch.captions, self.views.draw(len(batch), generator))
        loss, terms = decoupled_hinge(scores, self.alphas, self.weights)
        logs: Logs = {}
        for axis in scores:
            logs[f"hinge_{axis}"] = float(terms[axis].detach())
            logs[f"reward_{axis}"] = float(scores[axis].detach().mean())
        return loss, logs | picture_statistics(self.name, images)

    def scores(self, images: Tensor, captions: Sequence[str], views: DrawnViews | None = None) -> dict[str, Tensor]:
        """Score [N] of every axis; the trunk runs once for all of them.

        Axes of ``JUDGED_IN_VIEWS`` give their mean over ``views``, the others look at the whole image.
        """
        views = views if views and JUDGED_IN_VIEWS & self.rewards.keys() else DrawnViews([])
        reads_text = any(reward.config.text for reward in self.rewards.values())
        features = views.repeated(self.features(captions).to(images.device)) if reads_text else None
        scored = dict(
            zip(self.rewards, score_all(list(self.rewards.values()), views.of(images), features), strict=True)
        )
        return {
            axis: views.mean(score) if axis in JUDGED_IN_VIEWS else score[: len(images)]
            for axis, score in scored.items()
        }
