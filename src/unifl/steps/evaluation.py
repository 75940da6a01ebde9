"""Step evaluation: measures base, stage 1 and stage 2 at many and at few steps on held-out captions and images.

Same prompts and same seeds for all (arXiv 2404.05595 §4, table 1); everything that judges here was trained apart from
everything that rewards. The quality gate reads what this step writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition

if TYPE_CHECKING:
    from unifl.data.contracts import ImageTable
    from unifl.diffusion.adapter import DiffusionAdapter
    from unifl.evaluation.cells import Cell, CellFindings
    from unifl.evaluation.comparison import Prompts

MODELS = ("base", "stage1", "stage2")


class EvaluationSettings(StepSettings):
    """Defaults measure a finished run; a demonstration takes fewer images."""

    images: int = Field(1_000, ge=2, description="images a cell; KID's interval narrows with its square root")
    full_steps: int = Field(20, ge=1, description="DDIM steps of the slow sampler (arXiv 2404.05595 §4.1)")
    few_steps: int = Field(4, ge=1, description="steps of the fast one (§4.1); the base's documented gap decides")
    guidance_scale: float = Field(1.5, ge=1, description="classifier-free guidance; the embedded base's best by KID")
    stage2_guidance_scale: float | None = Field(
        None, ge=1, description="for stage 2, if it was trained with another one; as the others when absent"
    )
    spacing: Literal["trailing", "leading", "linspace"] = Field(
        "trailing", description="timestep spacing; trailing starts from pure noise (arXiv 2305.08891 §3.4)"
    )
    batch_size: int = Field(64, ge=1, description="images at once; results do not depend on it")
    reference_images: int = Field(2_000, ge=2, description="at most so many real images of the test split")
    sample_prompts: int = Field(10, ge=1, le=64, description="prompts whose pictures are kept and shown")
    resamples: int = Field(1_000, ge=10, description="bootstrap draws an interval")
    seed: int = Field(0, ge=0, description="image i of every cell starts from noise number seed + i")


STEP = StepDefinition(
    name="evaluation",
    summary="Measure base, stage 1 and stage 2: KID, FID, image-text score, four judges; write the report.",
    inputs={
        "base_model": "diffusers folder of the model before tuning",
        "stage1": "tuned model folder after quality tuning",
        "stage2": "tuned model folder after speed tuning",
        "judges": "folder of judges, classifiers and FID's basis",
        "scorer": "folder of the image-text scorer",
        "images": "image shards; captions and reference images come from the test split",
    },
    outputs={
        "evaluation": "JSON: every figure with its interval",
        "samples": "folder of PNG pictures, grid.png and samples.json",
        "report": "the evaluation as one HTML page",
    },
    settings=EvaluationSettings,
)


def run(inputs: Paths, outputs: Paths, settings: EvaluationSettings, context: StepContext) -> Metrics:
    """Draw, examine, compare, write. An interrupted run goes on from the last finished portion."""
    from unifl.core.digest import sha256_path
    from unifl.core.files import write_json_atomic, write_text_atomic
    from unifl.data.contracts import open_images
    from unifl.evaluation import comparison
    from unifl.evaluation.cells import examine_cells
    from unifl.evaluation.panel import Panel
    from unifl.evaluation.samples import write_samples
    from unifl.report import evaluation_page

    table = open_images(inputs["images"])
    panel = Panel(inputs["judges"], inputs["scorer"])
    adapters = _adapters(inputs)
    cells = _cells(inputs, settings)
    prompts, references, seeds = _prompts(table, settings)

    real = panel.examine(table.pixels(references), settings.batch_size, "examining real images")
    reference = comparison.Reference.of(real, panel)
    found = examine_cells(
        cells,
        adapters,
        panel,
        prompts.captions,
        seeds,
        pictures=settings.sample_prompts,
        batch_size=settings.batch_size,
        store=context.checkpoints.parent / "portions",
        depends_on=" ".join([context.code_version, sha256_path(inputs["judges"]), sha256_path(inputs["scorer"])]),
    )
    texts = panel.text_vectors(prompts.captions)
    rows = {
        one.cell: comparison.figures(one.findings, prompts, texts, reference, panel, settings.resamples)
        for one in found
    }
    decoded = panel.examine(
        reconstructed(adapters["base"], table, references, settings.batch_size),
        settings.batch_size,
        "examining reconstructions",
    )
    floor = comparison.floor(decoded, _own(len(references)), reference, panel, settings.resamples)
    evaluation = {
        **settings.model_dump(mode="json"),
        "images": len(prompts.captions),
        "reference_images": len(references),
        "results": [
            {
                "model": cell.model,
                "steps": cell.steps,
                "guidance_scale": cell.guidance_scale,
                "spacing": cell.spacing,
                "metrics": row.metrics(),
            }
            for cell, row in rows.items()
        ],
        "floor": floor,
        "metric_info": comparison.METRIC_INFO,
        "comparisons": [
            comparison.comparison(_find(found, *ours), _find(found, *theirs), rows, settings.resamples)
            for ours, theirs in _questions(settings)
        ],
        "examiners": panel.figures,
    }
    write_json_atomic(outputs["evaluation"], evaluation)
    shown = [(_find(found, *key).cell, _find(found, *key).pictures) for key in _shown(settings)]
    count = min(settings.sample_prompts, len(prompts.captions))
    write_samples(shown, prompts.captions[:count], seeds[:count], outputs["samples"])
    write_text_atomic(outputs["report"], evaluation_page(evaluation, outputs["samples"]))
    return dict(comparison.flattened(evaluation["results"], floor))


def _adapters(inputs: Paths) -> dict[str, DiffusionAdapter]:
    """The three models by name. Raises ModelLoadError when one cannot be read or was tuned on another base."""
    from unifl.diffusion.adapter import DiffusionAdapter
    from unifl.feedback.parameters import check_tuned_on

    base = inputs["base_model"]
    for stage in ("stage1", "stage2"):
        check_tuned_on(base, inputs[stage])
    return {name: DiffusionAdapter.load(base, None if name == "base" else inputs[name]) for name in MODELS}


def _cells(inputs: Paths, settings: EvaluationSettings) -> list[Cell]:
    """Every model at both step counts (once where the two are one)."""
    from unifl.core.digest import sha256_path
    from unifl.evaluation.cells import Cell

    base = sha256_path(inputs["base_model"])
    cells = []
    for model in MODELS:
        digest = base if model == "base" else f"{base} {sha256_path(inputs[model] / 'unet')}"
        own = settings.stage2_guidance_scale if model == "stage2" else None
        scale = settings.guidance_scale if own is None else own
        different = dict.fromkeys((settings.full_steps, settings.few_steps))
        cells += [Cell(model, steps, scale, settings.spacing, digest) for steps in different]
    return cells


def _prompts(table: ImageTable, settings: EvaluationSettings) -> tuple[Prompts, list[str], list[int]]:
    """Prompts, ids of the reference images and seeds. More images than captions: captions again, with other seeds.

    Raises DataContractError when the test split holds fewer than two images.
    """
    import numpy as np

    from unifl.core.errors import DataContractError
    from unifl.evaluation.comparison import Prompts

    test = table.split("test").head(settings.reference_images)
    if len(test) < 2:
        raise DataContractError(
            f"the test split holds {len(test)} images",
            file=table.folder,
            expected="at least 2, for captions and as references",
        )
    rows = np.arange(settings.images) % len(test)
    captions, styles, concepts = list(test["caption"]), list(test["style"]), [list(one) for one in test["concepts"]]
    prompts = Prompts([captions[i] for i in rows], [styles[i] for i in rows], [concepts[i] for i in rows], rows)
    return prompts, list(test["image_id"]), [settings.seed + number for number in range(settings.images)]


def reconstructed(adapter: DiffusionAdapter, table: ImageTable, ids: list[str], batch_size: int) -> Any:
    """The reference images after encoding and decoding, uint8 [M, H, W, 3]."""
    import numpy as np
    import torch

    from unifl.core.progress import progress
    from unifl.evaluation.trunk import as_tensor

    pictures = []
    for start in progress(range(0, len(ids), batch_size), "autoencoder alone", "batches"):
        with torch.no_grad():
            images = adapter.decode(adapter.encode_image(as_tensor(table.pixels(ids[start : start + batch_size]))))
        pictures.append((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(pictures)


def _own(count: int) -> Any:
    import numpy as np

    return np.arange(count)


def _find(found: list[CellFindings], model: str, steps: int) -> CellFindings:
    return next(one for one in found if (one.cell.model, one.cell.steps) == (model, steps))


def _shown(settings: EvaluationSettings) -> list[tuple[str, int]]:
    """The rows of the sample grid: before and after at many steps, then at few."""
    full, few = settings.full_steps, settings.few_steps
    return list(dict.fromkeys([("base", full), ("stage1", full), ("base", few), ("stage2", few)]))


def _questions(settings: EvaluationSettings) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """What is compared with what: stage 1 at many steps, stage 2 at few, with the base at either."""
    full, few = settings.full_steps, settings.few_steps
    asked = [
        (("stage1", full), ("base", full)),
        (("stage2", few), ("base", few)),
        (("stage2", few), ("base", full)),
        (("stage2", full), ("base", full)),
        (("stage2", few), ("stage1", few)),
    ]
    return [(ours, theirs) for ours, theirs in dict.fromkeys(asked) if ours != theirs]
