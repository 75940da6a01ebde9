"""Drawing and examining: cells share noise, portions are found again, another model is another portion."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_base import CAPTIONS, build_tiny_base
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.evaluation.cells import Cell, CellFindings, examine_cells
from unifl.evaluation.panel import Panel
from unifl.evaluation.samples import write_samples

PROMPTS = (CAPTIONS * 20)[:70]  # more than one portion
SEEDS = list(range(70))
CELL = Cell("base", steps=1, guidance_scale=1.0, spacing="trailing", digest="a")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> DiffusionAdapter:
    return DiffusionAdapter.load(build_tiny_base(tmp_path_factory.mktemp("cells") / "base"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def examined(
    cells: list[Cell], adapters: dict[str, DiffusionAdapter], panel: Panel, store: Path, count: int = 70
) -> list[CellFindings]:
    return examine_cells(cells, adapters, panel, PROMPTS[:count], SEEDS[:count], pictures=3, batch_size=64, store=store,
                         depends_on="code")  # fmt: skip


@pytest.fixture(scope="module")
def found(adapter: DiffusionAdapter, panel: Panel, store: Path) -> CellFindings:
    return examined([CELL], {"base": adapter}, panel, store)[0]


def test_a_cell_has_findings_for_every_prompt_and_a_few_pictures(found: CellFindings) -> None:
    assert len(found.findings) == 70
    assert found.pictures.shape == (3, 64, 64, 3)


def test_finished_portions_are_not_drawn_again(found: CellFindings, panel: Panel, store: Path) -> None:
    again = examined([CELL], {}, panel, store)[0]  # no model to draw with: everything comes from the store
    assert np.array_equal(again.findings.judges, found.findings.judges)
    assert np.array_equal(again.pictures, found.pictures)


def test_a_killed_evaluation_goes_on_with_the_portions_it_has(
    found: CellFindings, adapter: DiffusionAdapter, panel: Panel, store: Path, tmp_path: Path
) -> None:
    finished = sorted(store.glob("*.safetensors"))
    assert len(finished) == 2
    (tmp_path / finished[0].name).write_bytes(finished[0].read_bytes())
    resumed = examined([CELL], {"base": adapter}, panel, tmp_path)[0]
    assert np.array_equal(resumed.findings.embedding, found.findings.embedding)
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in finished]


@pytest.mark.parametrize("change", [{"digest": "b"}, {"steps": 2}, {"guidance_scale": 2.0}, {"spacing": "leading"}])
def test_whatever_a_picture_depends_on_makes_another_portion(
    found: CellFindings, panel: Panel, store: Path, change: dict[str, object]
) -> None:
    with pytest.raises(KeyError):  # it must be drawn, and there is no model to draw with
        examined([dataclasses.replace(CELL, **change)], {}, panel, store)


def test_samples_are_listed_with_their_prompts_and_seeds(found: CellFindings, tmp_path: Path) -> None:
    import json

    from PIL import Image

    write_samples([(CELL, found.pictures)], PROMPTS[:3], SEEDS[:3], tmp_path / "samples")
    listing = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert listing["prompts"] == PROMPTS[:3]
    assert listing["seeds"] == [0, 1, 2]
    first = listing["rows"][0]["images"][0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "samples" / first)), found.pictures[0])
    grid = np.asarray(Image.open(tmp_path / "samples" / "grid.png"))
    assert grid.shape == (128, 130 + 3 * 128, 3)
