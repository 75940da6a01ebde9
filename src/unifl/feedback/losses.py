"""Every loss of feedback learning as a pure function of tensors, apart from the loops that use it.

Perceptual, decoupled and adversarial losses are those of arXiv 2404.05595 (§3.1, §3.2 and §3.3); the others are of the
methods it is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def hinge(scores: Tensor, alpha: float) -> Tensor:
    """E ReLU(alpha - r): pulls a reward up to ``alpha`` and no further. ``scores`` [N]; zero where r >= alpha."""
    return F.relu(alpha - scores).mean()


def decoupled_hinge(
    scores: Mapping[str, Tensor], alphas: Mapping[str, float], weights: Mapping[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum over the axes of E ReLU(alpha_d - r_d), and the unweighted term of each axis.

    ``scores`` maps an axis to [N]; ``alphas`` and ``weights`` have the same axes. Raises ValueError when they differ.
    """
    if not scores.keys() == alphas.keys() == weights.keys():
        raise ValueError(f"axes differ: scores {sorted(scores)}, alphas {sorted(alphas)}, weights {sorted(weights)}")
    if not scores:
        raise ValueError("no axis to score")
    terms = {axis: hinge(scores[axis], alphas[axis]) for axis in scores}
    return _sum([weights[axis] * term for axis, term in terms.items()]), terms


def gram_style_loss(
    generated: Sequence[Tensor], reference: Sequence[Tensor], layer_weights: Sequence[float] | None = None
) -> Tensor:
    """Squared L2 distance of Gram matrices [N, C, C], summed over layers, mean over images (arXiv 1603.08155 eq. 4).

    Gram matrices are normalised by C h w (``unifl.perception.vgg.gram_matrix``); ``layer_weights`` default to 1.
    """
    weights = layer_weights if layer_weights is not None else [1.0] * len(generated)
    distances = [
        weight * (ours - theirs).square().sum(dim=(1, 2)).mean()
        for weight, ours, theirs in zip(weights, generated, reference, strict=True)
    ]
    return _sum(distances)


def content_loss(generated: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Squared L2 distance of feature maps [N, C, h, w] over the reference's squared norm, averaged over the layers.

    Johnson et al.'s feature reconstruction loss (arXiv 1603.08155 eq. 2) with layers made comparable; 0 for equal maps.
    """
    distances = [
        (ours.float() - theirs.float()).square().mean() / theirs.float().square().mean()
        for ours, theirs in zip(generated, reference, strict=True)
    ]
    return _sum(distances) / len(distances)


def edge_loss(logits: Tensor, reference: Tensor) -> Tensor:
    """Binary cross-entropy of edge ``logits`` [N, H, W] against probabilities ``reference`` [N, H, W] in [0, 1]."""
    return F.binary_cross_entropy_with_logits(logits, reference)


def generator_loss(fake_scores: Tensor) -> Tensor:
    """L_G = E[-r_a(x'_0)] (§3.3). ``fake_scores`` [N] of images whose graph leads to the diffusion model."""
    return -fake_scores.mean()


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """L_D = -E[log sigmoid(r_a(x_0)) + log(1 - sigmoid(r_a(x'_0)))] (§3.3); 2 log 2 = 1.386 is chance."""
    return F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()


def diffusion_loss(predicted_noise: Tensor, noise: Tensor, weight: Tensor | None = None) -> Tensor:
    """E w |noise - predicted|^2, the loss of plain fine-tuning (arXiv 2006.11239 eq. 14); ``weight`` [N] is 1 there."""
    errors = squared_errors(predicted_noise, noise)
    return (errors if weight is None else weight * errors).mean()


def consistency_loss(student: Tensor, target: Tensor, huber: float) -> Tensor:
    """Distance of two clean latents [N, C, h, w], mean over their elements (arXiv 2310.04378 eq. 10).

    Pseudo-Huber sqrt(d^2 + huber^2) - huber (arXiv 2310.14189 §3.3, for every element as in diffusers' script of LCM);
    the squared distance where ``huber`` is 0.
    """
    square = (student - target).square()
    return ((square + huber**2).sqrt() - huber).mean() if huber else square.mean()


def preference_loss(
    preferred: Tensor, rejected: Tensor, reference_preferred: Tensor, reference_rejected: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Diffusion-DPO's loss (arXiv 2311.12908 eq. 14) and the share of pairs on which the model has moved the right way.

    All are [N]: each side's squared error of predicted noise, mean over the latent's elements, of the model and of the
    frozen reference. ``beta`` is the whole factor before the difference of differences: the paper's beta, timestep
    count and weighting together. With all errors equal the loss is log 2 = 0.693.
    """
    gained = (reference_preferred - preferred) - (reference_rejected - rejected)
    return -F.logsigmoid(beta * gained).mean(), (gained > 0).float().mean()


def hinge_discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """E ReLU(1 - D(x)) + E ReLU(1 + D(x')), each [N] (arXiv 2311.17042 eq. 3 without its penalty); 2 is chance."""
    return F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()


def gradient_penalty(scores: Tensor, inputs: Tensor) -> Tensor:
    """R1, E |dD/dx|^2 of ``scores`` [N] with respect to ``inputs`` [N, D], each score its own row's (arXiv 1801.04406);
    with a graph."""
    (gradients,) = torch.autograd.grad(scores.sum(), inputs, create_graph=True)
    return gradients.square().flatten(1).sum(1).mean()


def distillation_distance(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """E c(t) d(x_student, x_teacher): squared distance, mean over each sample's elements, times ``weight`` [N]
    (arXiv 2311.17042 eq. 4)."""
    return (weight * (student - teacher).square().flatten(1).mean(1)).mean()


def squared_errors(predicted_noise: Tensor, noise: Tensor) -> Tensor:
    """Squared error [N] of each sample's predicted noise, mean over its elements."""
    return (predicted_noise - noise).square().flatten(1).mean(1)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
