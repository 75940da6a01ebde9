"""A random-weight base model in the true layout, small enough that a test of training takes a second."""

from pathlib import Path

from unifl.diffusion.embedded import Architecture, build_untrained

CAPTIONS = ["a red fox on a blue background", "two apples beside a rocket", "a green owl above a car", "a small house"]
TINY = Architecture(
    image_side=64,
    latent_channels=4,
    encoder_width=16,
    decoder_width=16,
    text_width=32,
    text_layers=1,
    text_length=16,
    vocabulary=600,
    unet_widths=(32, 32, 32),
)


def build_tiny_base(folder: Path) -> Path:
    """Write the folder and give its path."""
    build_untrained(folder, CAPTIONS, seed=0, architecture=TINY)
    return folder
