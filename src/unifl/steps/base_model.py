"""Maintainers' stage: training images + autoencoder -> the embedded base model, a folder that plain diffusers loads.

Text encoder and UNet are trained together on cached latents. Captions are the scenes' own, so the model knows every
concept, attribute, relation and style of :mod:`unifl.data.vocabulary` but the held-out style.
"""

import shutil
from pathlib import Path
from typing import Any

from unifl.core.step import Metrics, Paths, StepContext, StepDefinition
from unifl.diffusion.pretraining_settings import DiffusionLoop

SHEET_PROMPTS = (
    "a dog on a blue background, noto icon",
    "an apple on a yellow background, glossy icon",
    "a green car on a white background, flat icon",
    "a small rocket on a gray background, twemoji icon",
    "a cat to the left of a guitar on a pink background, noto icon",
    "a house above a purple fish on a green background, flat icon",
    "an owl, sepia engraving",
    "a sunflower, watercolor painting",
    "a castle, woodcut print",
    "a butterfly, impasto painting",
    "a bicycle, crimson oil painting",
    "a tree, a duck and a cake on a white background, glossy icon",
)


class BaseModelSettings(DiffusionLoop):
    """The loop's settings; a sample sheet is drawn at each checkpoint."""


STEP = StepDefinition(
    name="base_model",
    summary="Train the embedded latent diffusion model.",
    inputs={
        "images": "folder of image shards, split train",
        "autoencoder": "diffusers AutoencoderTiny folder",
        "initial": "an earlier base_model folder, trained on the same latents, to go on from; without it, from nothing",
    },
    optional_inputs=frozenset({"initial"}),
    outputs={"base_model": "diffusers Stable Diffusion folder with loss curve and sample sheets"},
    settings=BaseModelSettings,
)


def run(inputs: Paths, outputs: Paths, settings: BaseModelSettings, context: StepContext) -> Metrics:
    """Encode the images once, train, and assemble the folder."""
    import torch
    from diffusers import AutoencoderTiny

    from unifl.core.files import write_json_atomic
    from unifl.data.contracts import open_images
    from unifl.data.vocabulary import ATTRIBUTES, BACKGROUNDS, CONCEPTS, RELATIONS, STYLE_PHRASES
    from unifl.diffusion.embedded import (
        Architecture,
        assemble,
        build_text_encoder,
        build_tokenizer,
        build_unet,
        trained_parts,
    )
    from unifl.diffusion.pretraining import encode_all, train_diffusion

    images = open_images(inputs["images"])
    rows = images.split("train")
    autoencoder = AutoencoderTiny.from_pretrained(inputs["autoencoder"])
    autoencoder.to(memory_format=torch.channels_last)
    latents = encode_all(autoencoder, images.pixels(rows["image_id"]))
    scale = settings.latent_deviation / float(latents.std())
    autoencoder.register_to_config(scaling_factor=scale)
    latents *= scale
    captions = rows["caption"].tolist()
    words = [*CONCEPTS, *ATTRIBUTES, *RELATIONS, *BACKGROUNDS, *STYLE_PHRASES.values(), "gradient background"]
    torch.manual_seed(settings.seed)
    unet: Any
    text_encoder: Any
    initial = inputs.get("initial")
    if initial is None:
        architecture = Architecture()
        tokenizer = build_tokenizer([*captions, *words * 200], architecture)
        unet, text_encoder = build_unet(architecture), build_text_encoder(tokenizer, architecture)
    else:
        unet, text_encoder, tokenizer = trained_parts(initial, autoencoder)
    tokens = torch.tensor(tokenizer(captions, padding="max_length", truncation=True)["input_ids"])
    empty = torch.tensor(tokenizer("", padding="max_length")["input_ids"])

    def show(update: int, unet: Any, text_encoder: Any) -> None:
        parts = {"vae": autoencoder, "unet": unet, "text_encoder": text_encoder, "tokenizer": tokenizer}
        sample_sheet(parts, context.checkpoints / f"samples-{update:06d}.png")

    unet, text_encoder, curve = train_diffusion(
        unet, text_encoder, latents, tokens, empty, settings, context.checkpoints, show
    )
    folder = outputs["base_model"]
    assemble(folder, unet=unet, autoencoder=autoencoder, text_encoder=text_encoder, tokenizer=tokenizer)
    write_json_atomic(folder / "training" / "curve.json", curve)
    sheets = sorted(context.checkpoints.glob("samples-*.png"))
    shutil.copy2(sheets[-1], folder / "training" / sheets[-1].name)
    return {
        "updates": settings.updates,
        "images_seen": settings.updates * settings.batch_size,
        "epsilon_loss": curve[-1]["epsilon"],
        "scaling_factor": scale,
        "unet_parameters": sum(parameter.numel() for parameter in unet.parameters()),
    }


def sample_sheet(parts: dict[str, Any], path: Path) -> None:
    """Draw :data:`SHEET_PROMPTS` with 20, 4, 2 and 1 DDIM steps (a row each), same seeds, guidance 4."""
    import numpy as np
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from PIL import Image

    from unifl.diffusion.embedded import noise_schedule
    from unifl.diffusion.pretraining import contact_sheet

    schedule: Any = noise_schedule()
    scheduler = DDIMScheduler.from_config(schedule.config, timestep_spacing="trailing")
    pipeline: Any = StableDiffusionPipeline(
        **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for steps in (20, 4, 2, 1):
        generators = [torch.Generator().manual_seed(index) for index in range(len(SHEET_PROMPTS))]
        images = pipeline(
            list(SHEET_PROMPTS), num_inference_steps=steps, guidance_scale=4.0, generator=generators, output_type="np"
        ).images
        rows.append((images * 255).round().astype(np.uint8))
    Image.fromarray(contact_sheet(rows)).save(path)
