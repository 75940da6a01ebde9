"""Few-shot styles: the tasks that a start is learned over, the start's folder, and the terms of one new style.

What is learned from is at most some twenty images and the diffusion loss; the LoRA learns which style the phrase in
their captions means. The outer loop is `unifl.feedback.reptile`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unifl.core.errors import ModelLoadError, SettingsError
from unifl.core.settings import did_you_mean
from unifl.data.contracts import ImageTable
from unifl.data.vocabulary import PAINTED_STYLES, STYLE_PHRASES
from unifl.feedback.batches import Batch, ShuffledRows
from unifl.feedback.engine import Term
from unifl.feedback.few_shot_settings import FewShotSettings, FewShotStartSettings
from unifl.feedback.objectives.diffusion import DiffusionObjective
from unifl.feedback.parameters import LOG_NAME, TrainableParameters, check_tuned_on, write_base_note
from unifl.feedback.ranks import WHOLE, Part
from unifl.feedback.reptile import LogLine, task_seed

START_NAME = "start.json"
LORA_FOLDER = "lora"


def with_phrase(caption: str, style: str, phrase: str) -> str:
    """``caption`` with ``phrase`` in the place of the style's own words, or behind it where it has none."""
    own = STYLE_PHRASES.get(style, style)
    return f"{caption.removesuffix(own).rstrip(', ')}, {phrase}"


@dataclass(frozen=True)
class Recoloring:
    """Color channels in another order, and perhaps the negative: a style becomes one that nobody has drawn."""

    order: tuple[int, int, int] = (0, 1, 2)
    negative: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Recolor images [N, 3, H, W] in [0, 1]."""
        changed = images[:, list(self.order)]
        return 1 - changed if self.negative else changed

    @property
    def name(self) -> str:
        """Such as ``bgr`` or ``-grb``; empty for colors as they are."""
        name = ("-" if self.negative else "") + "".join("rgb"[channel] for channel in self.order)
        return "" if name == "rgb" else name


RECOLORINGS = tuple(Recoloring(o, negative) for negative in (False, True) for o in permutations((0, 1, 2)))[1:]  # type: ignore[arg-type]
"""The eleven recolorings that change something."""


class FewImages:
    """A handful of images, kept decoded, as an endless source of batches in the order of shuffled epochs.

    Raises DataContractError when a picture cannot be decoded.
    """

    def __init__(
        self,
        table: ImageTable,
        image_ids: Sequence[str],
        captions: Sequence[str],
        batch_size: int,
        seed: int,
        recoloring: Recoloring | None = None,
    ) -> None:
        pixels = torch.from_numpy(table.pixels(image_ids)).permute(0, 3, 1, 2).float() / 255
        self.pixels = recoloring(pixels) if recoloring else pixels
        self.captions = list(captions)
        self.batch_size = batch_size
        self._order = ShuffledRows(len(self.captions), seed)

    def batch(self, number: int, part: Part = WHOLE) -> Batch:
        """Batch ``number``: images and captions."""
        first, count = part.rows(self.batch_size)
        rows = self._order.rows(number * self.batch_size + first, count)
        return Batch([self.captions[row] for row in rows], self.pixels[rows])


def diffusion_on(images: FewImages, settings: FewShotSettings) -> Term:
    """The diffusion loss on a handful of images."""
    return Term(DiffusionObjective(settings.diffusion_min_snr), images, settings.diffusion_weight)


def style_images(
    table: ImageTable, style: str, count: int, seed: int, phrase: str | None
) -> tuple[list[str], list[str]]:
    """(image ids, captions) of ``count`` random training images of a style; ``phrase`` None leaves the captions.

    Raises SettingsError for a style that there is not (naming the nearest) or that has fewer images.
    """
    frame = table.split("train")
    rows = frame[frame["style"] == style]
    known = sorted(set(frame["style"]))
    if rows.empty:
        raise SettingsError(
            f"no training image is of the style {style!r}{did_you_mean(style, known)}",
            file=table.folder,
            expected=f"one of {', '.join(known)}",
            remedy="name one of these, or give images of that style",
        )
    if len(rows) < count:
        raise SettingsError(
            f"{count} images of the style {style!r} are asked for, and there are {len(rows)}",
            file=table.folder,
            expected=f"images of at most {len(rows)}",
            remedy=f"set images={len(rows)}, or give more images of that style",
        )
    chosen = np.random.default_rng([seed, 0x57]).choice(len(rows), count, replace=False)
    rows = rows.iloc[chosen]
    captions = [str(one) for one in rows["caption"]]
    if phrase is not None:
        captions = [with_phrase(one, style, phrase) for one in captions]
    return [str(one) for one in rows["image_id"]], captions


class StyleTasks:
    """The tasks of the outer loop: a random training style, some of its images, perhaps in other colors.

    Raises SettingsError when a style is named that there is not, when fewer than two are left, or when one has fewer
    images than a task takes.
    """

    def __init__(self, table: ImageTable, settings: FewShotStartSettings) -> None:
        self.table = table
        self.settings = settings
        counts = {str(style): int(n) for style, n in table.split("train")["style"].value_counts().items()}
        named = [*(settings.styles or ()), *settings.left_out]
        unknown = [f"{one!r}{did_you_mean(one, counts)}" for one in named if one not in counts]
        if unknown:
            raise SettingsError(
                f"no training image is of the style {' nor '.join(unknown)}",
                file=table.folder,
                expected=f"styles out of {', '.join(sorted(counts))}",
            )
        self.styles = sorted(set(settings.styles or counts) - set(settings.left_out))
        if len(self.styles) < 2:
            raise SettingsError(
                f"a start is learned over several styles, and {len(self.styles)} are left",
                file=table.folder,
                expected="at least 2 styles",
                remedy="name more in styles, or fewer in left_out",
            )
        few = {style: counts[style] for style in self.styles if counts[style] < settings.images}
        if few:
            raise SettingsError(
                f"{settings.images} images a task are asked for, and there are {_listed(few)}",
                file=table.folder,
                expected=f"images of at most {min(few.values())}",
                remedy=f"set images={min(few.values())}, or name the style in left_out",
            )

    def __call__(self, done: int, task: int) -> tuple[list[Term], LogLine]:
        """The term of a task, a function of (round, task) and the seed alone, and which style it is."""
        settings = self.settings
        seed = task_seed(settings.seed, done, task)
        rng = np.random.default_rng([seed, 1])
        # A round takes different styles as long as there are enough of them.
        order = np.random.default_rng([settings.seed, done, 2]).permutation(len(self.styles))
        style = self.styles[order[task % len(order)]]
        recoloring = None
        if style in PAINTED_STYLES and rng.random() < settings.recolor:  # captions of drawn styles name colors
            recoloring = RECOLORINGS[rng.integers(len(RECOLORINGS))]
        ids, captions = style_images(self.table, style, settings.images, seed, settings.phrase)
        images = FewImages(self.table, ids, captions, settings.batch_size, seed, recoloring)
        return [diffusion_on(images, settings)], {
            "style": " ".join(filter(None, [style, getattr(recoloring, "name", "")]))
        }


def save_start(
    parameters: TrainableParameters, folder: Path, *, base_folder: Path, log_file: Path, facts: dict[str, Any]
) -> None:
    """Write a start: ``lora/`` (diffusers' form), ``base.json``, ``start.json`` with ``facts``, ``training.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters.save_lora(folder / LORA_FOLDER)
    write_base_note(folder, base_folder, "few_shot_start", parameters.lora_rank)
    (folder / START_NAME).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(log_file, folder / LOG_NAME)


def start_facts(folder: Path, base: Path, lora_rank: int) -> dict[str, Any]:
    """What ``start.json`` says of a start, light to read: before a model is loaded.

    Raises ModelLoadError when it is no start, of another base or of another rank.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / START_NAME).read_text(encoding="utf-8"))
        rank = int(facts["lora_rank"])
        str(facts["phrase"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            "not the folder of a few-shot start",
            file=folder / START_NAME,
            expected="start.json with phrase and lora_rank",
            remedy="give the folder that `unifl few_shot_start` wrote",
        ) from error
    check_tuned_on(base, folder)
    if rank != lora_rank:
        raise ModelLoadError(
            f"the start is a LoRA of rank {rank}",
            file=folder,
            expected=f"rank {lora_rank}, the setting lora_rank",
            remedy=f"set lora_rank={rank}",
        )
    return facts


def read_start(parameters: TrainableParameters, folder: Path) -> dict[str, Tensor]:
    """The weights of a start for `TrainableParameters.start_from`. Raises ModelLoadError when they do not fit."""
    return parameters.read_lora(folder / LORA_FOLDER / "pytorch_lora_weights.safetensors")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} of {style}" for style, count in counts.items())
