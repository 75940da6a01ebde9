"""Step judge_models: trains the examiners of the evaluation (arXiv 2404.05595 §4) on a trunk that no reward shares.

Four axis judges, a style classifier, a concept classifier and an image-text scorer, each with its held-out figures; and
the fixed PCA basis of FID. Maintainers run it once; the DAG takes its outputs as given. After a kill the scenes are
drawn again; an examiner that was finished is not trained again, and the one in training goes on from its checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from unifl.data.contracts import ImageTable
    from unifl.data.scenes import Scene
    from unifl.evaluation.trunk import Trunk, Views
    from unifl.perception.one_cycle import Checkpoints


class JudgeModelsSettings(StepSettings):
    """Defaults: what made the embedded examiners, 434 CPU seconds; figures in docs/evaluation_models.md."""

    scenes: int = Field(12_000, ge=64, description="drawn training scenes (8 CPU ms each, 4 ms for the trunk)")
    captioned_scenes: int = Field(6_000, ge=32, description="of these, for the scorer (7 CPU ms a caption)")
    pairs: int = Field(2_000, ge=16, description="training pairs an axis")
    held_out_pairs: int = Field(500, ge=8, description="pairs an axis from images of the test split")
    held_out_images: int = Field(1_500, ge=8, description="at most so many images of the test split")
    projection_images: int = Field(2_500, ge=8, description="images of the train split under the PCA basis of FID")
    projection_dimensions: int = Field(
        64, ge=2, description="FID on so many dimensions ranks sensibly from 2,000 images"
    )
    judge_passes: int = Field(12, ge=1)
    style_passes: int = Field(10, ge=1)
    concept_passes: int = Field(14, ge=1)
    scorer_passes: int = Field(15, ge=1)
    hidden: int = Field(192, ge=8, description="channels of the concept and scorer heads")
    joint: int = Field(192, ge=8, description="dimensions of the image-text space")
    checkpoint_seconds: float = Field(
        30.0, gt=0, description="time between two checkpoints of a training, as of the tuning steps"
    )
    seed: int = Field(0, ge=0)


STEP = StepDefinition(
    name="judge_models",
    summary="Train the judges, the style and concept classifiers and the image-text scorer of the evaluation.",
    inputs={
        "icons": "icon sprites with exact alpha, as embedded_icons makes them",
        "images": "image shards; the test split measures the examiners, the train split fits FID's basis",
    },
    outputs={
        "judges": "folders color layout lighting detail style concept projection",
        "scorer": "folder: image-text scorer",
    },
    settings=JudgeModelsSettings,
)


@dataclass(frozen=True)
class _Material:
    """What all heads learn from (drawn scenes) and are measured on (images of the test split)."""

    trunk: Trunk
    scenes: list[Scene]
    pixels: NDArray[np.uint8]
    views: Views
    test: pd.DataFrame
    test_pixels: NDArray[np.uint8]
    test_masks: list[NDArray[np.bool_]]
    test_views: Views
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Progress:
    """What is finished and what is in training, below the step's folder of checkpoints."""

    folder: Path
    seconds: float

    def once(self, name: str, final: Path, make: Callable[[Path, Checkpoints], dict[str, Any]]) -> dict[str, Any]:
        """Bring about the folder `final` and give what `make` returns, JSON; from an attempt that got so far, if any.

        `make` takes the folder to write and where the training's checkpoints go.
        """
        from unifl.core.files import atomic_path, sync_files, write_json_atomic
        from unifl.perception.one_cycle import Checkpoints

        finished = self.folder / "finished" / name
        if not finished.is_dir():
            finished.parent.mkdir(parents=True, exist_ok=True)
            training = self.folder / "training" / name
            with atomic_path(finished) as unfinished:
                returned = make(unfinished / "made", Checkpoints(training, self.seconds))
                write_json_atomic(unfinished / "returned.json", returned)
                sync_files(unfinished)
            shutil.rmtree(training, ignore_errors=True)
        shutil.copytree(finished / "made", final)
        found: dict[str, Any] = json.loads((finished / "returned.json").read_text(encoding="utf-8"))
        return found


def run(inputs: Paths, outputs: Paths, settings: JudgeModelsSettings, context: StepContext) -> Metrics:
    """Draw scenes, look at them once, train all heads, measure them on the test split, write the folders."""
    from unifl.data.contracts import open_images

    table = open_images(inputs["images"])
    material = _material(inputs["icons"], table, settings)
    progress = _Progress(context.checkpoints, settings.checkpoint_seconds)
    judges = outputs["judges"]
    metrics = _train_judges(material, judges, settings, progress)
    metrics |= progress.once("style", judges / "style", partial(_train_style, material, settings))
    metrics |= progress.once("concept", judges / "concept", partial(_train_concept, material, settings))
    metrics |= progress.once("scorer", outputs["scorer"], partial(_train_scorer, material, settings))
    metrics |= progress.once("projection", judges / "projection", partial(_fit_projection, material, settings, table))
    return metrics


def _material(icons: Path, table: ImageTable, settings: JudgeModelsSettings) -> _Material:
    import numpy as np

    from unifl.core.progress import progress
    from unifl.data.scenes import SceneGenerator
    from unifl.data.vocabulary import TRAINING_STYLES
    from unifl.evaluation.trunk import Trunk
    from unifl.perception.augmentation import half_softened

    test = table.split("test")
    test = test[test["style"].isin(TRAINING_STYLES)].head(settings.held_out_images)
    test_pixels = table.pixels(test["image_id"])
    drawn = SceneGenerator(icons).scenes("train", settings.scenes, settings.seed)
    scenes = list(progress(drawn, "drawing scenes", "scenes", total=settings.scenes))
    pixels = np.stack([scene.image for scene in scenes])
    trunk = Trunk()
    views = trunk.look_at_all(half_softened(pixels, settings.seed), description="training scenes, trunk")
    return _Material(
        trunk=trunk,
        scenes=scenes,
        pixels=pixels,
        views=views,
        test=test,
        test_pixels=test_pixels,
        test_masks=[table.masks(image_id) for image_id in test["image_id"]],
        test_views=trunk.look_at_all(test_pixels, description="test images, trunk"),
        # How often a checkpoint was saved changes nothing of the examiners.
        facts={"settings": settings.model_dump(exclude={"checkpoint_seconds"})},
    )


def _train_judges(
    material: _Material, folder: Path, settings: JudgeModelsSettings, progress: _Progress
) -> dict[str, Any]:
    import numpy as np

    from unifl.data.vocabulary import AXES

    rng = np.random.default_rng(settings.seed)
    metrics: Metrics = {}
    for axis in AXES:
        found = progress.once(axis, folder / axis, partial(_train_judge, axis, rng, material, settings))
        metrics |= found["metrics"]
        # The axes draw from one generator, one after another: where this one left it.
        rng.bit_generator.state = found["generator"]
    return metrics


def _train_judge(
    axis: str,
    rng: np.random.Generator,
    material: _Material,
    settings: JudgeModelsSettings,
    folder: Path,
    checkpoints: Checkpoints,
) -> dict[str, Any]:
    from unifl.data.vocabulary import AXES
    from unifl.evaluation.examiner_training import train_judge
    from unifl.evaluation.heads import save_head
    from unifl.evaluation.held_out import judge_figures
    from unifl.evaluation.judge_pairs import draw_pairs

    pairs = draw_pairs(axis, material.pixels, [scene.masks for scene in material.scenes], settings.pairs, rng)
    pooled = material.trunk.pooled_of_all(pairs.images, description=f"pairs for {axis}, trunk")
    seed = settings.seed + AXES.index(axis)
    judge = train_judge(pooled, pairs, passes=settings.judge_passes, seed=seed, axis=axis, checkpoints=checkpoints)
    unseen = draw_pairs(axis, material.test_pixels, material.test_masks, settings.held_out_pairs, rng)
    unseen_pooled = material.trunk.pooled_of_all(unseen.images, description=f"held-out pairs for {axis}, trunk")
    figures = judge_figures(judge, unseen_pooled, unseen)
    save_head(judge, folder, "judge", {"axis": axis, "held_out": figures, **material.facts})
    metrics = {
        f"judge_{axis}_accuracy": figures["accuracy"]["value"],
        f"judge_{axis}_agreement": figures["agreement_with_majority"]["value"],
    }
    return {"metrics": metrics, "generator": rng.bit_generator.state}


def _train_style(material: _Material, settings: JudgeModelsSettings, folder: Path, checkpoints: Checkpoints) -> Metrics:
    import torch

    from unifl.data.vocabulary import PAINTED_STYLES, TRAINING_STYLES
    from unifl.evaluation.examiner_training import train_style
    from unifl.evaluation.heads import save_head
    from unifl.evaluation.held_out import style_figures

    def labels(styles: Sequence[str]) -> torch.Tensor:
        return torch.tensor([TRAINING_STYLES.index(style) for style in styles])

    head = train_style(
        material.views,
        labels([scene.style for scene in material.scenes]),
        len(TRAINING_STYLES),
        passes=settings.style_passes,
        seed=settings.seed,
        hidden=settings.hidden // 2,
        checkpoints=checkpoints,
    )
    styles = material.test["style"]
    figures = style_figures(head, material.test_views, labels(list(styles)), styles.isin(PAINTED_STYLES).to_numpy())
    save_head(head, folder, "style classifier", {"labels": TRAINING_STYLES, "held_out": figures, **material.facts})
    return _values("style", figures)


def _train_concept(
    material: _Material, settings: JudgeModelsSettings, folder: Path, checkpoints: Checkpoints
) -> Metrics:
    import numpy as np

    from unifl.data.vocabulary import CONCEPTS, held_out_set
    from unifl.evaluation.examiner_training import multi_hot, train_concept
    from unifl.evaluation.heads import save_head
    from unifl.evaluation.held_out import concept_figures

    wanted = multi_hot([scene.concepts for scene in material.scenes], CONCEPTS)
    head = train_concept(
        material.views,
        wanted,
        passes=settings.concept_passes,
        seed=settings.seed,
        hidden=settings.hidden,
        checkpoints=checkpoints,
    )
    named = [list(words) for words in material.test["concepts"]]
    styles = material.test["style"]
    unseen = np.array([held_out_set(words[0]) == style for words, style in zip(named, styles, strict=True)], bool)
    figures = concept_figures(head, material.test_views, named, CONCEPTS, unseen)
    save_head(head, folder, "concept classifier", {"labels": CONCEPTS, "held_out": figures, **material.facts})
    return _values("concept", figures)


def _train_scorer(
    material: _Material, settings: JudgeModelsSettings, folder: Path, checkpoints: Checkpoints
) -> Metrics:
    import torch

    from unifl.evaluation.examiner_training import train_scorer
    from unifl.evaluation.heads import save_head
    from unifl.evaluation.held_out import scorer_figures
    from unifl.perception.minilm import SentenceEncoder

    encoder = SentenceEncoder()
    captions = [scene.caption for scene in material.scenes[: settings.captioned_scenes]]
    head = train_scorer(
        material.views[slice(0, len(captions))],
        torch.from_numpy(encoder.encode(captions)),
        passes=settings.scorer_passes,
        seed=settings.seed,
        hidden=settings.hidden,
        joint=settings.joint,
        checkpoints=checkpoints,
    )
    captions = list(material.test["caption"])
    figures = scorer_figures(head, material.test_views, torch.from_numpy(encoder.encode(captions)), captions)
    save_head(head, folder, "image-text scorer", {"held_out": figures, **material.facts})
    return _values("scorer", figures)


def _fit_projection(
    material: _Material, settings: JudgeModelsSettings, table: ImageTable, folder: Path, _checkpoints: Checkpoints
) -> Metrics:
    from unifl.evaluation.metrics import Projection
    from unifl.evaluation.panel import save_projection
    from unifl.evaluation.trunk import EMBEDDING_WIDTH, trunk_reference

    chosen = table.split("train")["image_id"].head(settings.projection_images)
    pooled = material.trunk.pooled_of_all(table.pixels(chosen), description="reference images, trunk")
    embedding = pooled[:, -EMBEDDING_WIDTH:].double().numpy()
    basis = Projection.fit(embedding, settings.projection_dimensions)
    explained = float(basis(embedding).var(0).sum() / embedding.var(0).sum())
    fitted = {"images": len(embedding), "explained_variance": explained}
    save_projection(basis, folder, {"trunk": trunk_reference(), **fitted, **material.facts})
    return {"projection_explained_variance": explained}


def _values(prefix: str, figures: dict[str, Any]) -> Metrics:
    """The values of the figures that have an interval."""
    return {f"{prefix}_{name}": entry["value"] for name, entry in figures.items() if isinstance(entry, dict)}
