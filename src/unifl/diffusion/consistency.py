"""The consistency function of latent consistency models (arXiv 2310.04378 §4): any noisy latent to its clean one.

Distillation trains it, and the sampler "lcm" walks with it; timesteps and scalings are those of diffusers'
LCMScheduler.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unifl.core.errors import SettingsError
from unifl.diffusion.adapter import DiffusionAdapter

SIGMA_DATA = 0.5  # deviation of the data in the boundary scalings (arXiv 2303.01469 appendix C)
TIMESTEP_SCALING = 10.0  # of the authors' code; with it f is the prediction itself at all but the very first timesteps
SOLVER_STEPS = 50  # DDIM steps that are distilled: k = 1000 / 50 = 20, the skipping step of arXiv 2310.04378 §4.3


def boundary_scalings(timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """(c_skip, c_out), each [N] float32, of f(x, t) = c_skip x + c_out x0(x, t); f(x, 0) = x (arXiv 2310.04378 eq. 9).

    ``timesteps`` [N] are training timesteps.
    """
    scaled = timesteps.double() * TIMESTEP_SCALING
    square = scaled.square() + SIGMA_DATA**2
    return (SIGMA_DATA**2 / square).float(), (scaled / square.sqrt()).float()


def consistency_function(
    adapter: DiffusionAdapter, latents: Tensor, timesteps: Tensor, condition: Tensor, guidance_scale: float = 1.0
) -> Tensor:
    """f(x_t, c, t): clean latents [N, C, h, w] of ``latents`` at training ``timesteps`` [N], with a graph."""
    c_skip, c_out = (scaling.view(-1, 1, 1, 1) for scaling in boundary_scalings(timesteps))
    return c_skip * latents + c_out * adapter.predict_at(latents, timesteps, condition, guidance_scale).x0


def solver_timesteps(adapter: DiffusionAdapter, solver_steps: int = SOLVER_STEPS) -> Tensor:
    """The training timesteps of the distilled walk, ascending, int64 [solver_steps]: k - 1, 2k - 1, ...

    Raises SettingsError where the trained timesteps do not give so many steps.
    """
    trained = len(adapter.alphas_cumprod)
    if not 1 <= solver_steps <= trained:
        raise SettingsError(
            f"{solver_steps} steps of the solver", expected=f"1 to {trained}", remedy="set a number within it"
        )
    return torch.arange(1, solver_steps + 1, device=adapter.device) * (trained // solver_steps) - 1


def sampling_timesteps(adapter: DiffusionAdapter, steps: int) -> list[int]:
    """The ``steps`` training timesteps of multistep consistency sampling, descending, as ``diffusers.LCMScheduler``.

    Raises SettingsError for more steps than were distilled.
    """
    from diffusers import LCMScheduler

    if not 1 <= steps <= SOLVER_STEPS:
        raise SettingsError(f"{steps} steps of the sampler lcm", expected=f"1 to {SOLVER_STEPS}")
    scheduler = LCMScheduler.from_config(adapter.scheduler.config, original_inference_steps=SOLVER_STEPS)
    scheduler.set_timesteps(steps)
    return [int(timestep) for timestep in scheduler.timesteps]
