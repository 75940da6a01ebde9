"""The weight of the noise error at each noise level, against the error of v-prediction that it stands for."""

import pytest
import torch

from unifl.diffusion.loss_weight import velocity_weight


@pytest.mark.parametrize("level", [0.0047, 0.3, 0.9])
def test_an_error_of_noise_weighs_what_it_makes_of_an_error_of_velocity(level: float) -> None:
    signal, sigma = level**0.5, (1 - level) ** 0.5
    clean, noise, guess = torch.randn(3, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noisy = signal * clean + sigma * noise
    guessed_clean = (noisy - sigma * guess) / signal
    velocity, guessed_velocity = signal * noise - sigma * clean, signal * guess - sigma * guessed_clean
    weight = velocity_weight(torch.tensor([level], dtype=torch.float64), deviation=1, min_snr=0)
    torch.testing.assert_close(weight * (guess - noise) ** 2, (guessed_velocity - velocity) ** 2)


def test_the_weight_of_almost_clean_images_is_capped_by_the_signal_to_noise_ratio() -> None:
    level = torch.tensor([0.99, 0.5])  # ratios of 24.75 and 0.25
    expected = torch.tensor([(1 + 1 / 24.75) * 5 / 24.75, 1 + 1 / 0.25])
    torch.testing.assert_close(velocity_weight(level, deviation=0.5, min_snr=5), expected)
