"""The one door between feedback learning and a diffusion model: text, autoencoder, noise prediction and DDIM steps.

Everything that trains or samples goes through it, so prediction types and model families are handled here and nowhere
else. The DDIM arithmetic takes a step index for *each sample* of a batch, because arXiv 2404.05595 §3.1 draws
the optimised step at random and a batch therefore holds many of them.
"""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from unifl.core.errors import ModelLoadError, SettingsError
from unifl.diffusion.randomness import Randomness, normal
from unifl.perception.precision import frozen_precision, plain_attention

Spacing = Literal["trailing", "leading", "linspace"]
TEXT_CACHE_ENTRIES = 16_384  # 24 tokens x 128 float32 = 12 kB an entry on the embedded base: at most 200 MB


class Prediction(NamedTuple):
    """What one evaluation of the network says about a noisy latent: both as [N, C, H, W] float32."""

    x0: Tensor
    noise: Tensor


class StepTable(NamedTuple):
    """The discrete schedule of one sampler setting; row ``i`` is *step index* i, counted from the clean end.

    Index 0 is the last step of sampling (the least noise), index ``steps - 1`` the first (pure noise). ``signal`` and
    ``sigma`` are sqrt(alpha_bar) and sqrt(1 - alpha_bar) at the step, ``next_signal`` and ``next_sigma`` those of the
    latent that the step gives.
    """

    timesteps: Tensor
    signal: Tensor
    sigma: Tensor
    next_signal: Tensor
    next_sigma: Tensor


class DiffusionAdapter:
    """A latent diffusion model in diffusers' layout, in float32, with everything but the UNet frozen.

    Build it with :meth:`load`. Images are [N, 3, H, W] float in [0, 1]; latents carry the autoencoder's scaling factor.
    """

    def __init__(
        self,
        *,
        unet: Any,
        autoencoder: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        device: str | torch.device = "cpu",
        fast_autoencoder: bool = True,
        fast_unet: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.unet = unet.to(self.device)
        self.autoencoder = autoencoder.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.text_encoder = text_encoder.to(self.device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.scheduler = scheduler
        self.fast_autoencoder = fast_autoencoder
        self.fast_unet = fast_unet
        self.prediction_type = str(scheduler.config.prediction_type)
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod.to(self.device, torch.float32)
        self._text_cache: OrderedDict[str, Tensor] = OrderedDict()
        self._tables: dict[tuple[int, str], StepTable] = {}
        _refuse_what_the_arithmetic_does_not_cover(scheduler.config, self.prediction_type)

    @classmethod
    def load(
        cls,
        base_folder: Path | str,
        tuned: Path | str | None = None,
        device: str | torch.device = "cpu",
        *,
        fast_autoencoder: bool = True,
        fast_unet: bool = False,
    ) -> DiffusionAdapter:
        """Read a ``StableDiffusionPipeline`` folder and, if given, the UNet of a tuned model folder in its place.

        ``fast_autoencoder`` runs the autoencoder in bfloat16 where the processor has instructions for it: pixels differ
        by 0.3 of 255 levels on average, gradients agree to a cosine of 0.997. Turn it off to compare with diffusers.
        ``fast_unet`` does the same for the UNet, whose weights stay float32: for training, not for pictures to judge.
        Raises ``ModelLoadError`` for a missing folder, an unreadable part, or a family this adapter does not speak.
        """
        base = Path(base_folder)
        _check_family(base)
        from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        kinds = {"AutoencoderTiny": AutoencoderTiny, "AutoencoderKL": AutoencoderKL}
        unet_home = Path(tuned) if tuned is not None else base
        with _quiet(), _readable(base / "vae"):
            config = json.loads((base / "vae" / "config.json").read_text())
            kind = kinds.get(config.get("_class_name"))
            if kind is None:
                raise ModelLoadError(
                    f"autoencoder class {config.get('_class_name')!r} is not supported",
                    file=str(base / "vae" / "config.json"),
                    expected=" or ".join(kinds),
                )
            autoencoder = kind.from_pretrained(base, subfolder="vae", local_files_only=True)
        with _quiet(), _readable(base / "text_encoder"):
            text_encoder = CLIPTextModel.from_pretrained(
                base / "text_encoder", local_files_only=True, dtype=torch.float32
            )
        with _readable(base / "tokenizer"):
            tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True)
        with _readable(base / "scheduler"):
            scheduler = DDIMScheduler.from_pretrained(base, subfolder="scheduler", local_files_only=True)
        with _quiet(), _readable(unet_home / "unet"):
            unet = UNet2DConditionModel.from_pretrained(
                unet_home, subfolder="unet", local_files_only=True, use_safetensors=True
            )
        return cls(
            unet=unet,
            autoencoder=autoencoder,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            device=device,
            fast_autoencoder=fast_autoencoder,
            fast_unet=fast_unet,
        )

    def with_frozen_unet(self) -> DiffusionAdapter:
        """The same model with a frozen copy of the UNet as it is now; all else, caches too, is shared."""
        twin = copy.copy(self)
        twin.unet = copy.deepcopy(self.unet).eval().requires_grad_(False)
        return twin

    # ------------------------------------------------------------------ text

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Token states [N, L, D] float32 of the prompts, without a graph; every distinct prompt is encoded once."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._text_cache]
        known = {prompt: self._text_cache[prompt] for prompt in prompts if prompt in self._text_cache}
        for first in range(0, len(missing), 64):
            some = missing[first : first + 64]
            tokens = self.tokenizer(
                some,
                padding="max_length",
                max_length=self.tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).to(self.device)
            mask = tokens.attention_mask if getattr(self.text_encoder.config, "use_attention_mask", False) else None
            with torch.no_grad():
                states = self.text_encoder(tokens.input_ids, attention_mask=mask)[0].float()
            known.update(zip(some, states, strict=True))
        for prompt in missing:
            self._text_cache[prompt] = known[prompt].clone()
        while len(self._text_cache) > TEXT_CACHE_ENTRIES:
            self._text_cache.popitem(last=False)
        return torch.stack([known[prompt] for prompt in prompts])

    # ----------------------------------------------------------- autoencoder

    def encode_image(self, images: Tensor, generator: Randomness | None = None) -> Tensor:
        """Scaled latents [N, C, h, w] float32 of images [N, 3, H, W] in [0, 1], without a graph.

        ``AutoencoderKL`` is variational and sampled from with ``generator``; ``AutoencoderTiny`` is not random.
        """
        signed = (images.to(self.device) * 2 - 1).contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), self._autoencoder_precision():
            encoded = self.autoencoder.encode(signed)
        latents: Tensor
        if hasattr(encoded, "latent_dist"):
            known = encoded.latent_dist
            noise = normal(tuple(known.mean.shape), generator, known.mean.dtype)
            latents = known.mean + known.std * noise.to(known.mean.device)
        else:
            latents = encoded.latents
        return latents.float().contiguous() * float(self.autoencoder.config.scaling_factor)

    def decode(self, latents: Tensor) -> Tensor:
        """Images [N, 3, H, W] float32 in [0, 1] of scaled latents; gradients flow to the latents.

        Values outside [0, 1] are clamped with the gradient passed straight through, as a reward on saturated pixels
        would otherwise be unable to pull them back.
        """
        unscaled = (latents / float(self.autoencoder.config.scaling_factor)).contiguous(
            memory_format=torch.channels_last
        )
        with self._autoencoder_precision():
            signed = self.autoencoder.decode(unscaled, return_dict=False)[0]
        images: Tensor = signed.float() / 2 + 0.5
        return images + (images.clamp(0, 1) - images).detach()

    def _autoencoder_precision(self) -> AbstractContextManager[object]:
        return frozen_precision(self.device) if self.fast_autoencoder else nullcontext()

    # -------------------------------------------------------------- schedule

    def timesteps(self, steps: int, spacing: Spacing = "trailing") -> Tensor:
        """The ``steps`` training timesteps that DDIM visits, descending, int64, as in ``diffusers.DDIMScheduler``."""
        return self.step_table(steps, spacing).timesteps.flip(0)

    def step_table(self, steps: int, spacing: Spacing = "trailing") -> StepTable:
        """The schedule of ``steps`` DDIM steps (1 up to the training count), indexed from the clean end."""
        from diffusers import DDIMScheduler

        key = (steps, spacing)
        if key not in self._tables:
            trained = int(self.scheduler.config.num_train_timesteps)
            if not 1 <= steps <= trained:
                raise SettingsError(f"{steps} sampling steps", expected=f"1 to {trained}", remedy="set steps within it")
            scheduler = DDIMScheduler.from_config(self.scheduler.config, timestep_spacing=spacing)
            scheduler.set_timesteps(steps)
            timesteps = scheduler.timesteps.flip(0).to(self.device)
            before = timesteps - trained // steps
            alpha = self.alphas_cumprod[timesteps]
            final = scheduler.final_alpha_cumprod.to(alpha)
            next_alpha = torch.where(before >= 0, self.alphas_cumprod[before.clamp(min=0)], final)
            self._tables[key] = StepTable(
                timesteps, alpha.sqrt(), (1 - alpha).sqrt(), next_alpha.sqrt(), (1 - next_alpha).sqrt()
            )
        return self._tables[key]

    # ------------------------------------------------------------ prediction

    def predict_noise(
        self, latents: Tensor, timesteps: Tensor, condition: Tensor, guidance_scale: float = 1.0
    ) -> Tensor:
        """The noise [N, C, h, w] in ``latents`` at training ``timesteps`` [N], for every prediction type."""
        return self.predict_at(latents, timesteps, condition, guidance_scale).noise

    def predict_at(
        self, latents: Tensor, timesteps: Tensor, condition: Tensor, guidance_scale: float = 1.0
    ) -> Prediction:
        """Clean latent and noise at training ``timesteps`` [N], which need not be steps of any sampler."""
        alpha = _column(self.alphas_cumprod[timesteps])
        return self._predict(latents, timesteps, condition, guidance_scale, alpha.sqrt(), (1 - alpha).sqrt())

    def predict(
        self,
        latents: Tensor,
        indices: Tensor,
        table: StepTable,
        condition: Tensor,
        guidance_scale: float = 1.0,
    ) -> Prediction:
        """Clean latent and noise at step ``indices`` [N] (0 = the last step) of ``table``.

        With ``guidance_scale`` 1 the UNet runs once a sample; otherwise classifier-free guidance against the empty
        prompt doubles it.
        """
        signal, sigma = _column(table.signal[indices]), _column(table.sigma[indices])
        return self._predict(latents, table.timesteps[indices], condition, guidance_scale, signal, sigma)

    def _predict(
        self,
        latents: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        guidance_scale: float,
        signal: Tensor,
        sigma: Tensor,
    ) -> Prediction:
        output = self._guided_output(latents, timesteps, condition, guidance_scale)
        if self.prediction_type == "v_prediction":
            return Prediction(signal * latents - sigma * output, signal * output + sigma * latents)
        return Prediction((latents - sigma * output) / signal, output)

    def _guided_output(self, latents: Tensor, timesteps: Tensor, condition: Tensor, guidance_scale: float) -> Tensor:
        if guidance_scale == 1.0:
            return self._unet_output(latents, timesteps, condition)
        empty = self.encode_text([""]).expand(len(latents), -1, -1)
        both = self._unet_output(
            torch.cat([latents, latents]), torch.cat([timesteps, timesteps]), torch.cat([empty, condition])
        )
        without, with_prompt = both.chunk(2)
        return without + guidance_scale * (with_prompt - without)

    def _unet_output(self, latents: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        with frozen_precision(self.device) if self.fast_unet else nullcontext(), plain_attention(self.device):
            output = self.unet(latents, timesteps, encoder_hidden_states=condition, return_dict=False)[0]
        return output.float()  # type: ignore[no-any-return]

    def ddim_step(self, prediction: Prediction, indices: Tensor, table: StepTable) -> Tensor:
        """The latent one DDIM step (eta 0) nearer to the image, each sample at its own step index [N]."""
        signal, sigma = _column(table.next_signal[indices]), _column(table.next_sigma[indices])
        return signal * prediction.x0 + sigma * prediction.noise

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """q(x_t | x_0): ``latents`` noised to training ``timesteps`` [N]."""
        alpha = _column(self.alphas_cumprod[timesteps])
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent of the size the UNet was trained at."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return int(self.unet.config.in_channels), int(height), int(width)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _check_family(base: Path) -> None:
    index = base / "model_index.json"
    if not index.is_file():
        raise ModelLoadError(
            "not a diffusers model folder",
            file=str(base),
            expected="a folder with model_index.json",
            remedy="give the base_model folder, or restore it with `dvc pull`",
        )
    with _readable(index):
        family = json.loads(index.read_text()).get("_class_name")
    if family != "StableDiffusionPipeline":
        raise ModelLoadError(
            f"model family {family!r} is not supported", file=str(index), expected="StableDiffusionPipeline"
        )


def _refuse_what_the_arithmetic_does_not_cover(config: Any, prediction_type: str) -> None:
    if prediction_type not in ("epsilon", "v_prediction"):
        raise ModelLoadError(
            f"prediction type {prediction_type!r} is not supported", expected="epsilon or v_prediction"
        )
    if config.clip_sample or config.thresholding:
        raise ModelLoadError(
            "the scheduler clips the predicted image, which a latent model must not",
            file="scheduler/scheduler_config.json",
            expected='"clip_sample": false, "thresholding": false',
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no advice from the libraries while they load: a step's stderr is for its own progress."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


@contextmanager
def _readable(part: Path) -> Iterator[None]:
    try:
        yield
    except ModelLoadError:
        raise
    except Exception as error:  # diffusers, transformers and safetensors raise many kinds for one fact
        raise ModelLoadError(
            f"cannot read this part of the model: {type(error).__name__}: {str(error).partition(chr(10))[0]}",
            file=str(part),
            remedy="restore it with `dvc pull` or train it again",
        ) from error
