"""A tuned model draws in plain diffusers what our sampler draws: as full weights, and as a LoRA on the base."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from tests.tiny_base import CAPTIONS, build_tiny_base
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.randomness import Randomness
from unifl.diffusion.sampling import initial_noise, sample
from unifl.feedback.batches import Batch, PromptBatches
from unifl.feedback.engine import FeedbackEngine, Term
from unifl.feedback.objectives import Logs, Objective
from unifl.feedback.parameters import save_tuned_model
from unifl.feedback.settings import EngineSettings
from unifl.feedback.trajectory import Trajectory, denoise_with_gradient, start_from_noise

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
PROMPTS, SEEDS = CAPTIONS[:2], [11, 12]
TOLERANCE = 1
"""Gray levels of 255: sums in another order may round a pixel to its neighbour."""


class Redness(Objective):
    """Pull the red channel up."""

    name = "redness"

    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: Randomness) -> tuple[Tensor, Logs]:
        trajectory = Trajectory(4, 0, 2)
        start = start_from_noise(adapter, len(batch), 4, generator)
        stops = trajectory.draw_stops(len(batch), generator)
        condition = adapter.encode_text(batch.captions)
        images = adapter.decode(denoise_with_gradient(adapter, start, stops, condition, trajectory))
        return 1 - images[:, 0].mean(), {}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module", params=[0, 2], ids=["all weights", "LoRA"])
def tuned(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tuned")
    settings = EngineSettings(
        updates=4, batch_size=2, steps=4, learning_rate=1e-2, warmup_updates=0, lora_rank=request.param
    )
    terms = [Term(Redness(), PromptBatches(CAPTIONS, 2, 0))]
    engine = FeedbackEngine(DiffusionAdapter.load(base), terms, settings, home / "checkpoints")
    engine.run()
    save_tuned_model(engine.parameters, home / "model", base_folder=base, stage="test", log_file=engine.log_file)
    return home / "model"


def forms(base: Path, tuned: Path) -> dict[str, StableDiffusionPipeline]:
    """Plain diffusers pipelines of the tuned model: the whole UNet, and the LoRA on the base where there is one."""
    unet = UNet2DConditionModel.from_pretrained(tuned, subfolder="unet")
    found = {"unet": StableDiffusionPipeline.from_pretrained(base, unet=unet, local_files_only=True)}
    if (tuned / "lora").exists():
        found["lora"] = StableDiffusionPipeline.from_pretrained(base, local_files_only=True)
        found["lora"].load_lora_weights(tuned / "lora")
    for pipeline in found.values():
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
        pipeline.set_progress_bar_config(disable=True)
    return found


def levels(pictures: np.ndarray) -> np.ndarray:
    return pictures.astype(np.int16)


@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["guidance off", "guidance on"])
@pytest.mark.parametrize("steps", [20, 4])
def test_plain_diffusers_draws_what_our_sampler_draws(base: Path, tuned: Path, steps: int, guidance: float) -> None:
    # In full precision: bfloat16 autoencoding, as in training, differs from diffusers by design.
    ours, untuned = (DiffusionAdapter.load(base, model, fast_autoencoder=False) for model in (tuned, None))
    expected, before = (
        levels(sample(adapter, PROMPTS, steps=steps, guidance_scale=guidance, seeds=SEEDS))
        for adapter in (ours, untuned)
    )
    pipelines = forms(base, tuned)
    assert ("lora" in pipelines) == (tuned / "lora").exists()
    for form, pipeline in pipelines.items():
        with torch.no_grad():
            pictures = pipeline(
                PROMPTS,
                latents=initial_noise(ours.latent_shape, SEEDS),
                num_inference_steps=steps,
                guidance_scale=guidance,
                output_type="np",
            ).images
        found = levels((pictures * 255).round())
        assert np.abs(found - expected).max() <= TOLERANCE, form
    assert np.abs(before - expected).max() > 10 * TOLERANCE, "the tuning is in the pictures"
