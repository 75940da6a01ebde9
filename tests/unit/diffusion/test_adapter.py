import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from tests.tiny_base import CAPTIONS
from unifl.core.errors import ModelLoadError, SettingsError
from unifl.diffusion.adapter import DiffusionAdapter, Prediction, Spacing
from unifl.diffusion.sampling import initial_noise, sample

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


@pytest.fixture(scope="module")
def adapter(base_folder: Path) -> DiffusionAdapter:
    return DiffusionAdapter.load(base_folder, fast_autoencoder=False)


def with_scheduler(adapter: DiffusionAdapter, **changes: object) -> DiffusionAdapter:
    return DiffusionAdapter(
        unet=adapter.unet,
        autoencoder=adapter.autoencoder,
        text_encoder=adapter.text_encoder,
        tokenizer=adapter.tokenizer,
        scheduler=DDIMScheduler(**(SCHEDULE | changes)),
    )


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("steps", [1, 4, 7, 20])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_per_sample_ddim_equals_the_scheduler_of_diffusers(
    adapter: DiffusionAdapter, spacing: Spacing, steps: int, prediction_type: str, set_alpha_to_one: bool
) -> None:
    ours = with_scheduler(adapter, prediction_type=prediction_type, set_alpha_to_one=set_alpha_to_one, steps_offset=1)
    reference = DDIMScheduler.from_config(ours.scheduler.config, timestep_spacing=spacing)
    reference.set_timesteps(steps)
    table = ours.step_table(steps, spacing)
    assert ours.timesteps(steps, spacing).tolist() == reference.timesteps.tolist()

    generator = torch.Generator().manual_seed(steps)
    latents = torch.randn(steps, 4, 4, 4, generator=generator)
    output = torch.randn(steps, 4, 4, 4, generator=generator)
    indices = torch.arange(steps)
    ours._guided_output = lambda *_: output  # type: ignore[method-assign]
    predicted = ours.predict(latents, indices, table, torch.zeros(steps, 1, 1))
    stepped = ours.ddim_step(predicted, indices, table)
    for index in range(steps):
        expected = reference.step(output[index], int(table.timesteps[index]), latents[index])
        torch.testing.assert_close(predicted.x0[index], expected.pred_original_sample, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(stepped[index], expected.prev_sample, rtol=2e-5, atol=2e-5)


def test_adding_noise_equals_the_scheduler_of_diffusers(adapter: DiffusionAdapter) -> None:
    latents, noise = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 499, 999])
    expected = adapter.scheduler.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(adapter.add_noise(latents, noise, timesteps), expected)


def test_noise_and_clean_latent_belong_together_for_v_prediction(adapter: DiffusionAdapter) -> None:
    ours = with_scheduler(adapter, prediction_type="v_prediction")
    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    table = ours.step_table(20)
    indices = torch.tensor([0, 7, 19])
    predicted = ours.predict(latents, indices, table, ours.encode_text(CAPTIONS[:3]))
    signal, sigma = table.signal[indices].view(-1, 1, 1, 1), table.sigma[indices].view(-1, 1, 1, 1)
    torch.testing.assert_close(signal * predicted.x0 + sigma * predicted.noise, latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_samples_equal_those_of_the_plain_diffusers_pipeline(
    adapter: DiffusionAdapter, base_folder: Path, guidance_scale: float
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(base_folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    theirs = pipeline(
        CAPTIONS[:2],
        latents=initial_noise(adapter.latent_shape, [3, 4]),
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        output_type="np",
    ).images
    ours = sample(adapter, CAPTIONS[:2], steps=4, guidance_scale=guidance_scale, seeds=[3, 4])
    assert np.abs(ours.astype(float) - theirs * 255).max() <= 1.0


def test_a_sample_does_not_depend_on_its_batch(adapter: DiffusionAdapter) -> None:
    together = sample(adapter, CAPTIONS, steps=3, seeds=[0, 1, 2, 3], batch_size=4)
    alone = sample(adapter, CAPTIONS[2:3], steps=3, seeds=[2], batch_size=1)
    assert np.abs(together[2].astype(int) - alone[0].astype(int)).max() <= 1


def test_one_seed_a_prompt_is_required(adapter: DiffusionAdapter) -> None:
    with pytest.raises(SettingsError, match="2 prompts and 1 seeds"):
        sample(adapter, CAPTIONS[:2], seeds=[0])


def test_each_prompt_is_encoded_once(adapter: DiffusionAdapter) -> None:
    fresh = with_scheduler(adapter)
    calls: list[int] = []
    handle = fresh.text_encoder.register_forward_hook(lambda _module, _inputs, output: calls.append(len(output[0])))
    first = fresh.encode_text([CAPTIONS[0], CAPTIONS[1], CAPTIONS[0]])
    second = fresh.encode_text([CAPTIONS[1], CAPTIONS[0]])
    handle.remove()
    assert calls == [2]
    torch.testing.assert_close(first[[1, 0]], second, rtol=0, atol=0)
    torch.testing.assert_close(first[0], first[2], rtol=0, atol=0)


def test_an_image_round_trip_keeps_the_range_and_carries_gradients(adapter: DiffusionAdapter) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latents = adapter.encode_image(images).requires_grad_()
    decoded = adapter.decode(latents)
    assert decoded.shape == images.shape
    assert float(decoded.detach().min()) >= -1e-6
    assert float(decoded.detach().max()) <= 1 + 1e-6
    decoded.mean().backward()
    assert latents.grad is not None
    assert float(latents.grad.abs().sum()) > 0


def test_saturated_pixels_still_have_a_gradient(adapter: DiffusionAdapter) -> None:
    latents = (adapter.encode_image(torch.ones(1, 3, 64, 64)) * 50).requires_grad_()
    decoded = adapter.decode(latents)
    decoded.sum().backward()
    assert latents.grad is not None
    assert torch.isfinite(latents.grad).all()


def test_gradients_of_the_fast_autoencoder_agree_with_float32(base_folder: Path) -> None:
    gradients = []
    for fast in (False, True):
        adapter = DiffusionAdapter.load(base_folder, fast_autoencoder=fast)
        latents = torch.randn(4, *adapter.latent_shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        (adapter.decode(latents) - 0.3).square().mean().backward()
        assert latents.grad is not None
        gradients.append(latents.grad.flatten())
    assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.99


def test_gradients_of_the_fast_unet_agree_with_float32_and_its_weights_stay_so(base_folder: Path) -> None:
    gradients = []
    for fast in (False, True):
        adapter = DiffusionAdapter.load(base_folder, fast_unet=fast)
        latents = torch.randn(4, *adapter.latent_shape, generator=torch.Generator().manual_seed(0))
        noise = adapter.predict_noise(latents, torch.tensor([20, 300, 700, 999]), adapter.encode_text(CAPTIONS))
        assert noise.dtype == torch.float32
        (noise - 0.3).square().mean().backward()
        weights = [parameter for parameter in adapter.unet.parameters() if parameter.grad is not None]
        assert {parameter.dtype for parameter in weights} == {torch.float32}
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in weights]))
    assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.99


def test_only_the_unet_can_train(adapter: DiffusionAdapter) -> None:
    frozen = [*adapter.autoencoder.parameters(), *adapter.text_encoder.parameters()]
    assert not any(parameter.requires_grad for parameter in frozen)


def test_ddim_step_of_a_perfect_prediction_lands_on_the_noised_image(adapter: DiffusionAdapter) -> None:
    clean, noise = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    table = adapter.step_table(20)
    stepped = adapter.ddim_step(Prediction(clean, noise), torch.tensor([10]), table)
    torch.testing.assert_close(stepped, adapter.add_noise(clean, noise, table.timesteps[9:10]), rtol=1e-5, atol=1e-5)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="dvc pull"):
        DiffusionAdapter.load(tmp_path / "nothing")


@pytest.mark.parametrize("part", ["unet/config.json", "tokenizer/tokenizer.json", "vae/config.json"])
def test_a_broken_part_is_named(base_folder: Path, tmp_path: Path, part: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base_folder, broken)
    (broken / part).write_bytes(b"{")
    with pytest.raises(ModelLoadError, match=part.split("/")[0]):
        DiffusionAdapter.load(broken)


def test_another_model_family_is_refused(base_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(base_folder, other)
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    with pytest.raises(ModelLoadError, match="FluxPipeline"):
        DiffusionAdapter.load(other)


def test_a_scheduler_that_clips_latents_is_refused(adapter: DiffusionAdapter) -> None:
    with pytest.raises(ModelLoadError, match="clip_sample"):
        with_scheduler(adapter, clip_sample=True)
