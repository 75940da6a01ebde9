"""The embedded base model's folder is one that plain diffusers loads."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from transformers import CLIPTokenizer

from tests.tiny_base import CAPTIONS, TINY
from unifl.core.errors import ModelLoadError
from unifl.diffusion.embedded import Architecture, build_autoencoder, build_tokenizer, build_unet, trained_parts


def test_plain_diffusers_loads_the_folder_in_float32_and_draws(base_folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(base_folder)
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    pipeline.set_progress_bar_config(disable=True)
    (picture,) = pipeline("a red fox", num_inference_steps=2, guidance_scale=2.0).images
    assert picture.size == (TINY.image_side, TINY.image_side)


@pytest.mark.parametrize("downscale", [4, 8])
def test_an_untrained_autoencoder_keeps_the_size_of_the_signal(downscale: Literal[4, 8]) -> None:
    torch.manual_seed(0)
    network = build_autoencoder(Architecture(downscale=downscale))
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = network.encode(images).latents
        decoded = network.decode(latents).sample
    assert latents.shape == (8, 6, 64 // downscale, 64 // downscale)
    assert 0.1 < float(latents.std()) < 10
    assert 0.1 < float(decoded.std()) < 10


def test_no_file_of_the_full_size_unet_is_larger_than_a_shard(tmp_path: Path) -> None:
    build_unet(Architecture()).half().save_pretrained(tmp_path, max_shard_size="12MB")
    assert max(file.stat().st_size for file in tmp_path.iterdir()) <= 12_100_000


def test_the_tokenizer_covers_any_text(base_folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(base_folder / "tokenizer")
    for text in (CAPTIONS[0], "Zürich 🍎 <script>", "", "x" * 500):
        ids = tokenizer(text, padding="max_length", truncation=True)["input_ids"]
        assert len(ids) == TINY.text_length
        assert ids[0] == tokenizer.bos_token_id
        assert max(ids) < len(tokenizer)


def test_known_words_are_single_tokens() -> None:
    tokenizer = build_tokenizer(CAPTIONS * 20, Architecture(vocabulary=2000))
    assert tokenizer.tokenize("a red fox on a blue background") == [
        f"{word}</w>" for word in ["a", "red", "fox", "on", "a", "blue", "background"]
    ]


def test_training_goes_on_from_a_model_only_on_the_latents_it_knows(base_folder: Path) -> None:
    autoencoder = AutoencoderTiny.from_pretrained(base_folder, subfolder="vae")
    unet, text_encoder, tokenizer = trained_parts(base_folder, autoencoder)
    assert all(parameter.requires_grad for net in (unet, text_encoder) for parameter in net.parameters())
    assert tokenizer.model_max_length == TINY.text_length
    autoencoder.register_to_config(scaling_factor=0.5)
    with pytest.raises(ModelLoadError, match="latents of another autoencoder"):
        trained_parts(base_folder, autoencoder)
