"""What of the UNet trains: all weights, or LoRA on its attention; their average; and the tuned model folder.

Both forms load in plain diffusers: ``unet/`` always holds whole weights, ``lora/`` beside it the adapter where LoRA was
tuned. arXiv 2404.05595 tunes the UNet and leaves autoencoder and text encoder as they are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
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
        self._ema_decay = ema_decay
        self._average: Any = self._new_average()

    def _new_average(self) -> Any:
        if not self._ema_decay:
            return None
        from diffusers.training_utils import EMAModel

        return EMAModel(list(self.by_name.values()), decay=self._ema_decay)

    def tensors(self) -> list[torch.nn.Parameter]:
        """The trainable tensors, always in the same order."""
        return list(self.by_name.values())

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Give the trainable tensors the values of ``weights``, by name, and begin the average anew.

        Raises KeyError when one is missing, RuntimeError when one has another shape.
        """
        with torch.no_grad():
            for name, value in self.by_name.items():
                value.copy_(weights[name])
        self._average = self._new_average()

    def current(self) -> dict[str, Tensor]:
        """Copies of the trainable tensors, by name; not averaged."""
        return {name: value.detach().clone() for name, value in self.by_name.items()}

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
                self.save_lora(folder / "lora")
                self.unet.fuse_lora(adapter_names=[ADAPTER_NAME])
                self.unet.unload_lora()
            self.unet.save_pretrained(folder / "unet", safe_serialization=True)

    def save_lora(self, folder: Path) -> None:
        """Write the LoRA as it is now, in diffusers' form: ``pytorch_lora_weights.safetensors``."""
        from diffusers import StableDiffusionPipeline

        layers = {name: self.by_name[own].detach() for name, own in self._diffusers_names().items()}
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)

    def read_lora(self, file: Path) -> dict[str, Tensor]:
        """What ``save_lora`` wrote, by the names of the trainable tensors, for `start_from`.

        Raises ModelLoadError when the file is unreadable, or of other layers or another rank than these.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ModelLoadError(
                f"the LoRA is unreadable: {str(error).splitlines()[0]}",
                file=file,
                expected="pytorch_lora_weights.safetensors as diffusers writes it",
                remedy="make it again",
            ) from error
        weights = {own: found.get(f"unet.{name}") for name, own in self._diffusers_names().items()}
        missing = [own for own, value in weights.items() if value is None or value.shape != self.by_name[own].shape]
        if missing or len(found) != len(weights):
            raise ModelLoadError(
                f"the LoRA does not fit: {len(missing)} of {len(weights)} layers are missing or of another shape",
                file=file,
                expected=f"a LoRA of rank {self.lora_rank} on {', '.join(LORA_TARGETS)} of this base",
                remedy="set lora_rank to that of the file, or make the LoRA again on this base",
            )
        return {own: value for own, value in weights.items() if value is not None}

    def _diffusers_names(self) -> dict[str, str]:
        """Name of each LoRA tensor in diffusers' files -> its name here."""
        from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers

        plain = {name.replace(f".{ADAPTER_NAME}.", "."): value for name, value in self.by_name.items()}
        return dict(zip(convert_state_dict_to_diffusers(plain), self.by_name, strict=True))


def save_tuned_model(
    parameters: TrainableParameters, folder: Path, *, base_folder: Path, stage: str, log_file: Path
) -> None:
    """Write the tuned model folder: ``unet/``, ``base.json``, ``training.jsonl`` and, for LoRA, ``lora/``."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters.save(folder)
    shutil.copyfile(log_file, folder / LOG_NAME)
    write_base_note(folder, base_folder, stage, parameters.lora_rank)


def save_untuned_model(folder: Path, *, base_folder: Path, stage: str) -> None:
    """Write the tuned model folder of a stage without updates: the base's own UNet, and an empty log."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(base_folder / "unet", folder / "unet")
    (folder / LOG_NAME).touch()
    write_base_note(folder, base_folder, stage, 0)


def write_base_note(folder: Path, base_folder: Path, stage: str, lora_rank: int) -> None:
    """Leave ``base.json`` in ``folder``: from which base, in which stage and with which rank of LoRA it was made."""
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
