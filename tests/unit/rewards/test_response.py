"""The reaction of a reward to each axis against changes that are known beforehand."""

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from unifl.data.contracts import ImageTable
from unifl.data.degradations import parse
from unifl.data.vocabulary import AXES
from unifl.rewards.model import RewardHead
from unifl.rewards.pairs import Reference
from unifl.rewards.response import ResponseProbe, axis_response, response_details, response_probe

IMAGES = [f"image-{number}" for number in range(30)]
PROBE = ResponseProbe(
    dict.fromkeys(IMAGES, "a dog"), {axis: [(image, f"{axis} fault") for image in IMAGES] for axis in AXES}
)


def linear_head() -> RewardHead:
    """The sum of two features, in deviations of 2: silu of a large number is that number."""
    head = RewardHead(2, 1, 0)
    with torch.no_grad():
        head.hidden.weight.copy_(torch.tensor([[1.0, 1.0]]))
        head.hidden.bias.fill_(50.0)
        head.output.weight.fill_(1.0)
        head.output.bias.fill_(0.0)
        head.score_deviation.fill_(2.0)
    return head


def features(faults: dict[str, float]) -> dict[Reference, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for image in IMAGES:
        start = rng.uniform(-0.1, 0.1, 2)
        found[image, ""] = start.astype(np.float32)
        for axis in AXES:
            fall = np.array([faults.get(axis, 0.0) * rng.uniform(0.5, 1.5), 0.0])
            found[image, f"{axis} fault"] = (start + fall).astype(np.float32)
    return found


def test_the_response_is_the_mean_fall_of_the_score_computed_by_hand() -> None:
    given = features({"color": -0.2})
    changes = axis_response(linear_head(), PROBE, given, None)
    soft = lambda row: float((6 * np.tanh(np.asarray(row, float) / 6)).sum())  # noqa: E731
    by_hand = [(soft(given[image, "color fault"]) - soft(given[image, ""])) / 2 for image in IMAGES]
    assert changes["color"].tolist() == pytest.approx(by_hand, abs=1e-4)
    found = response_details(changes, seed=0)
    assert found["response"]["color"] == pytest.approx(np.mean(by_hand), abs=1e-4)
    assert all(found["response"][axis] == pytest.approx(0, abs=1e-4) for axis in AXES if axis != "color")


def test_the_interval_agrees_with_scipys_paired_bootstrap() -> None:
    changes = axis_response(linear_head(), PROBE, features({"detail": -1.0}), None)
    low, high = response_details(changes, seed=0)["response_intervals"]["detail"]
    theirs = bootstrap(
        (changes["detail"].numpy().astype(float),), np.mean, n_resamples=4000, method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert low < float(changes["detail"].mean()) < high < 0


def test_the_probe_degrades_each_image_once_an_axis_and_on_that_axis_alone(images: ImageTable) -> None:
    probe = response_probe(images, "validation", 3, seed=0)
    assert set(probe.degraded) == set(AXES)
    for axis, group in probe.degraded.items():
        assert [image for image, _ in group] == list(probe.captions)
        parsed = [parse(derivation) for _, derivation in group]
        assert all(one is not None and one.axis == axis and one.also is None for one in parsed)
