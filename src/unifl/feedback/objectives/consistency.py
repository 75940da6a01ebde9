"""Latent consistency distillation (LCM, arXiv 2310.04378): a baseline for few steps, which the paper compares with.

The student learns to map every point of a guided DDIM walk of the frozen base to where the walk ends: its prediction at
t is held to that of its own slow average k steps nearer to the image. Pictures take the sampler "lcm".
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.consistency import consistency_function, solver_timesteps
from unifl.diffusion.randomness import Randomness, integers, normal
from unifl.feedback.batches import Batch
from unifl.feedback.losses import consistency_loss
from unifl.feedback.objectives import Logs, Objective, parameter_count


class ConsistencyObjective(Objective):
    """L_LCD over real latents, with a teacher, a student and the student's average as target (algorithm 1).

    The teacher is ``adapter``'s UNet as it is when the objective is made. ``guidance_scale`` is that of the teacher's
    step, which the student learns to do without (w + 1 in the paper's notation); ``solver_steps`` the DDIM steps of the
    whole walk, whose number gives the skipping step k; ``target_decay`` the average's; ``huber`` as in the loss.
    """

    name = "consistency"

    def __init__(
        self,
        adapter: DiffusionAdapter,
        *,
        guidance_scale: float,
        solver_steps: int,
        target_decay: float,
        huber: float,
    ) -> None:
        self.guidance_scale = guidance_scale
        self.target_decay = target_decay
        self.huber = huber
        self._timesteps = solver_timesteps(adapter, solver_steps)
        self._unet: Any = adapter.unet
        self._teacher = adapter.with_frozen_unet()
        self._kept_target: DiffusionAdapter | None = None

    @property
    def teacher_parameters(self) -> int:
        """Parameters of teacher and target, which this method holds beside the UNet that trains."""
        return parameter_count(self._teacher.unet) + parameter_count(self._target.unet)

    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: Randomness) -> tuple[Tensor, Logs]:
        latents = adapter.encode_image(batch.real_images(), generator)
        noise = normal(tuple(latents.shape), generator).to(adapter.device)
        indices = integers(0, len(self._timesteps), len(batch), generator).to(adapter.device)
        condition = adapter.encode_text(batch.captions)
        now = self._timesteps[indices]
        # The walk's last step ends at timestep 0, as diffusers' solver of LCM.
        before = torch.where(indices > 0, self._timesteps[(indices - 1).clamp(min=0)], 0)
        noisy = adapter.add_noise(latents, noise, now)
        student = consistency_function(adapter, noisy, now, condition)
        with torch.no_grad():
            guided = self._teacher.predict_at(noisy, now, condition, self.guidance_scale)
            nearer = adapter.add_noise(guided.x0, guided.noise, before)
            target = consistency_function(self._target, nearer, before, condition)
        return consistency_loss(student, target, self.huber), {}

    def after_update(self) -> Logs:
        """The target follows the student."""
        current = dict(self._unet.named_parameters())
        with torch.no_grad():
            for name, value in self._moving().items():
                value.lerp_(current[name], 1 - self.target_decay)
        return {}

    def state(self) -> dict[str, Tensor]:
        return {f"target.{name}": value for name, value in self._moving().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._moving().items():
                value.copy_(state[f"target.{name}"])

    @property
    def _target(self) -> DiffusionAdapter:
        """The average, made at its first use: by then the engine has put LoRA in, where LoRA trains."""
        if self._kept_target is None:
            self._kept_target = copy.copy(self._teacher)
            self._kept_target.unet = copy.deepcopy(self._unet).eval().requires_grad_(False)
        return self._kept_target

    def _moving(self) -> dict[str, Tensor]:
        """The target's tensors that have a counterpart in training."""
        learns = {name for name, value in self._unet.named_parameters() if value.requires_grad}
        return {name: value for name, value in self._target.unet.named_parameters() if name in learns}
