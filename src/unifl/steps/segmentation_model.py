"""Step segmentation_model: trains the instance segmenter that structure feedback asks (arXiv 2404.05595 §3.1).

Maintainers run it once on the embedded icons; the DAG takes its output as given.
"""

from __future__ import annotations

from pydantic import Field

from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition


class SegmentationModelSettings(StepSettings):
    """Defaults: what made the embedded segmenter; its figures are in docs/evaluation_models.md."""

    scenes: int = Field(10_000, ge=64, description="drawn training scenes (8 CPU ms each)")
    held_out_scenes: int = Field(400, ge=8, description="scenes of each held-out split (validation, test)")
    painted: float = Field(0.35, ge=0, le=1, description="share of painted scenes; drawn ones carry the shapes")
    width: int = Field(32, ge=8, description="channels at half resolution")
    updates: int = Field(1_000, ge=1, description="with the default scenes 495 CPU seconds in all")
    batch_size: int = Field(64, ge=2, description="scenes an update")
    learning_rate: float = Field(2e-3, gt=0, description="peak of a one-cycle schedule, AdamW")
    checkpoint_seconds: float = Field(
        30.0, gt=0, description="time between two checkpoints of the training, as of the tuning steps"
    )
    seed: int = Field(0, ge=0)


STEP = StepDefinition(
    name="segmentation_model",
    summary="Train the instance segmenter of structure feedback on drawn scenes with exact masks.",
    inputs={"icons": "icon sprites with exact alpha, as embedded_icons makes them"},
    outputs={"segmenter": "folder: model.safetensors, config.json with held-out mask AP"},
    settings=SegmentationModelSettings,
)


def run(inputs: Paths, outputs: Paths, settings: SegmentationModelSettings, context: StepContext) -> Metrics:
    """Draw scenes, train, measure on held-out compositions (validation) and held-out instances (test)."""
    from unifl.core.progress import progress
    from unifl.data.scenes import SceneGenerator, SceneSettings
    from unifl.data.vocabulary import CONCEPTS, Split
    from unifl.perception import segmenter as segmenters
    from unifl.perception.one_cycle import Checkpoints
    from unifl.perception.segmenter_training import LabelledScenes, held_out_figures, train

    drawn = SceneGenerator(inputs["icons"], SceneSettings(painted=settings.painted))
    scenes = drawn.scenes("train", settings.scenes, settings.seed)
    training = LabelledScenes.collect(progress(scenes, "drawing scenes", "scenes", total=settings.scenes))
    model, losses = train(
        training,
        CONCEPTS,
        width=settings.width,
        updates=settings.updates,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        checkpoints=Checkpoints(context.checkpoints, settings.checkpoint_seconds),
    )
    segmenters.save(model, outputs["segmenter"], {})
    stored = segmenters.load(outputs["segmenter"])
    held_out: dict[str, dict[str, float]] = {}
    splits: tuple[Split, ...] = ("validation", "test")
    for number, name in enumerate(splits, start=1):
        scenes = drawn.scenes(name, settings.held_out_scenes, settings.seed + number)
        held_out[name] = held_out_figures(stored, LabelledScenes.collect(scenes))
    # How often a checkpoint was saved changes nothing of the model.
    shaping = settings.model_dump(exclude={"checkpoint_seconds"})
    segmenters.save(stored, outputs["segmenter"], {"held_out": held_out, "settings": shaping})
    tail = losses[-max(1, len(losses) // 20) :]
    metrics: Metrics = {"final_loss": sum(tail) / len(tail)}
    for split, figures in held_out.items():
        metrics |= {f"{split}_{name}": value for name, value in figures.items()}
    return metrics
