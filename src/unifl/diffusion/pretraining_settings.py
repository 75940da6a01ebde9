"""Settings of the two pretraining loops; apart from the loops so that reading a preset imports no torch."""

from pydantic import Field

from unifl.core.settings import StepSettings


class LoopSettings(StepSettings):
    """What both loops share. The learning rate warms up linearly and then falls on a half cosine to zero."""

    updates: int = Field(6500, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    warmup_updates: int = Field(200, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1, description="of the averaged weights that are kept")
    checkpoint_every: int = Field(500, ge=1, description="updates")
    seed: int = Field(0, ge=0)


class AutoencoderLoop(LoopSettings):
    """Weights of the autoencoder's loss terms."""

    updates: int = Field(6500, ge=1)
    batch_size: int = Field(8, ge=1, description="small: 800 updates of 8 reached 2 dB more than 300 of 32")
    learning_rate: float = Field(1.5e-3, gt=0)
    gradient_weight: float = Field(0.5, ge=0, description="L1 of finite differences: sharp edges")
    perceptual_weight: float = Field(0.1, ge=0, description="L1 of VGG-16 features relu1_2 and relu2_2")
    perceptual_images: int = Field(8, ge=1, description="images of a batch that pass through VGG-16, which costs most")
    moment_weight: float = Field(0.03, ge=0, description="pulls each latent channel to mean 0 and deviation 1")
    latent_noise: float = Field(0.08, ge=0, description="deviation of noise on latents: a decoder that forgives")


class DiffusionLoop(LoopSettings):
    """Sizes of the diffusion training; the rate is that of small models, not Stable Diffusion's 1e-4."""

    updates: int = Field(8000, ge=1)
    batch_size: int = Field(64, ge=1)
    unconditional: float = Field(0.1, ge=0, le=1, description="share of captions dropped for classifier-free guidance")
    min_snr: float = Field(5.0, ge=0, description="gamma of min-SNR weighting (arXiv 2303.09556); 0 for none")
    latent_deviation: float = Field(
        0.5,
        gt=0,
        description="what the autoencoder's scaling_factor scales latents to. With 1, the mean color of 16 x 16 "
        "latents still shows at the last noise level, and text is not asked for it (arXiv 2301.10972 scales, too)",
    )
