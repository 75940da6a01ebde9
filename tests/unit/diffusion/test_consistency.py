"""The consistency function and its sampler against diffusers' LCMScheduler."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline

from tests.tiny_base import CAPTIONS
from unifl.core.errors import SettingsError
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.consistency import (
    boundary_scalings,
    consistency_function,
    sampling_timesteps,
    solver_timesteps,
)
from unifl.diffusion.sampling import initial_noise, sample, sample_latents


@pytest.fixture(scope="module")
def adapter(base_folder: Path) -> DiffusionAdapter:
    return DiffusionAdapter.load(base_folder, fast_autoencoder=False)


def lcm(adapter: DiffusionAdapter) -> LCMScheduler:
    return LCMScheduler.from_config(adapter.scheduler.config)


def test_at_the_image_the_function_gives_back_what_it_was_given(adapter: DiffusionAdapter) -> None:
    latents = torch.randn(2, *adapter.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean = consistency_function(adapter, latents, torch.zeros(2, dtype=torch.int64), adapter.encode_text(["", ""]))
    assert torch.equal(clean, latents)


def test_scalings_are_those_of_diffusers(adapter: DiffusionAdapter) -> None:
    reference = [lcm(adapter).get_scalings_for_boundary_condition_discrete(timestep) for timestep in range(1000)]
    c_skip, c_out = boundary_scalings(torch.arange(1000))
    np.testing.assert_allclose(c_skip, [skip for skip, _ in reference], rtol=1e-6)
    np.testing.assert_allclose(c_out, [out for _, out in reference], rtol=1e-6)


def test_the_walk_visits_timesteps_that_were_distilled(adapter: DiffusionAdapter) -> None:
    solver = solver_timesteps(adapter).tolist()
    assert (solver[0], solver[1], solver[-1], len(solver)) == (19, 39, 999, 50)
    assert sampling_timesteps(adapter, 4) == [999, 759, 499, 259]
    assert {timestep for steps in range(1, 51) for timestep in sampling_timesteps(adapter, steps)} <= set(solver)


def test_more_steps_than_were_distilled_are_refused(adapter: DiffusionAdapter) -> None:
    with pytest.raises(SettingsError, match="51 steps of the sampler lcm"):
        sampling_timesteps(adapter, 51)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_samples_equal_those_of_the_plain_diffusers_pipeline(
    adapter: DiffusionAdapter, base_folder: Path, steps: int, guidance_scale: float
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(base_folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = lcm(adapter)
    theirs = pipeline(
        CAPTIONS[:2],
        generator=[torch.Generator().manual_seed(seed) for seed in (3, 4)],
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        output_type="np",
    ).images
    ours = sample(adapter, CAPTIONS[:2], steps=steps, guidance_scale=guidance_scale, seeds=[3, 4], sampler="lcm")
    assert np.abs(ours.astype(float) - theirs * 255).max() <= 1.0
    ddim = sample(adapter, CAPTIONS[:2], steps=steps, guidance_scale=guidance_scale, seeds=[3, 4])
    assert steps == 1 or np.abs(ours.astype(float) - ddim).max() > 1


def test_a_sample_does_not_depend_on_its_batch(adapter: DiffusionAdapter) -> None:
    together = sample(adapter, CAPTIONS, steps=3, seeds=[0, 1, 2, 3], batch_size=4, sampler="lcm")
    apart = sample(adapter, CAPTIONS, steps=3, seeds=[0, 1, 2, 3], batch_size=3, sampler="lcm")
    assert np.abs(together.astype(int) - apart.astype(int)).max() <= 1


def test_ddim_is_the_default_and_draws_nothing(adapter: DiffusionAdapter) -> None:
    """The bits of the walk as it was before there was another one."""
    noise = initial_noise(adapter.latent_shape, [5, 6])
    table = adapter.step_table(3)
    latents, condition = noise, adapter.encode_text(CAPTIONS[:2])
    with torch.no_grad():
        for index in (2, 1, 0):
            indices = torch.full((2,), index)
            prediction = adapter.predict(latents, indices, table, condition, 2.0)
            latents = adapter.ddim_step(prediction, indices, table)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    states = [generator.get_state() for generator in generators]
    found = sample_latents(adapter, CAPTIONS[:2], noise, steps=3, guidance_scale=2.0, generators=generators)
    assert torch.equal(found, latents)
    assert all(torch.equal(generator.get_state(), state) for generator, state in zip(generators, states, strict=True))


def test_fresh_noise_needs_a_generator_an_image(adapter: DiffusionAdapter) -> None:
    noise = initial_noise(adapter.latent_shape, [0, 1])
    with pytest.raises(SettingsError, match="2 images and 0 generators"):
        sample_latents(adapter, CAPTIONS[:2], noise, steps=2, sampler="lcm")
