"""Maintainers' stage: training images -> the embedded base model's autoencoder, with its reconstruction quality."""

from typing import Any

from pydantic import Field

from unifl.core.step import Metrics, Paths, StepContext, StepDefinition
from unifl.diffusion.pretraining_settings import AutoencoderLoop


class AutoencoderSettings(AutoencoderLoop):
    """The loop's settings, and what measures the result."""

    held_out: int = Field(500, ge=1, description="last images, never trained on, that measure PSNR")


STEP = StepDefinition(
    name="autoencoder",
    summary="Train the embedded autoencoder (images to latents and back).",
    inputs={"images": "folder of image shards, split train"},
    outputs={"autoencoder": "diffusers AutoencoderTiny folder with loss curve and sample sheet"},
    settings=AutoencoderSettings,
)


def run(inputs: Paths, outputs: Paths, settings: AutoencoderSettings, context: StepContext) -> Metrics:
    """Train, set the scaling factor so that latents have deviation 1, and measure reconstruction on held-out images."""
    import torch
    from PIL import Image

    from unifl.core.files import write_json_atomic
    from unifl.data.contracts import open_images
    from unifl.diffusion.embedded import Architecture, build_autoencoder
    from unifl.diffusion.pretraining import (
        contact_sheet,
        encode_all,
        psnr,
        reconstruct,
        train_autoencoder,
    )

    images = open_images(inputs["images"])
    pixels = images.pixels(images.split("train")["image_id"])
    train, held_out = pixels[: -settings.held_out], pixels[-settings.held_out :]
    torch.manual_seed(settings.seed)
    network: Any = build_autoencoder(Architecture())
    network, curve = train_autoencoder(network, train, settings, context.checkpoints)
    deviation = float(encode_all(network, train[:4000]).std())
    network.register_to_config(scaling_factor=1 / deviation)
    decoded = reconstruct(network, held_out)
    folder = outputs["autoencoder"]
    network.save_pretrained(folder, safe_serialization=True)
    write_json_atomic(folder / "curve.json", curve)
    sheet = contact_sheet([held_out[:12], decoded[:12], held_out[12:24], decoded[12:24]])
    Image.fromarray(sheet).save(folder / "reconstructions.png")
    return {"psnr_db": psnr(held_out, decoded), "latent_deviation": deviation, "updates": settings.updates}
