"""The guard's examiners: the evaluation's own panel, on the captions and images of the validation split.

Its trunk, judges and degradations are none that a reward trains on, and the final evaluation uses another split.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from unifl.core.errors import DataContractError
from unifl.data.contracts import ImageTable
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.sampling import Sampler, sample
from unifl.evaluation import metrics
from unifl.evaluation.panel import Panel
from unifl.feedback.guard import Findings
from unifl.feedback.settings import EngineSettings

SPLIT = "validation"


def panel_examiner(
    judges: Path, scorer: Path, images: ImageTable, settings: EngineSettings, sampler: Sampler = "ddim"
) -> Callable[[DiffusionAdapter], Findings]:
    """Examine ``guard_images`` pictures, the same captions and starting noise each time.

    Raises ModelLoadError for an examiner that cannot be read, DataContractError for a split of fewer than two images.
    """
    panel = Panel(judges, scorer)
    split = images.split(SPLIT)
    if len(split) < 2:
        raise DataContractError(
            f"the {SPLIT} split holds {len(split)} images",
            file=images.folder,
            expected="at least 2, for the guard",
            remedy="set guard_every to 0 or add images",
        )
    real = panel.examine(images.pixels(split["image_id"]), description="guard: real images").embedding.astype(
        np.float64
    )
    own = np.arange(settings.guard_images) % len(split)
    captions = [str(caption) for caption in split["caption"]]
    prompts = [captions[row] for row in own]

    def examine(adapter: DiffusionAdapter) -> Findings:
        pictures = sample(
            adapter,
            prompts,
            steps=settings.guard_steps,
            guidance_scale=settings.guard_guidance_scale,
            spacing=settings.spacing,
            sampler=sampler,
            seeds=range(len(prompts)),
        )
        found = panel.examine(pictures, description="guard: pictures")
        return Findings(
            kid=metrics.kid(found.embedding.astype(np.float64), real, own=own),
            judges=metrics.mean(found.judges.astype(np.float64).mean(1)),
        )

    return examine
