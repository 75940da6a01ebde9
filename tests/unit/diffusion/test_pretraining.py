"""The pretraining loops: they learn, they resume exactly, they stop on a loss that is no number."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.tiny_base import CAPTIONS, TINY
from unifl.core.errors import DivergenceError
from unifl.diffusion.embedded import build_autoencoder, build_text_encoder, build_tokenizer, build_unet
from unifl.diffusion.pretraining import learning_rate_at, psnr, train_autoencoder, train_diffusion
from unifl.diffusion.pretraining_settings import AutoencoderLoop, DiffusionLoop


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    colors = np.random.default_rng(0).integers(0, 255, (24, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(colors, (24, 64, 64, 3)).copy()


def autoencoder_curve(pixels: NDArray[np.uint8], folder: Path, updates: int, stop: int | None = None) -> list[float]:
    """Losses of a run; with ``stop`` the process "dies" right after that checkpoint."""
    torch.manual_seed(0)
    settings = AutoencoderLoop(
        updates=updates, batch_size=4, warmup_updates=2, checkpoint_every=5, perceptual_weight=0, learning_rate=2e-3
    )

    def die(update: int, _network: torch.nn.Module) -> None:
        if update == stop:
            raise KeyboardInterrupt

    _, curve = train_autoencoder(build_autoencoder(TINY), pixels, settings, folder, die)
    return [entry["loss"] for entry in curve]


def test_a_killed_autoencoder_ends_with_the_losses_of_an_undisturbed_one(
    pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = autoencoder_curve(pixels, tmp_path / "whole", 100)
    with pytest.raises(KeyboardInterrupt):
        autoencoder_curve(pixels, tmp_path / "killed", 100, stop=50)
    assert autoencoder_curve(pixels, tmp_path / "killed", 100) == whole
    assert whole[1] < whole[0]


def test_the_diffusion_loss_falls(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(CAPTIONS * 20, TINY)
    latents = torch.ones(8, TINY.latent_channels, 8, 8)
    tokens = torch.tensor(tokenizer(CAPTIONS * 2, padding="max_length", truncation=True)["input_ids"])
    empty = torch.tensor(tokenizer("", padding="max_length")["input_ids"])
    settings = DiffusionLoop(updates=100, batch_size=8, warmup_updates=5, learning_rate=2e-3)
    unet, text_encoder, curve = train_diffusion(
        build_unet(TINY), build_text_encoder(tokenizer, TINY), latents, tokens, empty, settings, tmp_path
    )
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]
    assert not any(parameter.requires_grad for net in (unet, text_encoder) for parameter in net.parameters())


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_update(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_autoencoder(TINY)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    settings = AutoencoderLoop(updates=3, batch_size=2, perceptual_weight=0)
    with pytest.raises(DivergenceError, match="update 0"):
        train_autoencoder(network, np.zeros((4, 64, 64, 3), np.uint8), settings, tmp_path)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    settings = DiffusionLoop(updates=1000, warmup_updates=100, learning_rate=1e-3)
    rates = [learning_rate_at(update, settings) for update in range(1000)]
    assert rates[0] == pytest.approx(1e-5, rel=0.01)
    assert max(rates) == pytest.approx(1e-3, rel=0.03)
    assert rates[-1] < 1e-8


def test_psnr_is_that_of_a_known_error() -> None:
    black = np.zeros((2, 8, 8, 3), np.uint8)
    assert psnr(black, black + np.uint8(16)) == pytest.approx(20 * np.log10(255 / 16))
