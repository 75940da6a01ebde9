"""Draws the pictures of an evaluation and lets the panel examine them, in small portions that survive a kill.

A cell is one model at one number of steps; all cells draw the same prompts from the same seeds (arXiv 2404.05595 §4
compares models at 20 and at 4 steps). A portion's findings are stored under a name made of everything they depend on,
so an interrupted evaluation goes on where it was, and the base model's cells serve the next evaluation too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unifl.core.files import atomic_path
from unifl.core.progress import progress
from unifl.evaluation.panel import Findings, Panel

if TYPE_CHECKING:
    from unifl.diffusion.adapter import DiffusionAdapter, Spacing
    from unifl.diffusion.sampling import Sampler

PORTION = 64  # prompts drawn and stored at once: 10 to 20 CPU seconds at 20 steps
KEPT_PORTIONS = 600  # newest portions that stay in the store, 0.6 MB each


@dataclass(frozen=True)
class Cell:
    """One model at one sampler setting; `digest` is the SHA-256 of its weights."""

    model: str
    steps: int
    guidance_scale: float
    spacing: Spacing
    digest: str
    sampler: Sampler = "ddim"

    @property
    def name(self) -> str:
        return f"{self.model} at {self.steps} steps"


@dataclass(frozen=True)
class CellFindings:
    """What the panel found in a cell's images [N], and the first few pictures, uint8 [K, H, W, 3]."""

    cell: Cell
    findings: Findings
    pictures: NDArray[np.uint8]


def examine_cells(
    cells: Sequence[Cell],
    adapters: dict[str, DiffusionAdapter],
    panel: Panel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    pictures: int,
    batch_size: int,
    store: Path,
    depends_on: str,
    kept: int = KEPT_PORTIONS,
) -> list[CellFindings]:
    """Draw and examine every prompt in every cell; `adapters` by model name, `store` the folder of finished portions.

    depends_on: digest of whatever else the findings depend on (the examiners, the code). `pictures` first pictures are
    handed back, at most one portion of them; the store keeps the `kept` newest portions.
    """
    from safetensors.numpy import load_file, save_file

    store.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(prompts), PORTION)
    # All cells of a portion before the next portion, so that the time left is right from the first minute.
    work = [(start, cell) for start in starts for cell in cells]
    parts: dict[Cell, list[tuple[Findings, NDArray[np.uint8]]]] = {cell: [] for cell in cells}
    for start, cell in progress(work, "drawing and examining", "portions"):
        rows = slice(start, min(start + PORTION, len(prompts)))
        key = _key(cell, prompts[rows], seeds[rows], pictures, depends_on)
        path = store / f"{key}.safetensors"
        if not path.is_file():
            found, shown = _drawn(cell, adapters[cell.model], panel, prompts[rows], seeds[rows], batch_size, pictures)
            with atomic_path(path) as partial:
                save_file({**found.arrays(), "pictures": np.ascontiguousarray(shown)}, partial)
        arrays = load_file(path)
        parts[cell].append((Findings(**{k: v for k, v in arrays.items() if k != "pictures"}), arrays["pictures"]))
        path.touch()
    _prune(store, kept)
    return [
        CellFindings(cell, Findings.joined([one for one, _ in found]), found[0][1]) for cell, found in parts.items()
    ]


def _drawn(
    cell: Cell,
    adapter: DiffusionAdapter,
    panel: Panel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    batch_size: int,
    pictures: int,
) -> tuple[Findings, NDArray[np.uint8]]:
    from unifl.diffusion.sampling import sample
    from unifl.evaluation.trunk import as_tensor

    images = sample(
        adapter,
        list(prompts),
        steps=cell.steps,
        guidance_scale=cell.guidance_scale,
        seeds=list(seeds),
        spacing=cell.spacing,
        sampler=cell.sampler,
        batch_size=batch_size,
    )
    return panel.examine_views(panel.trunk.look(as_tensor(images))), images[:pictures]


def _key(cell: Cell, prompts: Sequence[str], seeds: Sequence[int], pictures: int, depends_on: str) -> str:
    content = {
        "weights": cell.digest,
        "steps": cell.steps,
        "guidance_scale": cell.guidance_scale,
        "spacing": cell.spacing,
        "sampler": cell.sampler,
        "prompts": list(prompts),
        "seeds": list(seeds),
        "pictures": pictures,
        "depends_on": depends_on,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _prune(store: Path, kept: int) -> None:
    portions = sorted(store.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in portions[kept:]:
        path.unlink(missing_ok=True)
