"""How much the squared error of predicted noise counts at each noise level, when a model is trained on real images."""

from torch import Tensor


def velocity_weight(level: Tensor, deviation: float | Tensor, min_snr: float) -> Tensor:
    """Weight [N] of the squared error of predicted noise where the signal's power is ``level`` (alpha_bar, in (0, 1)).

    The error of v-prediction (arXiv 2202.00512) for data of deviation s is ``1 + 1 / snr`` times that of
    epsilon-prediction, snr = s^2 alpha_bar / (1 - alpha_bar). Without this factor the noisiest steps, where text
    decides colors and places, hardly count. Above ``min_snr`` the weight falls as gamma / snr (arXiv 2303.09556); 0 for
    no such limit. ``deviation`` is that of the scaled latents.
    """
    ratio = deviation**2 * level / (1 - level)
    weight = 1 + 1 / ratio
    return weight * (min_snr / ratio).clamp(max=1) if min_snr else weight
