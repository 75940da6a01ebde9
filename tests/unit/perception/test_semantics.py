"""Layout feedback: the semantic reading of the segmenter and its cross-entropy, against sums written out."""

import math

import numpy as np
import pytest
import torch

from unifl.perception.segmenter import GRID, KERNEL, MASK_SIDE, Segmenter
from unifl.perception.semantics import UNCERTAINTY, concept_probabilities, label_maps, semantic_loss

WORDS = ("cat", "dog", "fox")


def outputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return (
        2 * torch.randn(2, 3, GRID, GRID, generator=draw) - 3,
        torch.randn(2, KERNEL, GRID, GRID, generator=draw) / 4,
        torch.randn(2, KERNEL, MASK_SIDE, MASK_SIDE, generator=draw),
    )


def enlarged(low: np.ndarray, y: int, x: int) -> float:
    """Bilinear value at pixel (y, x) of the doubled map, pixel centres at halves."""
    top = max(0.0, min((y + 0.5) / 2 - 0.5, MASK_SIDE - 1.0))
    left = max(0.0, min((x + 0.5) / 2 - 0.5, MASK_SIDE - 1.0))
    y0, x0 = int(top), int(left)
    y1, x1 = min(y0 + 1, MASK_SIDE - 1), min(x0 + 1, MASK_SIDE - 1)
    b, a = top - y0, left - x0
    upper = (1 - a) * low[y0, x0] + a * low[y0, x1]
    lower = (1 - a) * low[y1, x0] + a * low[y1, x1]
    return float((1 - b) * upper + b * lower)


@pytest.mark.parametrize(("image", "y", "x"), [(0, 0, 0), (1, 31, 17), (0, 63, 40)])
def test_the_reading_of_a_pixel_equals_the_sum_over_cells_written_out(image: int, y: int, x: int) -> None:
    logits, kernels, features = (part[image].double().numpy() for part in outputs())
    mean = [0.0, 0.0, 0.0]
    for row in range(GRID):
        for column in range(GRID):
            here = logits[:, row, column]
            low = sum(kernels[e, row, column] * features[e] for e in range(KERNEL))
            drawn = 1 / (1 + math.exp(-enlarged(low, y, x)))
            certain = 1 / (1 + math.exp(-max(here)))
            weights = [math.exp(2 * value) for value in here]
            for c in range(3):
                mean[c] += certain * weights[c] / sum(weights) * drawn
    nothing = math.exp(-sum(mean))
    read = [nothing] + [(1 - nothing) * one / sum(mean) for one in mean]
    expected = [(1 - UNCERTAINTY) * p + UNCERTAINTY / 4 for p in read]
    assert concept_probabilities(outputs())[image, :, y, x].tolist() == pytest.approx(expected, rel=1e-4)


def test_the_readings_of_a_pixel_sum_to_one_and_are_never_nought() -> None:
    empty = (torch.full((1, 3, GRID, GRID), -50.0), *(part[:1] for part in outputs()[1:]))
    for parts in (outputs(), empty):
        probabilities = concept_probabilities(parts)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(len(probabilities), 64, 64))
        assert float(probabilities.min()) > 0
    assert float(probabilities[:, 0].min()) > 0.999


def test_labels_are_the_concepts_of_the_masks_and_smaller_objects_lie_in_front() -> None:
    big, small = np.zeros((2, 64, 64), bool)
    big[10:50, 10:50] = True
    small[20:30, 20:30] = True
    labels = label_maps([np.stack([small, big]), np.zeros((0, 64, 64), bool)], [["fox", "cat"], []], WORDS)
    assert labels.shape == (2, 64, 64)
    assert [int((labels[0] == label).sum()) for label in range(4)] == [64 * 64 - 1600, 1500, 0, 100]
    assert int(labels[0, 25, 25]) == 3
    assert not labels[1].any()


def test_the_loss_is_the_mean_negative_log_probability_of_the_labels() -> None:
    torch.manual_seed(0)
    model = Segmenter(WORDS, width=8).eval()
    images = torch.rand(2, 3, 64, 64).requires_grad_()
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 5:40, 20:60] = True
    masks, concepts = [mask, mask[:0]], [["dog"], []]
    loss = semantic_loss(model, images, masks, concepts)
    with torch.no_grad():
        read = concept_probabilities(model(images)).numpy()
    at = np.where(mask[0], read[0, 2], read[0, 0])
    assert loss.tolist() == pytest.approx([-np.log(at).mean(), -np.log(read[1, 0]).mean()], rel=2e-2)
    loss.sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0


def test_what_the_segmenter_does_not_know_is_refused() -> None:
    mask = np.ones((1, 64, 64), bool)
    with pytest.raises(ValueError, match="no concept 'owl'"):
        label_maps([mask], [["owl"]], WORDS)
    with pytest.raises(ValueError, match="1 masks for 2 concepts"):
        label_maps([mask], [["cat", "dog"]], WORDS)
