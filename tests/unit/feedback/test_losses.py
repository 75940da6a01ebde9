import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_expit

from unifl.feedback.losses import (
    consistency_loss,
    content_loss,
    decoupled_hinge,
    diffusion_loss,
    discriminator_loss,
    distillation_distance,
    edge_loss,
    generator_loss,
    gradient_penalty,
    gram_style_loss,
    hinge,
    hinge_discriminator_loss,
    preference_loss,
)
from unifl.perception.vgg import gram_matrix

scores = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=8)


@given(scores, st.floats(0, 5, width=32))
def test_hinge_is_zero_above_alpha(values: list[float], margin: float) -> None:
    assert float(hinge(torch.tensor(values), min(values) - margin)) == 0.0


def test_hinge_is_the_mean_distance_below_alpha() -> None:
    assert float(hinge(torch.tensor([0.0, 1.5, 3.0]), 2.0)) == pytest.approx((2.0 + 0.5 + 0.0) / 3)


def test_hinge_pulls_only_the_images_below_alpha() -> None:
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    hinge(values, 2.0).backward()
    assert values.grad is not None
    assert values.grad.tolist() == [-0.5, 0.0]


def test_decoupled_hinge_is_the_weighted_sum_of_the_axes() -> None:
    total, terms = decoupled_hinge(
        {"color": torch.tensor([0.0, 2.0]), "detail": torch.tensor([-1.0, -1.0])},
        {"color": 1.0, "detail": 0.0},
        {"color": 1.0, "detail": 3.0},
    )
    assert {axis: float(term) for axis, term in terms.items()} == {"color": 0.5, "detail": 1.0}
    assert float(total) == pytest.approx(3.5)


def test_decoupled_hinge_refuses_axes_without_alpha() -> None:
    with pytest.raises(ValueError, match="axes differ"):
        decoupled_hinge({"color": torch.zeros(1)}, {}, {"color": 1.0})


def test_gram_matrix_and_style_loss_equal_a_brute_force_sum() -> None:
    ours, theirs = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for image in range(2):
        for i in range(3):
            for j in range(3):
                a = sum(ours[image, i, y, x] * ours[image, j, y, x] for y in range(4) for x in range(5)) / 60
                b = sum(theirs[image, i, y, x] * theirs[image, j, y, x] for y in range(4) for x in range(5)) / 60
                expected += float((a - b) ** 2) / 2
    grams = [gram_matrix(ours)], [gram_matrix(theirs)]
    assert float(gram_style_loss(*grams)) == pytest.approx(expected, rel=1e-5)
    assert float(gram_style_loss(*grams, layer_weights=[2.0])) == pytest.approx(2 * expected, rel=1e-5)


def test_style_loss_ignores_where_things_are() -> None:
    feature_map = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    moved = feature_map.flatten(2)[:, :, torch.randperm(16)].view_as(feature_map)
    assert float(gram_style_loss([gram_matrix(feature_map)], [gram_matrix(moved)])) == pytest.approx(0, abs=1e-10)


def test_content_loss_is_the_squared_error_over_the_squared_norm_averaged_over_layers() -> None:
    reference = [torch.full((1, 2, 2, 2), 2.0), torch.full((1, 1, 4, 4), 3.0)]
    assert float(content_loss(reference, reference)) == 0
    generated = [reference[0] + 1.0, reference[1] * 0]  # 1 / 4, and 9 / 9
    assert float(content_loss(generated, reference)) == pytest.approx((0.25 + 1.0) / 2)


def test_edge_loss_is_least_at_the_reference() -> None:
    reference = torch.full((1, 2, 2), 0.3)
    logit = math.log(0.3 / 0.7)
    at = float(edge_loss(torch.full((1, 2, 2), logit), reference))
    assert at == pytest.approx(-(0.3 * math.log(0.3) + 0.7 * math.log(0.7)), rel=1e-5)
    assert at < float(edge_loss(torch.full((1, 2, 2), logit + 0.5), reference))


@given(scores, scores)
def test_discriminator_loss_equals_the_formula_of_the_paper(real: list[float], fake: list[float]) -> None:
    expected = -np.mean(log_expit(np.array(real))) - np.mean(log_expit(-np.array(fake)))
    found = float(discriminator_loss(torch.tensor(real), torch.tensor(fake)))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_discriminator_loss_at_chance_is_two_log_two() -> None:
    assert float(discriminator_loss(torch.zeros(4), torch.zeros(4))) == pytest.approx(2 * math.log(2))


def test_discriminator_loss_is_finite_for_extreme_scores() -> None:
    assert float(discriminator_loss(torch.tensor([-200.0]), torch.tensor([200.0]))) == pytest.approx(400.0)


def test_generator_loss_rewards_higher_scores() -> None:
    assert float(generator_loss(torch.tensor([1.0, 3.0]))) == -2.0


def test_diffusion_loss_is_the_mean_squared_error() -> None:
    assert float(diffusion_loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]]))) == 5.0


def test_diffusion_loss_weighs_each_sample() -> None:
    noise = torch.tensor([[[[1.0, 3.0]]], [[[2.0, 2.0]]]])  # mean squares of 5 and 4
    assert float(diffusion_loss(torch.zeros_like(noise), noise, torch.tensor([1.0, 0.5]))) == (5 + 2) / 2


def test_consistency_loss_is_pseudo_huber_for_every_element() -> None:
    student, target = torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 0.0]]]])
    assert float(consistency_loss(student, target, huber=4.0)) == pytest.approx((5 - 4 + 0) / 2)
    assert float(consistency_loss(student, target, huber=0.0)) == pytest.approx((9 + 0) / 2)


def test_consistency_loss_pulls_far_elements_no_harder_than_near_ones() -> None:
    student = torch.tensor([[[[10.0, 1000.0]]]], requires_grad=True)
    consistency_loss(student, torch.zeros(1, 1, 1, 2), huber=1e-3).backward()
    assert student.grad is not None
    assert student.grad.flatten().tolist() == pytest.approx([0.5, 0.5], rel=1e-5)


errors = st.lists(st.floats(0, 2, width=32), min_size=3, max_size=3)


@given(errors, errors, errors, errors, st.floats(1, 100))
def test_preference_loss_equals_the_authors_code(
    preferred: list[float], rejected: list[float], ref_preferred: list[float], ref_rejected: list[float], beta: float
) -> None:
    """inside = -0.5 beta_dpo (model_diff - ref_diff), loss = -log sigmoid(inside), with beta_dpo twice our beta."""
    inside = (
        -0.5
        * (2 * beta)
        * ((np.array(preferred) - np.array(rejected)) - (np.array(ref_preferred) - np.array(ref_rejected)))
    )
    found, right = preference_loss(
        *(torch.tensor(values) for values in (preferred, rejected, ref_preferred, ref_rejected)), beta
    )
    assert float(found) == pytest.approx(-np.mean(log_expit(inside)), rel=1e-4, abs=2e-5 * beta)
    if np.abs(inside).min() > 1e-3:
        assert float(right) == pytest.approx((inside > 0).mean())


def test_preference_loss_of_the_reference_itself_is_log_two() -> None:
    preferred, rejected = torch.tensor([0.3, 0.9]), torch.tensor([0.5, 0.1])
    loss, right = preference_loss(preferred, rejected, preferred, rejected, beta=2500.0)
    assert float(loss) == pytest.approx(math.log(2))
    assert float(right) == 0.0


def test_preference_loss_falls_when_the_preferred_side_gains_on_the_reference() -> None:
    same = torch.tensor([0.5])
    better, right = preference_loss(same - 0.1, same, same, same, beta=10.0)
    assert float(better) == pytest.approx(math.log(1 + math.exp(-1.0)))
    assert float(right) == 1.0


def test_hinge_discriminator_loss_counts_scores_within_the_margin_only() -> None:
    found = hinge_discriminator_loss(torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5]))
    assert float(found) == pytest.approx((0 + 0.5) / 2 + (0 + 1.5) / 2)
    assert float(hinge_discriminator_loss(torch.zeros(3), torch.zeros(3))) == 2.0


def test_gradient_penalty_is_the_squared_norm_of_each_rows_gradient() -> None:
    weight = torch.tensor([2.0], requires_grad=True)
    inputs = torch.tensor([[1.0, 2.0], [0.0, 3.0]], requires_grad=True)
    penalty = gradient_penalty(weight * inputs.square().sum(1), inputs)  # gradient 2 w x, squared norm 4 w^2 |x|^2
    assert float(penalty.detach()) == pytest.approx(4 * 4 * (5 + 9) / 2)
    penalty.backward()
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(8 * 2 * (5 + 9) / 2)


def test_distillation_distance_weighs_each_sample() -> None:
    student = torch.tensor([[[[1.0, 3.0]]], [[[2.0, 2.0]]]])  # mean squares of 5 and 4
    assert float(distillation_distance(student, torch.zeros_like(student), torch.tensor([1.0, 0.5]))) == (5 + 2) / 2
