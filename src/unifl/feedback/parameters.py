"""What of the UNet trains: all weights, or LoRA on its attention; their average; and the tuned model folder.

Both forms load in plain diffusers: ``unet/`` always holds whole weights, ``lora/`` beside it the adapter where LoRA was
tuned. arXiv 2404.05595 tunes the UNet and leaves autoencoder and text encoder as they are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unifl.core.digest import sha256_path
from unifl.core.errors import ModelLoadError
from unifl.diffusion.adapter import DiffusionAdapter

LORA_TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]  # attention projections, as in diffusers' LoRA training scripts
ADAPTER_NAME = "feedback"
LOG_NAME = "training.jsonl"


class TrainableParameters:
    """The trainable tensors of an adapter's UNet by name, with an exponential moving average of them.

    ``lora_rank`` 0 takes every weight; else LoRA of that rank (alpha = rank) is added and only it trains.
    ``ema_decay`` 0 keeps no average.
    """

    def __init__(self, adapter: DiffusionAdapter, lora_rank: int, ema_decay: float) -> None:
        unet = adapter.unet
        self.unet = unet
        self.lora_rank = lora_rank
        if lora_rank:
            from peft import LoraConfig

            unet.requires_grad_(False)
            unet.add_adapter(
                LoraConfig(
                    r=lora_rank, lora_alpha=lora_rank, init_lora_weights="gaussian", target_modules=LORA_TARGETS
                ),
                ADAPTER_NAME,
            )
        else:
            unet.requires_grad_(True)
        self.by_name: dict[str, torch.nn.Parameter] = {
            name: value for name, value in unet.named_parameters() if value.requires_grad
        }
        self._average: Any = None
        if ema_decay:
            from diffusers.training_utils import EMAModel

            self._average = EMAModel(list(self.by_name.values()), decay=ema_decay)

    def tensors(self) -> list[torch.nn.Parameter]:
        """The trainable tensors, always in the same order."""
        return list(self.by_name.values())

    def update_average(self) -> None:
        """Call after each optimizer step."""
        if self._average is not None:
            self._average.step(self.tensors())

    def state(self) -> dict[str, Tensor]:
        """Current and averaged tensors, and the number of averaging steps."""
        state = {f"current.{name}": value.detach() for name, value in self.by_name.items()}
        if self._average is not None:
            names = self.by_name.keys()
            state |= {f"average.{name}": value for name, value in zip(names, self._average.shadow_params, strict=True)}
            state["average_steps"] = torch.tensor(self._average.optimization_step)
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what ``state`` gave. Raises KeyError when it was of other parameters."""
        with torch.no_grad():
            for name, value in self.by_name.items():
                value.copy_(state[f"current.{name}"])
            if self._average is not None:
                for name, shadow in zip(self.by_name, self._average.shadow_params, strict=True):
                    shadow.copy_(state[f"average.{name}"])
                self._average.optimization_step = int(state["average_steps"])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the UNet holds the averaged weights (what is saved and judged)."""
        if self._average is None:
            yield
            return
        self._average.store(self.tensors())
        self._average.copy_to(self.tensors())
        try:
            yield
        finally:
            self._average.restore(self.tensors())

    def save(self, folder: Path) -> None:
        """Write ``unet/`` (float32 safetensors) and, for LoRA, ``lora/pytorch_lora_weights.safetensors``; averaged.

        LoRA is merged into the UNet for this and removed from it, so call it last.
        """
        with self.averaged():
            if self.lora_rank:
                from diffusers import StableDiffusionPipeline
                from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
                from peft.utils import get_peft_model_state_dict

                layers = convert_state_dict_to_diffusers(
                    get_peft_model_state_dict(self.unet, adapter_name=ADAPTER_NAME)
                )
                StableDiffusionPipeline.save_lora_weights(folder / "lora", unet_lora_layers=layers)
                self.unet.fuse_lora(adapter_names=[ADAPTER_NAME])
                self.unet.unload_lora()
            self.unet.save_pretrained(folder / "unet", safe_serialization=True)


def save_tuned_model(
    parameters: TrainableParameters, folder: Path, *, base_folder: Path, stage: str, log_file: Path
) -> None:
    """Write the tuned model folder: ``unet/``, ``base.json``, ``training.jsonl`` and, for LoRA, ``lora/``."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters.save(folder)
    shutil.copyfile(log_file, folder / LOG_NAME)
    _write_base_note(folder, base_folder, stage, parameters.lora_rank)


def save_untuned_model(folder: Path, *, base_folder: Path, stage: str) -> None:
    """Write the tuned model folder of a stage without updates: the base's own UNet, and an empty log."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(base_folder / "unet", folder / "unet")
    (folder / LOG_NAME).touch()
    _write_base_note(folder, base_folder, stage, 0)


def _write_base_note(folder: Path, base_folder: Path, stage: str, lora_rank: int) -> None:
    facts = {"base_sha256": sha256_path(base_folder), "stage": stage, "lora_rank": lora_rank}
    (folder / "base.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def check_tuned_on(base_folder: Path, tuned: Path) -> None:
    """Raises ModelLoadError unless ``tuned`` is a tuned model folder that was made from ``base_folder``."""
    note = tuned / "base.json"
    try:
        recorded = json.loads(note.read_text(encoding="utf-8"))["base_sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise ModelLoadError(
            "not a tuned model folder", file=note, expected="base.json with base_sha256", remedy="run the step before"
        ) from error
    found = sha256_path(base_folder)
    if recorded != found:
        raise ModelLoadError(
            "the model was tuned on another base",
            file=tuned,
            expected=f"base {recorded[:12]}, given {found[:12]}",
            remedy="give the base it was tuned on, or tune it again",
        )
