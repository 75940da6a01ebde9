"""The EfficientNet-Lite trunks compute what their publisher's do, and let gradients through to the image."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from unifl.perception.efficientnet import EfficientNetLite, Variant

PALACE = 698  # ImageNet class of scikit-learn's sample photograph of the Summer Palace
VARIANTS: tuple[Variant, ...] = ("lite0", "lite1", "lite2")


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite:
    return EfficientNetLite("lite0")


@pytest.fixture(scope="module")
def palace() -> torch.Tensor:
    pixels = np.ascontiguousarray(load_sample_image("china.jpg")[:400, 100:500])
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_photograph_of_a_palace_is_classified_as_a_palace(variant: Variant, palace: torch.Tensor) -> None:
    with torch.inference_mode():
        assert EfficientNetLite(variant)(palace, size=224).argmax().item() == PALACE


def test_stages_halve_the_resolution_five_times(lite0: EfficientNetLite) -> None:
    with torch.inference_mode():
        maps = lite0.stages(torch.rand(1, 3, 64, 64), size=96)
    assert [m.shape[-1] for m in maps] == [48, 48, 24, 12, 6, 6, 3, 3, 3]
    assert tuple(m.shape[1] for m in maps) == lite0.stage_widths


def test_pooled_has_the_announced_width_and_is_float32(lite0: EfficientNetLite) -> None:
    with torch.inference_mode():
        pooled = lite0.pooled(torch.rand(2, 3, 64, 64))
    assert pooled.shape == (2, lite0.pooled_width)
    assert pooled.dtype == torch.float32


def test_gradients_reach_the_image_and_not_the_weights(lite0: EfficientNetLite) -> None:
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    lite0.pooled(image).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in lite0.parameters())


def test_a_flat_image_has_a_finite_gradient(lite0: EfficientNetLite) -> None:
    image = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    lite0.pooled(image).sum().backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_scores_of_an_image_do_not_depend_on_its_batch(lite0: EfficientNetLite) -> None:
    images = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        together = lite0.embedding(images)
        alone = torch.cat([lite0.embedding(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=0.05, rtol=0.05)


def test_the_trunk_stays_in_evaluation_mode(lite0: EfficientNetLite) -> None:
    assert not lite0.train().training
