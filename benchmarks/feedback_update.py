"""CPU milliseconds an image of each part of a feedback update: the table of docs/performance.md.

    python benchmarks/feedback_update.py                 # random weights: the cost does not depend on them
    python benchmarks/feedback_update.py --base BASE     # a trained base_model folder

One thread, so that CPU time is what one core spends. Parts that an update repeats (a forward of the UNet in the prefix)
are given once, with the number of times each objective runs them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from unifl.data.vocabulary import CONCEPTS
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.embedded import build_untrained
from unifl.feedback.losses import content_loss, gram_style_loss
from unifl.feedback.parameters import TrainableParameters
from unifl.feedback.trajectory import Trajectory, denoise_with_gradient, start_from_noise
from unifl.perception.hed import HED
from unifl.perception.minilm import SentenceEncoder
from unifl.perception.segmenter import Segmenter, structure_loss
from unifl.perception.vgg import CONTENT_LAYERS, at_layers, gram_matrices, load_trunk
from unifl.rewards.features import image_features
from unifl.rewards.model import shared_trunk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, help="base model folder; random weights of the embedded sizes without it")
    parser.add_argument("--batch", type=int, default=16, help="images a batch")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats; the median counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        base = arguments.base
        if base is None:
            base = Path(scratch) / "base"
            build_untrained(base, [f"a {concept}" for concept in CONCEPTS])
        rows = measure(DiffusionAdapter.load(base), arguments.batch, arguments.repeats)
    print(f"| part (batch {arguments.batch}) | CPU ms an image |\n|---|---|")
    for name, milliseconds in rows:
        print(f"| {name} | {milliseconds:.2f} |", flush=True)


def measure(adapter: DiffusionAdapter, batch: int, repeats: int) -> list[tuple[str, float]]:
    """(part, CPU ms an image) of every part, in the order of an update."""
    generator = torch.Generator().manual_seed(0)
    captions = [f"a {CONCEPTS[number % len(CONCEPTS)]} on a plain background" for number in range(batch)]
    images = torch.rand(batch, 3, 64, 64, generator=generator)
    condition = adapter.encode_text(captions)
    table = adapter.step_table(20)
    indices = torch.randint(0, 20, (batch,), generator=generator)
    latents = torch.randn(batch, *adapter.latent_shape, generator=generator)
    parameters = TrainableParameters(adapter, lora_rank=0, ema_decay=0.9999)
    optimizer = torch.optim.AdamW(parameters.tensors(), lr=0.0)
    segmenter = Segmenter([str(concept) for concept in CONCEPTS]).eval().requires_grad_(False)
    segmenter.to(memory_format=torch.channels_last)
    vgg, edges, trunk = load_trunk(), HED(), shared_trunk("lite0")
    encoder = SentenceEncoder()
    mask = torch.zeros(1, 64, 64, dtype=torch.bool).numpy()
    mask[:, 20:44, 20:44] = True
    masks, concepts = [mask] * batch, [[segmenter.concepts[0]]] * batch

    def encode_prompts() -> None:
        adapter._text_cache.clear()
        adapter.encode_text(captions)

    def forward() -> Tensor:
        return adapter.predict(latents, indices, table, condition).x0

    def without_graph() -> None:
        with torch.no_grad():
            forward()

    def with_gradient() -> None:
        forward().square().mean().backward()

    def optimizer_step() -> None:
        optimizer.step()
        parameters.update_average()

    def to_pixels(loss: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            loss(images.clone().requires_grad_()).backward()

        return run

    def decode() -> None:
        adapter.decode(latents.clone().requires_grad_()).square().mean().backward()

    def whole_walk() -> None:
        trajectory = Trajectory(20, 0, 5)
        start = start_from_noise(adapter, batch, 20, generator)
        stops = trajectory.draw_stops(batch, generator)
        denoise_with_gradient(adapter, start, stops, condition, trajectory).square().mean().backward()

    with torch.no_grad():
        real = vgg(images)
        reference = gram_matrices(real)
        reference_edges = edges.edges(images)

    def style(pixels: Tensor) -> Tensor:
        return gram_style_loss(gram_matrices(vgg(pixels)), reference)

    def style_and_content(pixels: Tensor) -> Tensor:
        maps = vgg(pixels)
        content = content_loss(at_layers(maps, CONTENT_LAYERS), at_layers(real, CONTENT_LAYERS))
        return gram_style_loss(gram_matrices(maps), reference) + content

    parts: list[tuple[str, Callable[[], object]]] = [
        ("text encoder, once a prompt", encode_prompts),
        ("sentence encoder of the rewards, once a prompt", lambda: encoder.encode(captions)),
        ("UNet forward without a graph, each step of the prefix", without_graph),
        ("UNet forward and backward, the step with gradient", with_gradient),
        ("AdamW and average of all weights, an update (divided by the batch)", optimizer_step),
        ("autoencoder, encode a real image", lambda: adapter.encode_image(images)),
        ("autoencoder, decode and back", decode),
        (
            "reward trunk with its four heads' features, there and back",
            to_pixels(lambda x: image_features(trunk, x).mean()),
        ),
        ("VGG-16 maps of the real image", lambda: torch.no_grad()(vgg)(images)),
        ("VGG-16 style loss, there and back", to_pixels(style)),
        ("VGG-16 style and content loss on one pass, there and back", to_pixels(style_and_content)),
        ("segmenter loss, there and back", to_pixels(lambda x: structure_loss(segmenter, x, masks, concepts).mean())),
        ("HED edges, there and back", to_pixels(lambda x: (edges.edges(x) - reference_edges * 0.5).square().mean())),
        ("whole walk of decoupled feedback: noise to t in [0, 5], there and back", whole_walk),
    ]
    return [(name, milliseconds(part, batch, repeats)) for name, part in parts]


def milliseconds(part: Callable[[], object], images: int, repeats: int) -> float:
    """Median CPU milliseconds an image of ``part``, after one untimed run."""
    part()
    spent = []
    for _ in range(repeats):
        begun = time.process_time()
        part()
        spent.append((time.process_time() - begun) / images * 1000)
    return statistics.median(spent)


if __name__ == "__main__":
    main()
