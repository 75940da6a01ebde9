"""Collapse detection: a training whose pictures become one or blank, or whose gradient explodes, is not gone on with.

A collapsed model still gives finite losses, even good ones: a reward may like a blank picture. What it cannot keep up
is the deviation of its pictures, which every objective logs from the images that it has decoded anyway. All that is
looked at is the log, so a resumed run judges as an undisturbed one and every process of several as the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from torch import Tensor

VARIETY, CONTRAST = "variety_", "contrast_"
MEANING = {VARIETY: "deviation of the pictures over a batch", CONTRAST: "deviation of the pixels within a picture"}
RECENT = 5
"""Updates whose median is judged: one batch of similar pictures, or one steep gradient, is no collapse."""
FIRST = 5
"""The largest of so many first values is where a run started: a high learning rate ruins a model within two updates."""
GRADIENTS = 50
"""Updates before the recent ones whose median is the running one; at least twice RECENT must be there."""


def picture_statistics(name: str, images: Tensor) -> dict[str, float]:
    """What the objective ``name`` logs of its decoded ``images`` [N, 3, H, W] in [0, 1]: their standard deviations.

    ``variety_<name>`` is taken over the batch at each pixel (absent for a batch of one), ``contrast_<name>`` within
    each image and channel; both are means, 0 for equal and for blank pictures.
    """
    seen = images.detach().float()
    logs = {f"{CONTRAST}{name}": float(seen.flatten(2).std(2).mean())}
    if len(seen) > 1:
        logs[f"{VARIETY}{name}"] = float(seen.std(0).mean())
    return logs


def collapse(log: Sequence[Mapping[str, float]], share: float, factor: float) -> str:
    """In words, what of ``log`` (a mapping an update) has collapsed at its end, or an empty string.

    Variety and contrast shall not fall below ``share`` of where they started, nor the gradient's norm rise above
    ``factor`` times its running median; 0 switches either off.
    """
    if not log:
        return ""
    if share:
        for key in log[-1]:
            meaning = next((words for prefix, words in MEANING.items() if key.startswith(prefix)), None)
            if meaning is None or len(log) <= RECENT:
                continue
            start, now = max(line[key] for line in log[:FIRST]), median(line[key] for line in log[-RECENT:])
            if now < share * start:
                return (
                    f"{key}, the {meaning}, has fallen to {now:.2g}, below collapse_share {share:g} of the {start:.2g} "
                    f"that it was at first,"
                )
    before = [line["grad_norm"] for line in log[:-RECENT][-GRADIENTS:]]
    if factor and len(before) >= 2 * RECENT:
        usual, now = median(before), median(line["grad_norm"] for line in log[-RECENT:])
        if now > factor * usual:
            return (
                f"the gradient's norm is {now:.3g}, above collapse_gradient {factor:g} times its running {usual:.3g},"
            )
    return ""
