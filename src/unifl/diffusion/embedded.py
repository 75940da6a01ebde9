"""The embedded base model's architecture: a small latent diffusion model in diffusers' own layout.

Everything here only *builds* networks: a 4-fold autoencoder, a CLIP text encoder with its byte-pair tokenizer, and a
UNet with cross-attention. :mod:`unifl.diffusion.pretraining` trains them; plain
``StableDiffusionPipeline.from_pretrained(folder)`` loads what is assembled.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

SHARD_SIZE = "12MB"  # keeps every file of the folder small enough for a repository's embedded DVC remote


class Architecture(BaseModel):
    """Sizes of the embedded model; the defaults cost 6.8 CPU ms an image for one UNet forward (float32)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_side: int = 64
    downscale: Literal[4, 8] = 4  # pixels of an image's side that one latent pixel stands for
    latent_channels: int = 6
    encoder_width: int = 32
    decoder_width: int = 64
    text_width: int = 128
    text_layers: int = 4
    text_length: int = 24  # tokens, start and end included
    vocabulary: int = 1500  # at most; byte-pair merges stop earlier when the captions have no more
    unet_widths: tuple[int, int, int] = (64, 128, 160)


def build_tokenizer(captions: Iterable[str], architecture: Architecture) -> "CLIPTokenizer":
    """Learn byte-pair merges from captions and return a tokenizer that covers any text (unseen words fall to bytes)."""
    from tokenizers import Tokenizer, trainers
    from tokenizers.models import BPE
    from transformers import CLIPTokenizer

    template = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(BPE(unk_token="<|endoftext|>", continuing_subword_prefix="", end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = template.normalizer, template.pre_tokenizer
    from tokenizers.pre_tokenizers import ByteLevel

    trainer = trainers.BpeTrainer(
        vocab_size=architecture.vocabulary,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    model = json.loads(learner.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    for letter in sorted(ByteLevel.alphabet()):  # a lone byte can also end a word
        vocabulary.setdefault(f"{letter}</w>", len(vocabulary))
    merges: Any = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=architecture.text_length)


def build_text_encoder(tokenizer: "CLIPTokenizer", architecture: Architecture) -> "CLIPTextModel":
    """Return an untrained CLIP text encoder for ``tokenizer``."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=architecture.text_width,
            intermediate_size=4 * architecture.text_width,
            num_hidden_layers=architecture.text_layers,
            num_attention_heads=4,
            max_position_embeddings=architecture.text_length,
            projection_dim=architecture.text_width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet(architecture: Architecture) -> "UNet2DConditionModel":
    """Return an untrained UNet for latents [N, latent_channels, side / downscale, side / downscale].

    Besides cross-attention, a pooled text embedding joins the time embedding and scales every residual block's
    features, at every resolution.
    """
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=architecture.image_side // architecture.downscale,
        in_channels=architecture.latent_channels,
        out_channels=architecture.latent_channels,
        layers_per_block=1,
        block_out_channels=architecture.unet_widths,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=architecture.text_width,
        attention_head_dim=8,  # diffusers' name for the number of heads
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
        resnet_time_scale_shift="scale_shift",
    )


def build_autoencoder(architecture: Architecture) -> "AutoencoderTiny":
    """Return an untrained autoencoder for images [N, 3, side, side] in [-1, 1].

    The network has no normalisation, so its residual blocks start as identities (as in Fixup, arXiv 1901.09321) and the
    other convolutions keep the signal's variance: it learns several times faster than from PyTorch's own start.
    """
    from diffusers import AutoencoderTiny
    from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
    from torch import nn

    stages = architecture.downscale.bit_length()  # one at full size, then one a halving
    network: Any = AutoencoderTiny(
        latent_channels=architecture.latent_channels,
        encoder_block_out_channels=(architecture.encoder_width,) * stages,
        decoder_block_out_channels=(architecture.decoder_width,) * stages,
        num_encoder_blocks=(1, *(3,) * (stages - 1)),
        num_decoder_blocks=(*(3,) * (stages - 1), 1),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, AutoencoderTinyBlock):
            nn.init.zeros_(module.conv[-1].weight)
    for last in (network.encoder.layers[-1], network.decoder.layers[-1]):
        nn.init.xavier_normal_(last.weight)
    return network  # type: ignore[no-any-return]


def noise_schedule() -> "DDIMScheduler":
    """Return Stable Diffusion's own noise schedule with epsilon prediction."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def assemble(
    folder: Path,
    *,
    unet: "UNet2DConditionModel",
    autoencoder: "AutoencoderTiny",
    text_encoder: "CLIPTextModel",
    tokenizer: "CLIPTokenizer",
    half: bool = True,
) -> None:
    """Write a complete Stable Diffusion folder.

    With ``half`` the UNet and the autoencoder are stored as float16 (and come back as float32, diffusers' default). The
    text encoder stays float32, because transformers would otherwise load it as float16 beside a float32 UNet.
    """
    from diffusers import StableDiffusionPipeline

    networks: tuple[Any, ...] = (unet, autoencoder)
    for network in networks:  # where it was trained is in its record, not in the model
        network.register_to_config(_name_or_path="")
    if half:
        for network in networks:
            for parameter in network.parameters():
                parameter.data = parameter.data.half()
    pipeline: Any = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=noise_schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD_SIZE)


def trained_parts(folder: Path, autoencoder: Any) -> "tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer]":
    """Return UNet, text encoder (both float32) and tokenizer of a base model, to go on training them.

    Raises ModelLoadError when a part is missing or unreadable, or when the model's latents are not those that
    ``autoencoder`` makes at its present scaling factor.
    """
    from unifl.core.errors import ModelLoadError
    from unifl.diffusion.adapter import DiffusionAdapter

    trained = DiffusionAdapter.load(folder)
    theirs, ours = trained.autoencoder.state_dict(), autoencoder.state_dict()
    same = theirs.keys() == ours.keys() and all((theirs[k] - ours[k]).abs().max() < 1e-2 for k in ours)  # float16
    scales = [float(network.config.scaling_factor) for network in (trained.autoencoder, autoencoder)]
    if not same or abs(scales[0] / scales[1] - 1) > 1e-3:
        raise ModelLoadError(
            "the model was trained on the latents of another autoencoder",
            file=folder / "vae",
            expected=f"the given autoencoder at scaling factor {scales[1]:.4f}",
            remedy="give the autoencoder and images that the model was trained with",
        )
    trained.unet.train()
    trained.text_encoder.train().requires_grad_(True)
    return trained.unet, trained.text_encoder, trained.tokenizer


def build_untrained(
    folder: Path, captions: Iterable[str], seed: int = 0, architecture: Architecture | None = None
) -> None:
    """Write a complete folder with random weights: the true layout, for tests and for benchmarks of speed."""
    import torch

    sizes = architecture or Architecture()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer(captions, sizes)
        assemble(
            folder,
            unet=build_unet(sizes),
            autoencoder=build_autoencoder(sizes),
            text_encoder=build_text_encoder(tokenizer, sizes),
            tokenizer=tokenizer,
        )
