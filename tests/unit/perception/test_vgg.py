from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.signal import correlate

from unifl.core.errors import ModelLoadError
from unifl.feedback.losses import edge_loss, gram_style_loss
from unifl.perception import vgg
from unifl.perception.hed import HED
from unifl.perception.packages import model_path
from unifl.perception.precision import frozen_precision
from unifl.perception.vgg import VGG16Trunk, at_layers, gram_matrices, load_trunk


def pictures(count: int = 2) -> torch.Tensor:
    """Colored discs on noise: images [N, 3, 64, 64] in [0, 1] with edges and textures."""
    generator = torch.Generator().manual_seed(0)
    images = 0.7 + 0.1 * torch.rand(count, 3, 64, 64, generator=generator)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    for number in range(count):
        disc = (x - 32) ** 2 + (y - 32) ** 2 < (14 + 4 * number) ** 2
        images[number, :, disc] = torch.rand(3, 1, generator=generator) * 0.4
    return images


@pytest.fixture(scope="module")
def trunk() -> VGG16Trunk:
    return load_trunk()


def test_the_first_two_layers_equal_a_convolution_by_scipy(trunk: VGG16Trunk) -> None:
    image = pictures(1)
    pixels = image[0].numpy()[::-1] * 255 - np.array([104.00699, 116.66877, 122.67892]).reshape(3, 1, 1)
    with h5py.File(model_path("vgg16")) as file:
        for layer in ("conv2d", "conv2d_1"):
            kernel = np.asarray(file[f"block1/layers/{layer}/vars/0"])
            bias = np.asarray(file[f"block1/layers/{layer}/vars/1"])
            padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1)))
            pixels = np.stack(
                [
                    sum(correlate(padded[i], kernel[:, :, i, o], mode="valid") for i in range(len(pixels))) + bias[o]
                    for o in range(kernel.shape[3])
                ]
            ).clip(min=0)
    (found,) = at_layers(trunk(image), [vgg.StyleLayer(1, 2)])
    assert np.abs(found[0].float().numpy() - pixels).max() < 0.02 * pixels.max()


def test_a_trunk_goes_only_as_deep_as_its_layers() -> None:
    assert len(load_trunk(vgg.CONTENT_LAYERS).blocks) == 3


def test_style_layers_have_the_widths_of_vgg16(trunk: VGG16Trunk) -> None:
    assert [gram.shape[1:] for gram in gram_matrices(trunk(pictures()))] == [
        (64, 64),
        (128, 128),
        (256, 256),
        (512, 512),
    ]


def test_gram_matrices_are_symmetric_and_positive(trunk: VGG16Trunk) -> None:
    for gram in gram_matrices(trunk(pictures())):
        torch.testing.assert_close(gram, gram.transpose(1, 2))
        assert float(torch.linalg.eigvalsh(gram.double()).min()) > -1e-3 * float(gram.max())


def test_a_shifted_image_is_nearer_in_style_than_another_one(trunk: VGG16Trunk) -> None:
    one, other = pictures()
    shifted = one.roll(8, dims=2)
    with torch.no_grad():
        style = [gram_matrices(trunk(image[None])) for image in (one, shifted, other)]
    weights = [1 / float(gram.square().sum()) for gram in style[0]]
    assert float(gram_style_loss(style[0], style[1], weights)) < 0.5 * float(
        gram_style_loss(style[0], style[2], weights)
    )


def gradient(network: torch.nn.Module, kind: str, monkeypatch: pytest.MonkeyPatch, *, fast: bool) -> torch.Tensor:
    if not fast:
        monkeypatch.setattr(vgg, "frozen_precision", lambda _device: torch.autocast("cpu", enabled=False))
    images = pictures()
    changed = (images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    changed.requires_grad_()
    if kind == "style":
        with torch.no_grad():
            reference = gram_matrices(network(images))
        weights = [1 / float(gram.square().sum()) for gram in reference]
        gram_style_loss(gram_matrices(network(changed)), reference, weights).backward()
    else:
        with torch.no_grad():
            reference = network.edges(images)
        edge_loss(network(changed), reference).backward()
    monkeypatch.undo()
    assert changed.grad is not None
    return changed.grad.flatten()


@pytest.mark.parametrize("kind", ["style", "edges"])
def test_fast_gradients_agree_with_float32(trunk: VGG16Trunk, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = trunk if kind == "style" else HED()
    fast = gradient(network, kind, monkeypatch, fast=True)
    exact = gradient(network, kind, monkeypatch, fast=False)
    assert float(torch.cosine_similarity(fast, exact, dim=0)) > 0.99


def test_edges_lie_where_the_disc_ends() -> None:
    with torch.no_grad():
        edges = HED().edges(pictures(1))[0]
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    distance = (((x - 32) ** 2 + (y - 32) ** 2).float().sqrt() - 14).abs()
    assert float(edges[distance < 1.5].mean()) > 0.8
    inside = (x - 32) ** 2 + (y - 32) ** 2 < 8**2
    assert float(edges[inside].mean()) < 0.4


def test_nothing_in_the_perception_models_trains(trunk: VGG16Trunk) -> None:
    assert not any(parameter.requires_grad for parameter in [*trunk.parameters(), *HED().parameters()])


def test_a_file_without_the_layers_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["something"] = np.zeros(3)
    with pytest.raises(ModelLoadError, match="block1/layers/conv2d"):
        VGG16Trunk(tmp_path / "other.h5")


def test_the_precision_context_is_what_the_trunk_runs_in() -> None:
    with frozen_precision("cpu"):
        expected = torch.is_autocast_enabled("cpu")
    feature_map = load_trunk([vgg.StyleLayer(1, 1)])(pictures(1))[0][0]
    assert (feature_map.dtype == torch.bfloat16) == expected
