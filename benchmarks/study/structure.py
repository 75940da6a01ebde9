"""Does a model draw as many objects as the caption asks for, and does it keep the masks of a noised real image?

Both are read by linear probes on EfficientNet-Lite2, the examiners' trunk, which no feedback trains on: one counts
objects from its maps, one tells foreground from background at each place. They learn from real training images
and exact masks; their accuracy on real held-out images is part of the result.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from unifl.core.files import atomic_path
from unifl.core.progress import progress
from unifl.data.contracts import ImageTable
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.evaluation import metrics
from unifl.evaluation.trunk import Trunk, Views, as_tensor
from unifl.perception.efficientnet import EfficientNetLite

COUNT_IMAGES = 5_000
COUNT_C = 1e-3
"""Inverse weight of the counter's penalty; 1e-3, 1e-4 and 1e-5 were right on 94, 91 and 62 % of 300 images."""
MASK_IMAGES = 400
SIDE = 32  # places a side at which foreground is told from background
STAGES = (1, 2, 3, 5)
_BATCH = 50


class CountProbe:
    """How many objects an image shows, float32 [N, 1], from the trunk's views; it learns when first asked."""

    def __init__(self, table: ImageTable, trunk: Trunk) -> None:
        self._table, self._trunk = table, trunk
        self._fitted: Any = None

    def __call__(self, views: Views) -> NDArray[np.float32]:
        self._fitted = self._fitted or self._fit()
        return np.asarray(self._fitted.predict(_flat(views)), dtype=np.float32)[:, None]

    def _fit(self) -> Any:
        rows = self._table.split("train").head(COUNT_IMAGES)
        views = self._trunk.look_at_all(self._table.pixels(rows["image_id"]), description="object counter: images")
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=COUNT_C, max_iter=100))
        with warnings.catch_warnings():
            # On real held-out images it is right as often after 100 iterations as when it has converged.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return probe.fit(_flat(views), [len(one) for one in rows["concepts"]])


def _flat(views: Views) -> NDArray[np.float32]:
    return np.asarray(views.cells.flatten(1).numpy(), dtype=np.float32)


class ForegroundProbe:
    """Which places of an image belong to an object, bool [N, 32, 32]."""

    def __init__(self, table: ImageTable) -> None:
        self._network = EfficientNetLite("lite2")
        rows = table.split("train").head(MASK_IMAGES)
        features, inside = [], []
        rng = np.random.default_rng(0)
        for start in progress(range(0, len(rows), _BATCH), "foreground probe: training images", "batches"):
            ids = list(rows["image_id"])[start : start + _BATCH]
            maps = self._maps(table.pixels(ids))
            masks = foreground(table, ids)
            drawn = rng.choice(SIDE * SIDE, 150, replace=False)
            features.append(maps.reshape(len(ids), SIDE * SIDE, -1)[:, drawn].reshape(-1, maps.shape[-1]))
            inside.append(masks.reshape(len(ids), -1)[:, drawn].reshape(-1))
        joined = np.concatenate(features)
        self._scaler = StandardScaler().fit(joined)
        self._probe = LogisticRegression(C=1e-2, max_iter=200).fit(
            self._scaler.transform(joined), np.concatenate(inside)
        )

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.bool_]:
        found = []
        for start in range(0, len(pictures), _BATCH):
            maps = self._maps(pictures[start : start + _BATCH])
            inside = self._probe.predict(self._scaler.transform(maps.reshape(-1, maps.shape[-1])))
            found.append(inside.reshape(maps.shape[:3]))
        return np.concatenate(found)

    @torch.no_grad()
    def _maps(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps of several stages at one resolution, [N, 32, 32, C]."""
        stages = self._network.stages(as_tensor(pictures), 96)
        maps = [F.interpolate(stages[i].float(), size=(SIDE, SIDE), mode="bilinear") for i in STAGES]
        return np.asarray(torch.cat(maps, 1).permute(0, 2, 3, 1).numpy())


def foreground(table: ImageTable, ids: list[str]) -> NDArray[np.bool_]:
    """The exact foreground of images at the probe's resolution, bool [N, 32, 32]."""
    whole = np.stack([table.masks(one).any(axis=0) for one in ids])
    pooled = F.adaptive_avg_pool2d(torch.from_numpy(whole).float()[:, None], SIDE)[:, 0]
    return np.asarray((pooled > 0.5).numpy())


def overlap(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Intersection over union of each image's foreground [N, H, W], [N]; 1 where both are empty."""
    both = (found & truth).sum((1, 2))
    either = (found | truth).sum((1, 2))
    return np.asarray(np.where(either > 0, both / np.maximum(either, 1), 1.0))


class MaskKeeping:
    """Overlap of a model's foreground with the exact one of the real image it started from, noised to step T_a."""

    def __init__(self, table: ImageTable, images: int, noise_to: int, steps: int, store: Path) -> None:
        rows = table.split("test").head(images)
        self._ids, self._captions = list(rows["image_id"]), list(rows["caption"])
        self._pixels, self._truth = table.pixels(self._ids), foreground(table, self._ids)
        self._noise_to, self._steps, self._store = noise_to, steps, store
        self._probe: ForegroundProbe | None = None
        self._table = table

    def real(self) -> dict[str, float]:
        """The probe's overlap on the real images themselves: its ceiling."""
        return metrics.mean(self._overlaps("real", lambda: self._pixels)).estimate().as_dict()

    def of(self, adapter_of: Any, digest: str, guidance_scale: float, spacing: str) -> metrics.Draws:
        """Mean overlap with paired bootstrap draws; a model measured before is read from the store."""
        name = f"{digest} {guidance_scale} {spacing}"
        return metrics.mean(self._overlaps(name, lambda: self._drawn(adapter_of(), guidance_scale, spacing)))

    def _overlaps(self, name: str, pictures: Any) -> NDArray[np.float64]:
        key = json.dumps([name, self._noise_to, self._steps, len(self._ids), SIDE, STAGES, MASK_IMAGES])
        path = self._store / f"mask-{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
        if not path.is_file():
            self._probe = self._probe or ForegroundProbe(self._table)
            values = overlap(self._probe(pictures()), self._truth)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as partial:
                save_file({"overlap": values}, partial)
        return np.asarray(load_file(path)["overlap"])

    @torch.no_grad()
    def _drawn(self, adapter: DiffusionAdapter, guidance_scale: float, spacing: Any) -> NDArray[np.uint8]:
        table = adapter.step_table(self._steps, spacing)
        pictures = []
        for start in progress(range(0, len(self._ids), _BATCH), "from noised real images", "batches"):
            rows = slice(start, start + _BATCH)
            latents = adapter.encode_image(as_tensor(self._pixels[rows]))
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(start))
            latents = adapter.add_noise(latents, noise, table.timesteps[self._noise_to].expand(len(latents)))
            condition = adapter.encode_text(self._captions[rows])
            for index in range(self._noise_to, -1, -1):
                indices = torch.full((len(latents),), index)
                prediction = adapter.predict(latents, indices, table, condition, guidance_scale)
                latents = adapter.ddim_step(prediction, indices, table)
            pictures.append((adapter.decode(latents) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
        return np.concatenate(pictures)
