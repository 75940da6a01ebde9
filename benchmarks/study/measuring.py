"""Draws and examines every cell of the study: one model of one training seed at one number of steps.

Sampler, spacing and guidance of a model are chosen on captions of the validation split, by KID, with the first training
seed; results stand on captions of the test split. Finished portions and choices are kept, so that a killed study goes
on where it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.plan import Plan
from benchmarks.study.structure import CountProbe
from benchmarks.study.training import Trainings
from unifl.core.digest import sha256_path
from unifl.core.files import write_json_atomic
from unifl.core.progress import progress
from unifl.data.contracts import ImageTable, open_images
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.evaluation import comparison
from unifl.evaluation.cells import Cell, CellFindings, examine_cells
from unifl.evaluation.panel import Findings, Panel
from unifl.evaluation.trunk import Trunk
from unifl.steps.evaluation import reconstructed

DATA = Path("data")
BASE = DATA / "base_model"
PICTURES = 12
"""First pictures of a cell that are kept to be shown."""

_SOURCE = Path(__file__).parents[2] / "src" / "unifl"


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled at a number of steps, and the KID x 1,000 on validation captions that chose it."""

    sampler: str
    spacing: str
    guidance_scale: float
    validation_kid: float


class Captions:
    """Captions of one split with their real images as the panel sees them; captions repeat with other noise."""

    def __init__(self, table: ImageTable, split: str, count: int, panel: Panel) -> None:
        rows = table.split(split)
        own = np.arange(count) % len(rows)
        captions, styles = list(rows["caption"]), list(rows["style"])
        concepts = [list(one) for one in rows["concepts"]]
        self.rows = rows
        self.prompts = comparison.Prompts(
            [captions[i] for i in own], [styles[i] for i in own], [concepts[i] for i in own], own
        )
        self.real = panel.examine(table.pixels(rows["image_id"]), description=f"real images of {split}")
        self.reference = comparison.Reference.of(self.real, panel)

    def first(self, count: int) -> comparison.Prompts:
        """The first `count` prompts."""
        p = self.prompts
        return comparison.Prompts(p.captions[:count], p.styles[:count], p.concepts[:count], p.own[:count])


class Measuring:
    """What all cells share: the panel, captions and real images, and the folder of finished portions."""

    def __init__(self, plan: Plan, trainings: Trainings, images: int, ablation_images: int) -> None:
        self.plan, self.trainings = plan, trainings
        self.images = {"headline": images, "ablation": ablation_images}
        self.table = open_images(DATA / "images")
        trunk = Trunk()
        self.panel = Panel(DATA / "judges", DATA / "scorer", trunk, CountProbe(self.table, trunk))
        self._choices_file = trainings.folder / "choices.json"

    @cached_property
    def test(self) -> Captions:
        """Captions of the test split, as many as the largest cell."""
        return Captions(self.table, "test", max(self.images.values()), self.panel)

    @cached_property
    def validation(self) -> Captions:
        """Captions of the validation split, on which settings are chosen."""
        return Captions(self.table, "validation", self.plan.choices.images, self.panel)

    def adapter(self, model: str, seed: int) -> DiffusionAdapter:
        """A model of the plan with the weights of a training seed."""
        return DiffusionAdapter.load(BASE, self.trainings.model(model, seed))

    def floor(self) -> dict[str, dict[str, float]]:
        """KID and FID of the real test images after the autoencoder."""
        ids = list(self.test.rows["image_id"])
        pictures = reconstructed(DiffusionAdapter.load(BASE), self.table, ids, 64)
        seen = self.panel.examine(pictures, description="examining reconstructions")
        return comparison.floor(seen, np.arange(len(ids)), self.test.reference, self.panel, 1_000)

    @cached_property
    def _base_digest(self) -> str:
        return sha256_path(BASE)

    def digest(self, model: str, seed: int) -> str:
        """Digest of the weights that draw."""
        tuned = self.trainings.model(model, seed)
        return self._base_digest if tuned is None else f"{self._base_digest} {sha256_path(tuned / 'unet')}"

    # ------------------------------------------------------------------------------------------ choosing

    def choose(self, orders: Sequence[tuple[str, int]], seed: int) -> dict[tuple[str, int], Sampling]:
        """The sampling with the lowest validation KID for each (model, steps); choices made before are kept."""
        kept: dict[str, Any] = {}
        if self._choices_file.exists():
            kept = json.loads(self._choices_file.read_text(encoding="utf-8"))
        chosen = {}
        for model, steps in progress(orders, "choosing sampler, spacing and guidance", "cells"):
            key = self._choice_key(model, steps, seed)
            if key not in kept:
                tried = self._tried(model, steps, seed)
                best = min(tried, key=lambda one: one.validation_kid)
                kept[key] = {
                    "model": model, "steps": steps, "chosen": asdict(best), "tried": [asdict(one) for one in tried],
                }  # fmt: skip
                write_json_atomic(self._choices_file, kept)
            chosen[model, steps] = Sampling(**kept[key]["chosen"])
        return chosen

    def _choice_key(self, model: str, steps: int, seed: int) -> str:
        parts = [self.digest(model, seed), steps, self.plan.choices.model_dump(), self.plan.models[model].samplers]
        return hashlib.sha256(json.dumps([*parts, self._examined_by], sort_keys=True).encode()).hexdigest()

    def _tried(self, model: str, steps: int, seed: int) -> list[Sampling]:
        choices = self.plan.choices
        options = itertools.product(self.plan.models[model].samplers, choices.spacing, choices.guidance)
        cells = [
            Cell(model, steps, guidance, spacing, self.digest(model, seed), sampler)
            for sampler, spacing, guidance in options
        ]
        found = self._examine(cells, {model: self.adapter(model, seed)}, self.validation, self.plan.choices.images)
        return [Sampling(one.cell.sampler, one.cell.spacing, one.cell.guidance_scale, self._kid(one)) for one in found]

    def _kid(self, one: CellFindings) -> float:
        from unifl.evaluation.metrics import kid

        embedding, captions = one.findings.embedding.astype(np.float64), self.validation
        return kid(
            embedding, captions.reference.embedding, resamples=1, own=captions.prompts.own[: len(embedding)]
        ).value

    # ----------------------------------------------------------------------------------------- measuring

    def measure(
        self, orders: Sequence[tuple[str, int, str]], seeds: Sequence[int], chosen: dict[tuple[str, int], Sampling]
    ) -> dict[tuple[str, int, int], CellFindings]:
        """Findings by (model, steps, seed) on the test captions; the base has one seed for all."""
        found: dict[tuple[str, int, int], CellFindings] = {}
        for size in ("headline", "ablation"):
            work = [
                (model, steps, seed)
                for model, steps, wanted in orders
                for seed in (seeds if self.plan.models[model].training else seeds[:1])
                if wanted == size
            ]
            adapters = _Lazy({f"{m} {seed}": (m, seed) for m, _, seed in work}, self.adapter)
            cells = []
            for model, steps, seed in work:
                how = chosen[model, steps]
                cells.append(
                    Cell(
                        f"{model} {seed}", steps, how.guidance_scale, how.spacing, self.digest(model, seed), how.sampler
                    )
                )
            if not cells:
                continue
            drawn = self._examine(cells, adapters, self.test, self.images[size])
            for key, one in zip(work, drawn, strict=True):
                model, steps, seed = key
                renamed = replace(one, cell=replace(one.cell, model=model))
                for each in seeds if not self.plan.models[model].training else [seed]:
                    found[model, steps, each] = renamed
        return found

    def _examine(self, cells: Sequence[Cell], adapters: Any, captions: Captions, count: int) -> list[CellFindings]:
        return examine_cells(
            cells,
            adapters,
            self.panel,
            captions.prompts.captions[:count],
            range(count),
            pictures=PICTURES,
            batch_size=64,
            store=self.trainings.folder / "portions",
            depends_on=self._examined_by,
            kept=100_000,  # a study holds more portions than the evaluation of a run
        )

    @cached_property
    def _examined_by(self) -> str:
        """Digest of everything beside the model that findings depend on: examiners, sampler's and examiners' code."""
        code = [_SOURCE / name for name in ("diffusion", "evaluation", "perception")]
        parts = [DATA / "judges", DATA / "scorer", DATA / "images", Path(__file__).with_name("structure.py"), *code]
        return " ".join(_digest_without_bytecode(part) for part in parts)


class _Lazy(dict[str, DiffusionAdapter]):
    """Adapters by name, each loaded when it is first asked for: finished cells need none."""

    def __init__(self, models: dict[str, tuple[str, int]], load: Any) -> None:
        super().__init__()
        self._models, self._load = models, load

    def __missing__(self, name: str) -> DiffusionAdapter:
        self[name] = self._load(*self._models[name])
        return self[name]


def _digest_without_bytecode(path: Path) -> str:
    """Digest of a file, or of a folder without the files that Python compiles."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file() and f.suffix != ".pyc")
    return hashlib.sha256("".join(f"{file.name}{sha256_path(file)}" for file in files).encode()).hexdigest()


def subset(found: CellFindings, count: int) -> CellFindings:
    """The findings of the first `count` prompts."""
    arrays = {name: array[:count] for name, array in found.findings.arrays().items()}
    return replace(found, findings=Findings(**arrays))
