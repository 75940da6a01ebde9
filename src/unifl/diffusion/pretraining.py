"""Trains the embedded base model from nothing: first the autoencoder, then text encoder and UNet on its latents.

This is what the pipeline takes as given (a user brings Stable Diffusion instead). Both loops are resumable: every
update draws its batch and noise from ``(seed, update)`` alone, so that a checkpoint needs weights and optimizer only.
The diffusion loss is the epsilon-prediction loss of Stable Diffusion (Rombach et al., arXiv 2112.10752, eq. 2).
"""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from unifl.core.errors import DivergenceError
from unifl.core.files import atomic_path
from unifl.core.progress import progress
from unifl.diffusion.embedded import noise_schedule
from unifl.diffusion.loss_weight import velocity_weight
from unifl.diffusion.pretraining_settings import AutoencoderLoop, DiffusionLoop, LoopSettings
from unifl.perception.precision import frozen_precision, plain_attention


def learning_rate_at(update: int, settings: LoopSettings) -> float:
    """Return the learning rate of update number ``update`` (from 0)."""
    warm = min(1.0, (update + 1) / max(1, settings.warmup_updates))
    return settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * update / settings.updates))


class _Loop:
    """Optimizer, averaged weights, checkpoints and the loss curve of one training run."""

    def __init__(self, networks: Mapping[str, nn.Module], settings: LoopSettings, folder: Path, what: str) -> None:
        self.networks, self.settings, self.folder, self.what = dict(networks), settings, folder, what
        self.averaged = {name: copy.deepcopy(net).requires_grad_(False) for name, net in self.networks.items()}
        self.parameters = [p for net in self.networks.values() for p in net.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.curve: list[dict[str, float]] = []
        self.update = self._resume()

    def _path(self) -> Path:
        return self.folder / f"{self.what.replace(' ', '_')}.checkpoint"

    def _resume(self) -> int:
        path = self._path()
        if not path.is_dir():
            return 0
        self.curve = json.loads((path / "curve.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "state.safetensors")
        for kind, group in (("weights", self.networks), ("averaged", self.averaged)):
            for name, net in group.items():
                prefix = f"{kind}.{name}."
                net.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        state = self.optimizer.state_dict()
        state["state"] = {
            index: {
                "step": tensors[f"optimizer.{index}.step"],
                # in the weight's own memory order, which the fused update takes for granted
                **{
                    key: torch.empty_like(weight).copy_(tensors[f"optimizer.{index}.{key}"])
                    for key in ("exp_avg", "exp_avg_sq")
                },
            }
            for index, weight in enumerate(self.parameters)
        }
        self.optimizer.load_state_dict(state)
        return int(tensors["update"].item())

    def save(self) -> None:
        tensors = {"update": torch.tensor(self.update)}
        for kind, group in (("weights", self.networks), ("averaged", self.averaged)):
            for name, net in group.items():
                tensors |= {f"{kind}.{name}.{key}": value.contiguous() for key, value in net.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value).contiguous() for key, value in state.items()}
        with atomic_path(self._path()) as path:
            path.mkdir()
            save_file({key: value.clone() for key, value in tensors.items()}, path / "state.safetensors")
            (path / "curve.json").write_text(json.dumps(self.curve), encoding="utf-8")

    def run(
        self, loss_of: Callable[[int], dict[str, Tensor]], on_checkpoint: Callable[[int], None] | None = None
    ) -> list[dict[str, float]]:
        """Train until ``updates``; ``loss_of(update)`` returns the terms, of which ``loss`` is minimised."""
        recent: list[dict[str, float]] = []
        began, settings = time.process_time(), self.settings
        for update in progress(settings.updates, self.what, "updates", start=self.update):
            torch.manual_seed(settings.seed * 1_000_003 + update)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate_at(update, settings)
            terms = loss_of(update)
            if not torch.isfinite(terms["loss"]):
                raise DivergenceError(
                    f"{self.what}: the loss of update {update} is {terms['loss'].item()}",
                    remedy="lower learning_rate; the last checkpoint is kept",
                )
            self.optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            decay = min(settings.ema_decay, (1 + update) / (10 + update))
            with torch.no_grad():
                for name, net in self.networks.items():
                    torch._foreach_lerp_(list(self.averaged[name].parameters()), list(net.parameters()), 1 - decay)
            recent.append({key: value.item() for key, value in terms.items()})
            self.update = update + 1
            if self.update % 50 == 0 or self.update == settings.updates:
                mean = {key: sum(one[key] for one in recent) / len(recent) for key in recent[0]}
                self.curve.append({"update": self.update, **mean, "cpu_seconds": time.process_time() - began})
                recent = []
            if self.update % settings.checkpoint_every == 0 or self.update == settings.updates:
                self.save()
                if on_checkpoint is not None:
                    on_checkpoint(self.update)
        return self.curve


def _batch(count: int, update: int, settings: LoopSettings) -> NDArray[np.int64]:
    """Return the rows of one batch: epochs are shuffled, each by its own seed."""
    positions = np.arange(update * settings.batch_size, (update + 1) * settings.batch_size)
    rows = np.empty(settings.batch_size, np.int64)
    for epoch in np.unique(positions // count):
        order = np.random.default_rng([settings.seed, int(epoch)]).permutation(count)
        here = positions // count == epoch
        rows[here] = order[positions[here] % count]
    return rows


def as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Return uint8 pictures [N, H, W, 3] as float32 [N, 3, H, W] in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def _differences(images: Tensor) -> tuple[Tensor, Tensor]:
    return images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]


def train_autoencoder(
    network: nn.Module,
    pixels: NDArray[np.uint8],
    settings: AutoencoderLoop,
    folder: Path,
    on_checkpoint: Callable[[int, nn.Module], None] | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train an ``AutoencoderTiny`` on uint8 pictures [N, 64, 64, 3]; return the averaged network and the loss curve."""
    from unifl.perception.packages import model_path
    from unifl.perception.vgg import VGG16Trunk

    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loop = _Loop({"autoencoder": network}, settings, folder, "autoencoder")
    trunk = VGG16Trunk(model_path("vgg16"), blocks=2) if settings.perceptual_weight else None

    def loss_of(update: int) -> dict[str, Tensor]:
        images = as_tensor(pixels[_batch(len(pixels), update, settings)]).contiguous(memory_format=torch.channels_last)
        with frozen_precision(images.device):
            latents = network.encoder(images * 2 - 1)  # type: ignore[operator]
            decoded = network.decoder(latents + settings.latent_noise * torch.randn_like(latents))  # type: ignore[operator]
        latents, decoded = latents.float(), (decoded.float() + 1) / 2
        terms = {"l1": F.l1_loss(decoded, images)}
        terms["gradient"] = torch.stack(
            [F.l1_loss(ours, true) for ours, true in zip(_differences(decoded), _differences(images), strict=True)]
        ).sum()
        terms["moment"] = (latents.mean((0, 2, 3)) ** 2 + (latents.std((0, 2, 3)) - 1) ** 2).mean()
        loss = terms["l1"] + settings.gradient_weight * terms["gradient"] + settings.moment_weight * terms["moment"]
        if trunk is not None:
            with torch.no_grad():
                true_maps = [block[-1] for block in trunk(images[: settings.perceptual_images])]
            maps = [block[-1] for block in trunk(decoded[: settings.perceptual_images])]
            scales = [true.float().abs().mean() + 1e-6 for true in true_maps]
            terms["perceptual"] = torch.stack(
                [F.l1_loss(a.float(), b.float()) / s for a, b, s in zip(maps, true_maps, scales, strict=True)]
            ).mean()
            loss = loss + settings.perceptual_weight * terms["perceptual"]
        return {"loss": loss, **terms}

    averaged = loop.averaged["autoencoder"]
    curve = loop.run(loss_of, (lambda update: on_checkpoint(update, averaged)) if on_checkpoint else None)
    return averaged, curve


@torch.no_grad()
def encode_all(network: nn.Module, pixels: NDArray[np.uint8], batch_size: int = 256) -> Tensor:
    """Encode uint8 pictures [N, H, W, 3] to raw latents [N, C, h, w] (float32)."""
    parts = []
    for start in progress(range(0, len(pixels), batch_size), "encoding latents", "batches"):
        images = as_tensor(pixels[start : start + batch_size]).contiguous(memory_format=torch.channels_last)
        with frozen_precision(images.device):
            parts.append(network.encoder(images * 2 - 1).float().contiguous())  # type: ignore[operator]
    return torch.cat(parts)


@torch.no_grad()
def reconstruct(network: nn.Module, pixels: NDArray[np.uint8], batch_size: int = 128) -> NDArray[np.uint8]:
    """Pass uint8 pictures through the autoencoder and back."""
    parts = []
    for start in range(0, len(pixels), batch_size):
        images = as_tensor(pixels[start : start + batch_size]).contiguous(memory_format=torch.channels_last)
        with frozen_precision(images.device):
            decoded = network.decoder(network.encoder(images * 2 - 1)).float()  # type: ignore[operator]
        parts.append((((decoded + 1) / 2).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def psnr(pixels: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio in dB, averaged over pictures."""
    error = ((pixels.astype(np.float32) - decoded.astype(np.float32)) ** 2).mean((1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(error, 1e-3))).mean())


def train_diffusion(
    unet: nn.Module,
    text_encoder: nn.Module,
    latents: Tensor,
    tokens: Tensor,
    empty: Tensor,
    settings: DiffusionLoop,
    folder: Path,
    on_checkpoint: Callable[[int, nn.Module, nn.Module], None] | None = None,
) -> tuple[nn.Module, nn.Module, list[dict[str, float]]]:
    """Train UNet and text encoder together on scaled latents [N, C, h, w] and token ids [N, L].

    ``empty`` [L] are the tokens of the empty prompt, which stands in for a dropped caption. Returns the averaged UNet,
    the averaged text encoder and the loss curve.
    """
    loop = _Loop({"unet": unet, "text_encoder": text_encoder}, settings, folder, "diffusion")
    schedule: Any = noise_schedule()
    cumulative = schedule.alphas_cumprod

    def loss_of(update: int) -> dict[str, Tensor]:
        rows = torch.from_numpy(_batch(len(latents), update, settings))
        clean, ids = latents[rows].float(), tokens[rows].clone()
        ids[torch.rand(len(rows)) < settings.unconditional] = empty
        steps = torch.randint(0, len(cumulative), (len(rows),))
        level = cumulative[steps].view(-1, 1, 1, 1)
        noise = torch.randn_like(clean)
        noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
        with frozen_precision(clean.device), plain_attention(clean.device):  # float32 weights, bfloat16 arithmetic
            condition = text_encoder(input_ids=ids).last_hidden_state
            predicted = unet(noisy, steps, encoder_hidden_states=condition).sample
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        terms = {"epsilon": error.mean()}
        return {
            "loss": (error * velocity_weight(level.flatten(), settings.latent_deviation, settings.min_snr)).mean(),
            **terms,
        }

    final_unet, final_text = loop.averaged["unet"], loop.averaged["text_encoder"]
    show = (lambda update: on_checkpoint(update, final_unet, final_text)) if on_checkpoint else None
    curve = loop.run(loss_of, show)
    return final_unet, final_text, curve


def contact_sheet(rows: Sequence[NDArray[np.uint8]], scale: int = 2) -> NDArray[np.uint8]:
    """Lay out rows of pictures, each uint8 [N, H, W, 3], as one picture enlarged ``scale`` times without smoothing."""
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    return sheet.repeat(scale, axis=0).repeat(scale, axis=1)
