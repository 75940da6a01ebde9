"""Checkpoints of trainings: everything the next update depends on, as safetensors and JSON, never pickled.

A run killed at any moment goes on from the last one and computes the same losses as an undisturbed run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unifl.core.errors import SettingsError
from unifl.core.files import atomic_path, remove_path, sync_files

PREFIX = "update-"


@dataclass(frozen=True)
class Checkpoint:
    """``update`` updates are done; ``tensors`` by group ("parameters", "optimizer", one an objective ...) and name."""

    update: int
    tensors: dict[str, dict[str, Tensor]]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Write the checkpoint whole or not at all, then drop older ones. Raises StorageError when the disk is full."""
    final = folder / f"{PREFIX}{checkpoint.update:07d}"
    with atomic_path(final) as partial:
        partial.mkdir(parents=True)
        for group, tensors in checkpoint.tensors.items():
            contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            save_file(contiguous, partial / f"{group}.safetensors")
        state = {"update": checkpoint.update, "identity": dict(identity), "groups": sorted(checkpoint.tensors)}
        (partial / "state.json").write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        # The older one is dropped next: a volume that outlives its node must hold this one by then.
        sync_files(partial)
    for older in folder.glob(f"{PREFIX}*"):
        if older != final:
            remove_path(older)


def load_checkpoint(folder: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The latest checkpoint in ``folder``, or None when there is none.

    Raises SettingsError when it belongs to a run with another ``identity`` (settings, and what it learns from).
    """
    found = sorted(folder.glob(f"{PREFIX}*"))
    if not found:
        return None
    latest = found[-1]
    state = json.loads((latest / "state.json").read_text(encoding="utf-8"))
    given = json.loads(json.dumps(dict(identity)))
    if state["identity"] != given:
        differing = sorted(
            key for key in state["identity"].keys() | given.keys() if state["identity"].get(key) != given.get(key)
        )
        raise SettingsError(
            f"the checkpoint is of a run with other {', '.join(differing)}",
            file=latest,
            remedy="remove the folder to start anew, or run with the settings it was made with",
        )
    tensors = {group: load_file(latest / f"{group}.safetensors") for group in state["groups"]}
    return Checkpoint(int(state["update"]), tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments and step counts of every parameter as flat names, "<parameter number>.<key>"."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{key}": torch.as_tensor(value) for number, one in state.items() for key, value in one.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` gave, into an optimizer over the same parameters in the same order."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        weight = weights[int(number)]
        if value.shape == weight.shape:
            # in the weight's own memory order: arithmetic in another order may round differently
            value = torch.empty_like(weight, dtype=value.dtype).copy_(value)
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
