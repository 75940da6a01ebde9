"""The panel of examiners that an evaluation asks about every image: four judges, style, concept, image-text scorer.

All stand on one trunk that no reward and no feedback shares (arXiv 2404.05595 §4 compares with scores that were not
trained on), so that an image costs one pass of the trunk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from unifl.core.errors import ModelLoadError
from unifl.core.progress import progress
from unifl.data.vocabulary import AXES
from unifl.evaluation.heads import ConceptHead, ImageTextHead, PooledHead, StyleHead, load_head
from unifl.evaluation.metrics import Projection
from unifl.evaluation.trunk import Trunk, Views, as_tensor
from unifl.perception.minilm import SentenceEncoder

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Findings:
    """What the panel says of N images, in their order.

    embedding float32 [N, 1280] (for KID and FID); judges [N, 4] scores in the order of AXES, higher is better;
    styles [N, S] and concepts [N, C] logits; vectors [N, J] unit vectors of the image-text scorer; objects [N, 1] the
    number of objects that the panel's counter sees, absent where it has none.
    """

    embedding: Floats
    judges: Floats
    styles: Floats
    concepts: Floats
    vectors: Floats
    objects: Floats | None = None

    def __len__(self) -> int:
        return len(self.embedding)

    def arrays(self) -> dict[str, Floats]:
        """The arrays that are there, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: np.ascontiguousarray(array) for name, array in found.items() if array is not None}

    @staticmethod
    def joined(parts: Sequence[Findings]) -> Findings:
        """Findings of several groups of images, one after the other."""
        return Findings(**{name: np.concatenate([one.arrays()[name] for one in parts]) for name in parts[0].arrays()})


class Panel:
    """All examiners, loaded. Raises ModelLoadError when a folder is missing, unreadable or made for another trunk.

    `counter` tells the number of objects [N, 1] from views, for those who ask for that as well.
    """

    def __init__(
        self, judges: Path, scorer: Path, trunk: Trunk | None = None, counter: Callable[[Views], Floats] | None = None
    ) -> None:
        self.counter = counter
        self.trunk = trunk or Trunk()
        self._judges: list[PooledHead] = []
        self.figures: dict[str, dict[str, object]] = {}
        for axis in AXES:
            judge, config = load_head("judge", PooledHead, judges / axis)
            self._judges.append(judge)
            self.figures[axis] = config["held_out"]
        self._style, style = load_head("style classifier", StyleHead, judges / "style")
        self._concept, concept = load_head("concept classifier", ConceptHead, judges / "concept")
        self._scorer, image_text = load_head("image-text scorer", ImageTextHead, scorer)
        self.style_names: tuple[str, ...] = tuple(style["labels"])
        self.concept_names: tuple[str, ...] = tuple(concept["labels"])
        for name, config in (("style", style), ("concept", concept), ("scorer", image_text)):
            self.figures[name] = config["held_out"]
        self.projection = load_projection(judges / "projection")
        self._sentences: SentenceEncoder | None = None

    def examine(
        self, images: NDArray[np.uint8], batch_size: int = 64, description: str = "examining images"
    ) -> Findings:
        """Findings of uint8 images [N, H, W, 3]; shows progress."""
        starts = progress(range(0, len(images), batch_size), description, f"x{batch_size}")
        return Findings.joined(
            [self.examine_views(self.trunk.look(as_tensor(images[start : start + batch_size]))) for start in starts]
        )

    @torch.no_grad()
    def examine_views(self, views: Views) -> Findings:
        """Findings of views that are already there."""
        return Findings(
            embedding=views.embedding.numpy(),
            judges=torch.cat([judge(views.pooled) for judge in self._judges], 1).numpy(),
            styles=self._style(views).numpy(),
            concepts=self._concept(views).numpy(),
            vectors=self._scorer.images(views).numpy(),
            objects=None if self.counter is None else self.counter(views),
        )

    @torch.no_grad()
    def text_vectors(self, captions: Sequence[str]) -> Floats:
        """Unit vectors [N, J] of captions in the scorer's space."""
        self._sentences = self._sentences or SentenceEncoder()
        vectors: Floats = self._scorer.texts(torch.from_numpy(self._sentences.encode(captions))).numpy()
        return vectors

    def style_hits(self, found: Findings, styles: Sequence[str]) -> NDArray[np.bool_]:
        """Whether the likeliest style of each image is the wanted one, bool [N]."""
        best = [self.style_names[i] for i in found.styles.argmax(1)]
        return np.array([one == wanted for one, wanted in zip(best, styles, strict=True)], bool)

    def concept_hits(self, found: Findings, concepts: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
        """Whether the likeliest concept of each image is one of the wanted ones, bool [N] (top-1)."""
        best = [self.concept_names[i] for i in found.concepts.argmax(1)]
        return np.array([one in wanted for one, wanted in zip(best, concepts, strict=True)], bool)

    def concept_recall(self, found: Findings, concepts: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """The share of each image's K wanted concepts among its K likeliest ones, [N] in [0, 1]."""
        shares = []
        for logits, wanted in zip(found.concepts, concepts, strict=True):
            likeliest = {self.concept_names[i] for i in np.argsort(-logits)[: len(wanted)]}
            shares.append(len(likeliest & set(wanted)) / len(wanted))
        return np.array(shares)


def clip_like(images: Floats, texts: Floats) -> NDArray[np.float64]:
    """Cosine of image and text vectors [N, J] each, row by row, in [-1, 1] (CLIP score, arXiv 2104.08718, unscaled)."""
    return np.asarray((images.astype(np.float64) * texts).sum(1))


def save_projection(projection: Projection, folder: Path, facts: dict[str, object]) -> None:
    """Write the fixed PCA basis of FID with what it was fitted on."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"mean": projection.mean.astype(np.float32), "components": projection.components.astype(np.float32)}
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"kind": "projection", **facts}, indent=2) + "\n", encoding="utf-8")


def load_projection(folder: Path) -> Projection:
    """Read the PCA basis. Raises ModelLoadError when it is missing or unreadable."""
    from safetensors.numpy import load_file

    try:
        arrays = load_file(folder / "model.safetensors")
        return Projection(arrays["mean"].astype(np.float64), arrays["components"].astype(np.float64))
    except Exception as error:
        raise ModelLoadError(
            f"the projection of FID cannot be loaded: {(str(error) or type(error).__name__).splitlines()[0]}",
            file=folder,
            expected="model.safetensors with mean and components",
            remedy="restore the folder with `dvc pull`, or run `unifl judge_models`",
        ) from error
