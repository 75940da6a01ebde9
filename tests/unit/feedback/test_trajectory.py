from pathlib import Path

import pytest
import torch

from tests.tiny_base import CAPTIONS
from unifl.core.errors import SettingsError
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.feedback.trajectory import (
    Start,
    Trajectory,
    denoise_with_gradient,
    start_from_image,
    start_from_noise,
)


@pytest.fixture(scope="module")
def adapter(base_folder: Path) -> DiffusionAdapter:
    return DiffusionAdapter.load(base_folder)


def one_at_a_time(adapter: DiffusionAdapter, start: Start, stops: list[int], trajectory: Trajectory) -> torch.Tensor:
    """The same walk, written naively: each sample alone, each step in turn."""
    table = adapter.step_table(trajectory.steps, trajectory.spacing)
    found = []
    for number, stop in enumerate(stops):
        latents, condition = start.latents[number : number + 1], adapter.encode_text([CAPTIONS[number]])
        for index in range(start.step, stop, -1):
            here = torch.tensor([index])
            with torch.set_grad_enabled(index <= stop + trajectory.gradient_steps - 1):
                predicted = adapter.predict(latents, here, table, condition, trajectory.guidance_scale)
                latents = adapter.ddim_step(predicted, here, table)
        found.append(adapter.predict(latents, torch.tensor([stop]), table, condition, trajectory.guidance_scale).x0)
    return torch.cat(found)


@pytest.mark.parametrize("gradient_steps", [1, 3])
@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
def test_a_batch_with_many_stops_walks_as_each_sample_alone(
    adapter: DiffusionAdapter, gradient_steps: int, guidance_scale: float
) -> None:
    trajectory = Trajectory(8, 0, 7, gradient_steps=gradient_steps, guidance_scale=guidance_scale)
    start = start_from_noise(adapter, 4, 8, torch.Generator().manual_seed(0))
    stops = [3, 0, 7, 5]
    x0 = denoise_with_gradient(adapter, start, torch.tensor(stops), adapter.encode_text(CAPTIONS), trajectory)
    expected = one_at_a_time(adapter, start, stops, trajectory)
    torch.testing.assert_close(x0, expected, rtol=1e-3, atol=1e-3)

    weight = adapter.unet.conv_in.weight
    (ours,) = torch.autograd.grad(x0.square().mean(), weight)
    (theirs,) = torch.autograd.grad(expected.square().mean(), weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max()))


@pytest.mark.parametrize("stop", [0, 4, 7])
def test_balanced_steps_scale_the_gradient_and_leave_the_images(adapter: DiffusionAdapter, stop: int) -> None:
    table = adapter.step_table(8)
    condition = adapter.encode_text(CAPTIONS[:1])
    found = []
    for balance in (False, True):
        start = start_from_noise(adapter, 1, 8, torch.Generator().manual_seed(0))
        x0 = denoise_with_gradient(
            adapter, start, torch.tensor([stop]), condition, Trajectory(8, 0, 7, balance_steps=balance)
        )
        # A linear loss: its gradient does not depend on the images.
        found.append((x0.detach(), torch.autograd.grad(x0.sum(), adapter.unet.conv_out.weight)[0]))
    (plain, plain_gradient), (balanced, balanced_gradient) = found
    torch.testing.assert_close(plain, balanced, rtol=0, atol=0)
    factor = float(table.signal[stop] / table.sigma[stop])
    torch.testing.assert_close(balanced_gradient, factor * plain_gradient, rtol=1e-3, atol=1e-5)


def test_no_forward_is_wasted(adapter: DiffusionAdapter) -> None:
    seen: list[int] = []
    handle = adapter.unet.register_forward_pre_hook(lambda _module, inputs: seen.append(len(inputs[0])))
    stops = torch.tensor([3, 0, 7, 5])
    start = start_from_noise(adapter, 4, 8, torch.Generator().manual_seed(0))
    denoise_with_gradient(adapter, start, stops, adapter.encode_text(CAPTIONS), Trajectory(8, 0, 7))
    handle.remove()
    assert sum(seen) == sum(7 - int(stop) + 1 for stop in stops)
    assert seen[-1] == 4


def test_only_the_last_step_has_a_graph(adapter: DiffusionAdapter) -> None:
    graphs: list[bool] = []
    handle = adapter.unet.register_forward_hook(lambda _module, _inputs, output: graphs.append(output[0].requires_grad))
    start = start_from_noise(adapter, 4, 8, torch.Generator().manual_seed(0))
    stops = torch.tensor([1, 1, 2, 0])
    denoise_with_gradient(adapter, start, stops, adapter.encode_text(CAPTIONS), Trajectory(8, 0, 7))
    handle.remove()
    assert graphs == [False] * (len(graphs) - 1) + [True]


def test_stops_are_uniform_over_the_allowed_steps() -> None:
    stops = Trajectory(20, 0, 5).draw_stops(6000, torch.Generator().manual_seed(0))
    counts = torch.bincount(stops)
    assert len(counts) == 6
    assert int(counts.min()) > 850


def test_noise_starts_at_the_first_step_of_sampling(adapter: DiffusionAdapter) -> None:
    start = start_from_noise(adapter, 64, 20, torch.Generator().manual_seed(0))
    assert start.step == 19
    assert float(start.latents.std()) == pytest.approx(1.0, abs=0.03)


def test_a_real_image_is_noised_to_the_step_it_starts_at(adapter: DiffusionAdapter) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    table = adapter.step_table(20)
    start = start_from_image(adapter, images, 10, table, torch.Generator().manual_seed(1))
    noise = torch.randn(2, *adapter.latent_shape, generator=torch.Generator().manual_seed(1))
    assert int(table.timesteps[10]) == 549
    expected = adapter.scheduler.add_noise(adapter.encode_image(images), noise, torch.tensor([549, 549]))
    torch.testing.assert_close(start.latents, expected)


def test_a_stop_before_the_start_is_refused(adapter: DiffusionAdapter) -> None:
    start = Start(torch.zeros(1, *adapter.latent_shape), 3)
    with pytest.raises(SettingsError, match="before the start"):
        denoise_with_gradient(adapter, start, torch.tensor([4]), adapter.encode_text(CAPTIONS[:1]), Trajectory(8, 0, 7))


@pytest.mark.parametrize("bounds", [(-1, 3), (4, 3), (0, 20)])
def test_impossible_gradient_steps_are_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(SettingsError):
        Trajectory(20, *bounds)
