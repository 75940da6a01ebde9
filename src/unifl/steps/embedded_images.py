"""Maintainers' stage: sprites -> Parquet shards of captioned 64 px scenes with exact masks.

It runs twice: once small, for the shards that the pipeline takes as its input, and once large, for the training images
of the embedded base model, which never leave the maintainers' cache.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from unifl.core.settings import StepSettings, did_you_mean
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition
from unifl.data.vocabulary import STYLE_PHRASES, Split


class EmbeddedImagesSettings(StepSettings):
    """How many scenes of each split, and from which seed."""

    train: int = Field(1000, ge=0, description="scenes of training compositions")
    validation: int = Field(100, ge=0, description="scenes of validation compositions")
    test: int = Field(600, ge=0, description="scenes of held-out compositions or instances")
    seed: int = Field(0, ge=0, description="scene i of a split depends on (seed, split, i) alone")
    style: str | None = Field(None, description="this style alone, such as the held-out one; None mixes the others")
    shard_rows: int = Field(500, ge=1, description="rows a shard; keeps files small")
    processes: int = Field(2, ge=1, description="processes that draw; the result does not depend on it")

    @field_validator("style")
    @classmethod
    def _is_known(cls, style: str | None) -> str | None:
        if style is not None and style not in STYLE_PHRASES:
            raise ValueError(f"no style is called {style!r}{did_you_mean(style, STYLE_PHRASES)}")
        return style


STEP = StepDefinition(
    name="embedded_images",
    summary="Draw the embedded images with captions and exact masks.",
    inputs={"icons": "folder with sprites.parquet"},
    outputs={"images": "folder of images-NNNNN.parquet shards (contract images)"},
    settings=EmbeddedImagesSettings,
)

Task = tuple[Split, int, int, str | None]  # split, seed, number, style

_generator: Any = None


def _prepare(icons: Path) -> None:
    global _generator
    from unifl.data.scenes import SceneGenerator

    _generator = SceneGenerator(icons)


def _row(task: Task) -> dict[str, object]:
    import numpy as np
    from PIL import Image

    from unifl.data.contracts import SPLITS, encode_mask

    split, seed, index, style = task
    scene = _generator.scene(split, np.random.default_rng([seed, SPLITS.index(split), index]), style=style)
    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "WEBP", lossless=True, method=4)
    return {
        "image_id": f"{style}-{split}-{seed}-{index:06d}" if style else f"{split}-{seed}-{index:06d}",
        "image": buffer.getvalue(),
        "caption": scene.caption,
        "style": scene.style,
        "concepts": scene.concepts,
        "attributes": scene.attributes,
        "relation": scene.relation,
        "background": scene.background,
        "masks": [encode_mask(mask) for mask in scene.masks],
        "split": split,
        "source": "; ".join(sorted({sprite.source for sprite in scene.sprites})),
        "licence": " AND ".join(sorted({sprite.licence for sprite in scene.sprites})),
        "attribution": "; ".join(sorted({sprite.attribution for sprite in scene.sprites})),
    }


def _rows(icons: Path, tasks: list[Task], processes: int) -> Iterator[dict[str, object]]:
    if processes == 1:
        _prepare(icons)
        yield from map(_row, tasks)
        return
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(processes, _prepare, (icons,)) as pool:
        yield from pool.imap(_row, tasks, chunksize=32)


def run(inputs: Paths, outputs: Paths, settings: EmbeddedImagesSettings, context: StepContext) -> Metrics:
    """Draw the scenes in parallel and write them shard by shard; finished shards survive a kill."""
    import shutil

    import pyarrow as pa
    import pyarrow.parquet as pq

    from unifl.core.files import atomic_path
    from unifl.core.progress import progress
    from unifl.data.contracts import IMAGES, SPLITS

    counts = {"train": settings.train, "validation": settings.validation, "test": settings.test}
    tasks: list[Task] = [(s, settings.seed, i, settings.style) for s in SPLITS for i in range(counts[s])]  # type: ignore[misc]
    shards = [tasks[start : start + settings.shard_rows] for start in range(0, len(tasks), settings.shard_rows)]
    names = [context.checkpoints / f"images-{number:05d}.parquet" for number in range(len(shards))]
    todo = [(name, shard) for name, shard in zip(names, shards, strict=True) if not name.exists()]
    missing = [task for _, shard in todo for task in shard]
    rows = iter(
        progress(
            _rows(inputs["icons"], missing, settings.processes),
            "drawing scenes",
            "scenes",
            total=len(tasks),
            start=len(tasks) - len(missing),
        )
    )
    for name, shard in todo:
        table = pa.Table.from_pylist([next(rows) for _ in shard], schema=IMAGES)
        with atomic_path(name) as path:
            pq.write_table(table, path, compression="zstd")
    for _ in rows:
        pass
    outputs["images"].mkdir(parents=True)
    for name in names:
        shutil.copy2(name, outputs["images"] / name.name)
    return {f"{split}_images": count for split, count in counts.items()}
