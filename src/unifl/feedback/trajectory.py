"""Where a feedback trajectory starts, where it carries the gradient, and how it gets there without a wasted forward.

start -> denoise without a graph to step t -> one (or K) step(s) with gradient -> x0: arXiv 2404.05595 Algorithm 1.
Step indices count from the clean end: of 20 steps, index 19 is the first of sampling and index 0 the last, so the
paper's "T_a = 10, t in [0, 5]" reads ``noise_to=10``, ``stops`` drawn from 0..5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unifl.core.errors import SettingsError
from unifl.diffusion.adapter import DiffusionAdapter, Spacing, StepTable
from unifl.diffusion.randomness import Randomness, integers, normal


class Start(NamedTuple):
    """Latents [N, C, h, w] that stand at step index ``step``: that step has yet to be taken."""

    latents: Tensor
    step: int


@dataclass(frozen=True)
class Trajectory:
    """How an objective walks: the sampler, the steps that may carry the gradient, and guidance.

    ``first_stop`` and ``last_stop`` bound (inclusively) the random step index that carries the gradient; with
    ``gradient_steps`` K > 1 the K - 1 steps before it carry one as well (DRaFT-K, arXiv 2309.17400). ``balance_steps``
    scales each sample's gradient by signal / sigma of its step: x0 = (x - sigma noise) / signal magnifies what the UNet
    gets by sigma / signal, 15 at the first of 20 steps and 0.25 at the last, so that noisy samples drown the others.
    """

    steps: int
    first_stop: int
    last_stop: int
    gradient_steps: int = 1
    guidance_scale: float = 1.0
    spacing: Spacing = "trailing"
    balance_steps: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.first_stop <= self.last_stop < self.steps:
            raise SettingsError(
                f"the gradient's steps {self.first_stop} to {self.last_stop} are not among {self.steps} steps",
                expected=f"0 <= first <= last <= {self.steps - 1}",
            )
        if self.gradient_steps < 1:
            raise SettingsError(f"{self.gradient_steps} gradient steps", expected="at least 1")

    def draw_stops(self, count: int, generator: Randomness) -> Tensor:
        """``count`` step indices, uniform over the allowed ones; int64 on the CPU."""
        return integers(self.first_stop, self.last_stop + 1, count, generator)


def start_from_noise(adapter: DiffusionAdapter, count: int, steps: int, generator: Randomness) -> Start:
    """Pure noise, as in sampling: decoupled feedback starts here (§3.2)."""
    noise = normal((count, *adapter.latent_shape), generator)
    return Start(noise.to(adapter.device), steps - 1)


def start_from_image(
    adapter: DiffusionAdapter, images: Tensor, step: int, table: StepTable, generator: Randomness
) -> Start:
    """Latents of real ``images`` [N, 3, H, W] in [0, 1], noised to step index ``step`` (§3.1)."""
    return start_from_latents(adapter, adapter.encode_image(images, generator), step, table, generator)


def start_from_latents(
    adapter: DiffusionAdapter, latents: Tensor, step: int, table: StepTable, generator: Randomness
) -> Start:
    """Clean ``latents`` [N, C, h, w] with the noise of step index ``step`` added."""
    noise = normal(tuple(latents.shape), generator).to(adapter.device)
    timesteps = table.timesteps[step].expand(len(latents))
    return Start(adapter.add_noise(latents, noise, timesteps), step)


def denoise_with_gradient(
    adapter: DiffusionAdapter, start: Start, stops: Tensor, condition: Tensor, trajectory: Trajectory
) -> Tensor:
    """Clean latents x'_0 [N, C, h, w] predicted at step ``stops`` [N], with a graph through the last K steps only.

    The samples are sorted by their stop, so that each step runs only those that have not arrived yet: a batch costs the
    sum of its paths, not the longest path for all. Raises SettingsError when a stop lies before the start.
    """
    table = adapter.step_table(trajectory.steps, trajectory.spacing)
    order = torch.argsort(stops, stable=True)
    sorted_stops = stops[order]
    if int(sorted_stops[-1]) > start.step:
        raise SettingsError(
            f"the gradient's step {int(sorted_stops[-1])} lies before the start at step {start.step}",
            expected=f"steps up to {start.step}",
            remedy="start noisier or draw later steps",
        )
    here = order.to(adapter.device)
    latents, condition = start.latents[here], condition[here]
    # Index at which each sample's graph begins.
    heads = torch.clamp(sorted_stops + trajectory.gradient_steps - 1, max=start.step)
    guidance = trajectory.guidance_scale

    with torch.no_grad():
        for index in range(start.step, int(heads[0]), -1):
            latents = _step_some(adapter, latents, heads < index, index, table, condition, guidance)
    for index in range(int(heads[-1]), 0, -1):
        carrying = (sorted_stops < index) & (heads >= index)
        if bool(carrying.any()):
            latents = _step_some(adapter, latents, carrying, index, table, condition, guidance)
    at = sorted_stops.to(adapter.device)
    x0 = adapter.predict(latents, at, table, condition, guidance).x0
    if trajectory.balance_steps:
        weight = (table.signal[at] / table.sigma[at]).view(-1, 1, 1, 1)
        x0 = x0.detach() + weight * (x0 - x0.detach())
    return x0[torch.argsort(here)]


def _step_some(
    adapter: DiffusionAdapter,
    latents: Tensor,
    active: Tensor,
    index: int,
    table: StepTable,
    condition: Tensor,
    guidance_scale: float,
) -> Tensor:
    """One DDIM step at ``index`` for the ``active`` samples (one contiguous run of the sorted batch)."""
    which = torch.nonzero(active).flatten()
    first, last = int(which[0]), int(which[-1]) + 1
    some = latents[first:last]
    indices = torch.full((last - first,), index, device=adapter.device)
    prediction = adapter.predict(some, indices, table, condition[first:last], guidance_scale)
    stepped = adapter.ddim_step(prediction, indices, table)
    return torch.cat([latents[:first], stepped, latents[last:]])
