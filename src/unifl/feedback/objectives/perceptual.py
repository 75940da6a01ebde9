"""Perceptual feedback learning (PeFL, arXiv 2404.05595 §3.1): structure, layout, style, edges on one shared decode.

A real image is noised to step T_a = 10 of 20, denoised without a graph to a random late step, and the clean image
predicted there is compared, by frozen perception models, with what the real image is known to hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unifl.core.errors import DataContractError, SettingsError
from unifl.data.contracts import ImageTable
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.randomness import Randomness
from unifl.feedback.batches import Batch
from unifl.feedback.collapse import picture_statistics
from unifl.feedback.losses import content_loss, edge_loss, gram_style_loss
from unifl.feedback.objectives import Logs, Objective
from unifl.feedback.trajectory import Trajectory, denoise_with_gradient, start_from_image
from unifl.feedback.views import MultiView
from unifl.perception.hed import HED
from unifl.perception.segmenter import Segmenter, structure_loss
from unifl.perception.segmenter import load as load_segmenter
from unifl.perception.semantics import semantic_loss
from unifl.perception.vgg import CONTENT_LAYERS, STYLE_LAYERS, Maps, VGG16Trunk, at_layers, gram_matrices, load_trunk


class Comparison:
    """Generated ``images`` [N, 3, H, W] in [0, 1] beside the ``batch`` of real ones that they are measured against."""

    def __init__(self, images: Tensor, batch: Batch) -> None:
        self.images = images
        self.batch = batch
        self._maps: dict[VGG16Trunk, tuple[Maps, Maps]] = {}

    def real_images(self) -> Tensor:
        """The real images, where the generated ones are."""
        return self.batch.real_images().to(self.images.device)

    def objects(self) -> tuple[list[NDArray[np.bool_]], list[list[str]]]:
        """Masks and concepts of the objects in the real images. Raises ValueError when the batches hold none."""
        if self.batch.masks is None or self.batch.concepts is None:
            raise ValueError("structure and layout feedback need masks and concepts with their images")
        return self.batch.masks, self.batch.concepts

    def maps(self, trunk: VGG16Trunk) -> tuple[Maps, Maps]:
        """The trunk's maps of the generated and of the real images, computed once however many feedbacks ask."""
        if trunk not in self._maps:
            with torch.no_grad():
                real = trunk(self.real_images())
            self._maps[trunk] = trunk(self.images), real
        return self._maps[trunk]


class PerceptualFeedback(Protocol):
    """One visual property: a scalar loss of generated images against their batch."""

    name: str

    def __call__(self, comparison: Comparison) -> Tensor: ...


class StructureFeedback:
    """The instance segmenter's own loss against the real masks: dense, per pixel."""

    name = "structure"

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def __call__(self, comparison: Comparison) -> Tensor:
        return structure_loss(self.segmenter, comparison.images, *comparison.objects()).mean()


class SemanticFeedback:
    """Layout: per-pixel cross-entropy of the concept that the segmenter reads at each pixel."""

    name = "semantic"

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def __call__(self, comparison: Comparison) -> Tensor:
        return semantic_loss(self.segmenter, comparison.images, *comparison.objects()).mean()


class StyleFeedback:
    """L2 between VGG-16 Gram matrices of the generated and the real image."""

    name = "style"

    def __init__(self, trunk: VGG16Trunk, layer_weights: Sequence[float]) -> None:
        self.trunk = trunk
        self.layer_weights = tuple(layer_weights)

    def __call__(self, comparison: Comparison) -> Tensor:
        generated, real = comparison.maps(self.trunk)
        with torch.no_grad():
            reference = gram_matrices(real)
        return gram_style_loss(gram_matrices(generated), reference, self.layer_weights)


class ContentFeedback:
    """Distance of VGG-16 maps of the generated and the real image, place by place: detail where the image has it."""

    name = "content"

    def __init__(self, trunk: VGG16Trunk) -> None:
        self.trunk = trunk

    def __call__(self, comparison: Comparison) -> Tensor:
        generated, real = comparison.maps(self.trunk)
        return content_loss(at_layers(generated, CONTENT_LAYERS), at_layers(real, CONTENT_LAYERS))


class EdgeFeedback:
    """Cross-entropy of edges, detected in the generated image, against those of the real one (a further option)."""

    name = "edges"

    def __init__(self, detector: HED) -> None:
        self.detector = detector

    def __call__(self, comparison: Comparison) -> Tensor:
        with torch.no_grad():
            reference = self.detector.edges(comparison.real_images())
        logits: Tensor = self.detector(comparison.images)
        return edge_loss(logits, reference)


@dataclass(frozen=True)
class WeightedFeedback:
    """A feedback and its lambda."""

    feedback: PerceptualFeedback
    weight: float


class PerceptualObjective(Objective):
    """L_pefl = sum over feedbacks of lambda * Phi(m(x'), GT(x)). Raises SettingsError without any feedback."""

    name = "pefl"

    def __init__(
        self,
        feedbacks: Sequence[WeightedFeedback],
        trajectory: Trajectory,
        noise_to: int,
        views: MultiView | None = None,
    ) -> None:
        self.feedbacks = [one for one in feedbacks if one.weight > 0]
        if not self.feedbacks:
            raise SettingsError(
                "perceptual feedback has nothing to learn from: every lambda is 0",
                remedy="set lambda_structure, lambda_semantic, lambda_style, lambda_content or lambda_edges above 0",
            )
        if not trajectory.last_stop <= noise_to < trajectory.steps:
            raise SettingsError(
                f"noise_to {noise_to} does not fit steps {trajectory.steps} and gradient up to {trajectory.last_stop}",
                expected=f"{trajectory.last_stop} <= noise_to <= {trajectory.steps - 1}",
            )
        self.trajectory = trajectory
        self.noise_to = noise_to
        self.views = views or MultiView()

    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: Randomness) -> tuple[Tensor, Logs]:
        table = adapter.step_table(self.trajectory.steps, self.trajectory.spacing)
        start = start_from_image(adapter, batch.real_images(), self.noise_to, table, generator)
        stops = self.trajectory.draw_stops(len(batch), generator)
        condition = adapter.encode_text(batch.captions)
        images = adapter.decode(denoise_with_gradient(adapter, start, stops, condition, self.trajectory))
        views = self.views.draw(len(batch), generator)
        comparison = Comparison(views.of(images), views.of_batch(batch))
        total = images.new_zeros(())
        logs: Logs = {}
        for one in self.feedbacks:
            term = one.feedback(comparison)
            total = total + one.weight * term
            logs[one.feedback.name] = float(term.detach())
        return total, logs | picture_statistics(self.name, images)


def perceptual_feedbacks(
    images: ImageTable,
    segmenter_folder: Path,
    device: torch.device,
    *,
    structure: float,
    semantic: float,
    style: float,
    content: float,
    edges: float,
    style_layer_weights: Sequence[float],
) -> list[WeightedFeedback]:
    """The feedbacks with their weights; perception models are loaded for those above 0.

    Raises ModelLoadError for a model that cannot be loaded, DataContractError for a concept the segmenter lacks.
    """
    feedbacks: list[WeightedFeedback] = []
    if structure > 0 or semantic > 0:
        segmenter = load_segmenter(segmenter_folder, device)
        _require_known_concepts(images, segmenter, segmenter_folder)
        feedbacks.append(WeightedFeedback(StructureFeedback(segmenter), structure))
        feedbacks.append(WeightedFeedback(SemanticFeedback(segmenter), semantic))
    if style > 0 or content > 0:
        trunk = load_trunk(STYLE_LAYERS if style > 0 else CONTENT_LAYERS).to(device)
        feedbacks.append(WeightedFeedback(StyleFeedback(trunk, style_layer_weights), style))
        feedbacks.append(WeightedFeedback(ContentFeedback(trunk), content))
    if edges > 0:
        feedbacks.append(WeightedFeedback(EdgeFeedback(HED().to(device)), edges))
    return feedbacks


def _require_known_concepts(images: ImageTable, segmenter: Segmenter, folder: Path) -> None:
    known = set(segmenter.concepts)
    for row, concepts in enumerate(images.frame["concepts"]):
        unknown = [concept for concept in concepts if concept not in known]
        if unknown:
            raise DataContractError(
                f"the segmenter knows no concept {unknown[0]!r}",
                file=images.folder,
                row=row,
                expected=f"one of the {len(known)} concepts of {folder}",
                remedy="train the segmenter on these images, or set lambda_structure and lambda_semantic to 0",
            )
