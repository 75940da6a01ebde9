"""Measures the embedded base model: can it draw what it is asked for, and is there a gap that few steps leave?

    python benchmarks/base_model.py                       # about ten minutes on two cores
    python benchmarks/base_model.py --images 100 --guidance 4

For every spacing and guidance it prints KID (x1000, to the validation or test images) and the top-1 of the independent
concept classifier at 20, 4, 2 and 1 steps, on validation captions; spacing and guidance with the lowest KID at each
count are then measured on test captions. Writes docs/base_model.json and docs/images/base_model_loss.svg.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

STEP_COUNTS = (20, 4, 2, 1)
GAP = 3.0
"""The few-step count is the first of 4, 2, 1 whose KID is at least this multiple of KID at 20 steps."""


def main() -> None:
    """Parse the arguments, measure on validation, choose, measure on test, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", type=Path, default=Path("data/base_model"))
    parser.add_argument("--images", type=int, default=400, help="images a cell on test captions")
    parser.add_argument("--validation_images", type=int, default=100, help="images a cell while choosing")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 4.0, 7.0])
    parser.add_argument("--spacing", nargs="+", default=["trailing", "leading"])
    parser.add_argument("--output", type=Path, default=Path("docs/base_model.json"))
    arguments = parser.parse_args()

    from unifl.core.files import write_json_atomic
    from unifl.data.contracts import open_images
    from unifl.diffusion.adapter import DiffusionAdapter
    from unifl.evaluation.panel import Panel

    panel = Panel(Path("data/judges"), Path("data/scorer"))
    table = open_images(Path("data/images"))
    adapter = DiffusionAdapter.load(arguments.base_model)
    validation, test = (
        Measure(adapter, panel, table, split, count)
        for split, count in (("validation", arguments.validation_images), ("test", arguments.images))
    )
    chosen, tried = {}, []
    for steps in STEP_COUNTS:
        cells = [
            validation(steps, spacing, guidance) for spacing in arguments.spacing for guidance in arguments.guidance
        ]
        tried += cells
        chosen[steps] = min(cells, key=lambda cell: cell["kid"]["value"])
    final = [test(steps, chosen[steps]["spacing"], chosen[steps]["guidance"]) for steps in STEP_COUNTS]
    show("validation: choosing spacing and guidance", tried)
    show("test: at each count's best spacing and guidance", final)
    slow = final[0]["kid"]["value"]
    gaps = {cell["steps"]: cell["kid"]["value"] / slow for cell in final[1:]}
    few = next((steps for steps, gap in gaps.items() if gap >= GAP), None)
    print("KID relative to 20 steps: " + ", ".join(f"{steps} steps x{gap:.2f}" for steps, gap in gaps.items()))
    print(f"few-step count: {few}" if few else f"no count leaves a gap of x{GAP}")
    write_json_atomic(
        arguments.output,
        {"validation": tried, "test": final, "gaps": gaps, "few_step_count": few, "real_images": test.real_top1()},
    )
    print(f"top-1 on the real test images, the classifier's ceiling: {test.real_top1()['concept_top1']:.1%}")
    draw_loss(arguments.base_model / "training" / "curve.json", arguments.output.parent / "images")


def draw_loss(curve_file: Path, folder: Path) -> None:
    """Draw the epsilon loss of the training over updates."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    curve = json.loads(curve_file.read_text(encoding="utf-8"))
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    axes.plot([entry["update"] for entry in curve], [entry["epsilon"] for entry in curve])
    axes.set(xlabel="update", ylabel="epsilon loss", title="Embedded base model")
    axes.grid(alpha=0.3)
    figure.savefig(folder / "base_model_loss.svg", metadata={"Date": None})


class Measure:
    """Draws and examines images for the captions of one split, against that split's real images."""

    def __init__(self, adapter: Any, panel: Any, table: Any, split: str, count: int) -> None:
        rows = table.split(split)
        take = self.rows = np.arange(count) % len(rows)
        self.adapter, self.panel, self.split = adapter, panel, split
        self.captions = [rows["caption"][i] for i in take]
        self.concepts = [list(rows["concepts"][i]) for i in take]
        self.styles = [rows["style"][i] for i in take]
        self.real = panel.examine(table.pixels(rows["image_id"]), description=f"real images of {split}")
        self.real_concepts = [list(one) for one in rows["concepts"]]

    def __call__(self, steps: int, spacing: str, guidance: float) -> dict[str, Any]:
        """Measure one cell: KID with interval, top-1 of concept (all scenes, and scenes of one object) and of style."""
        from unifl.diffusion.sampling import sample
        from unifl.evaluation.metrics import kid, share

        images = sample(
            self.adapter,
            self.captions,
            steps=steps,
            guidance_scale=guidance,
            spacing=spacing,
            seeds=range(len(self.captions)),
        )
        found = self.panel.examine(images, description=f"{self.split}, {steps} steps, {spacing}, guidance {guidance:g}")
        hits = self.panel.concept_hits(found, self.concepts)
        single = np.array([len(one) == 1 for one in self.concepts])
        return {
            "steps": steps,
            "spacing": spacing,
            "guidance": guidance,
            "images": len(images),
            "kid": kid(found.embedding, self.real.embedding, own=self.rows).estimate().as_dict(),
            "concept_top1": share(hits).as_dict(),
            "concept_top1_one_object": share(hits[single]).as_dict(),
            "style_top1": share(self.panel.style_hits(found, self.styles)).as_dict(),
        }

    def real_top1(self) -> dict[str, float]:
        """What the classifiers say of the real images: their ceiling."""
        return {"concept_top1": float(self.panel.concept_hits(self.real, self.real_concepts).mean())}


def show(title: str, cells: list[dict[str, Any]]) -> None:
    """Print cells as a table, each figure with its 95 % interval."""
    table = Table(title=title)
    for heading in ("steps", "spacing", "guidance", "KID x1000", "concept top-1", "one object", "style top-1"):
        table.add_column(heading, justify="right")
    for cell in cells:
        figures = [
            f"{cell[name]['value'] * scale:.1f} [{cell[name]['low'] * scale:.1f}, {cell[name]['high'] * scale:.1f}]"
            for name, scale in (
                ("kid", 1),
                ("concept_top1", 100),
                ("concept_top1_one_object", 100),
                ("style_top1", 100),
            )
        ]
        table.add_row(str(cell["steps"]), cell["spacing"], f"{cell['guidance']:g}", *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
