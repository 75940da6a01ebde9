"""What benchmarks/few_shot.py measures with: the cases, the judge that knows the new styles, one adaptation with looks.

The style classifier among the judges has never seen the held-out style. So a classifier of the same kind is trained
here, on the judges' trunk, with three more classes: the held-out style, the validation style, and recolored paintings
("other"), so that not everything unusual counts as the new style. Images that a style is learned from train no
classifier.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unifl.core.digest import sha256_path
from unifl.core.files import write_json_atomic
from unifl.data.contracts import ImageTable
from unifl.data.vocabulary import HELD_OUT_STYLE, PAINTED_STYLES, TRAINING_STYLES
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.sampling import sample
from unifl.evaluation.examiner_training import train_style
from unifl.evaluation.heads import StyleHead, load_head, save_head
from unifl.evaluation.metrics import kid, share
from unifl.evaluation.panel import Panel
from unifl.evaluation.trunk import Views, as_tensor
from unifl.feedback.engine import FeedbackEngine, Term
from unifl.feedback.few_shot import RECOLORINGS, FewImages, Recoloring, read_start, style_images, with_phrase
from unifl.feedback.few_shot_settings import StyleAdaptationSettings
from unifl.feedback.losses import gram_style_loss
from unifl.feedback.objectives import Logs
from unifl.feedback.objectives.diffusion import DiffusionObjective
from unifl.feedback.parameters import TrainableParameters
from unifl.feedback.settings import PerceptualSettings
from unifl.perception.vgg import gram_matrices, load_trunk

VALIDATION_STYLE = "watercolor"
VALIDATION_RECOLORING = Recoloring((1, 2, 0))
VALIDATION_CLASS = "recolored watercolor"
OTHER_CLASS = "other"
CLASSES = (*TRAINING_STYLES, HELD_OUT_STYLE, VALIDATION_CLASS, OTHER_CLASS)
LEARNED_FROM = 60  # images of the validation style from which adaptations draw; the others train the classifier
HEAD_HIDDEN, HEAD_PASSES = 96, 16

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A style to learn: where its images come from, what it is called, and the prompts that ask for it."""

    wanted: str
    style: str
    learn_from: ImageTable
    recoloring: Recoloring | None
    captions: list[str]
    concepts: list[list[str]]
    real: Pixels | None = None


def cases(images: ImageTable, held_out: ImageTable, prompts: int, validation_prompts: int) -> tuple[Case, Case]:
    """The validation case and the held-out one, with captions of unseen compositions."""

    def asked(split: str, count: int) -> tuple[list[str], list[list[str]], list[str]]:
        rows = held_out.split(split).head(count)
        return list(rows["caption"]), [list(one) for one in rows["concepts"]], list(rows["image_id"])

    captions, concepts, _ = asked("validation", validation_prompts)
    few, _ = validation_rows(images)
    first = Case(
        VALIDATION_CLASS, VALIDATION_STYLE, replace(images, frame=few), VALIDATION_RECOLORING, captions, concepts
    )
    captions, concepts, ids = asked("test", prompts)
    return first, Case(HELD_OUT_STYLE, HELD_OUT_STYLE, held_out, None, captions, concepts, held_out.pixels(ids))


def validation_rows(images: ImageTable) -> tuple[Any, Any]:
    """Training rows of the validation style: those that adaptations draw from, and those that train the classifier."""
    rows = images.split("train")
    rows = rows[rows["style"] == VALIDATION_STYLE]
    return rows.iloc[:LEARNED_FROM], rows.iloc[LEARNED_FROM:]


def recolored(pixels: Pixels, recoloring: Recoloring) -> Pixels:
    """uint8 images [N, H, W, 3] in other colors."""
    changed = pixels[..., list(recoloring.order)]
    return 255 - changed if recoloring.negative else changed


def style_judge(
    panel: Panel, images: ImageTable, held_out: ImageTable, folder: Path
) -> tuple[StyleHead, dict[str, Any]]:
    """The classifier over CLASSES, and its accuracy on images that did not train it; kept in ``folder``, done once."""
    if folder.exists():
        return load_head("style classifier", StyleHead, folder)
    rng = np.random.default_rng(0)

    def others(rows: Any) -> Pixels:
        painted = rows[rows["style"].isin(list(PAINTED_STYLES)) & (rows["style"] != VALIDATION_STYLE)]
        return np.stack(
            [recolored(one, RECOLORINGS[rng.integers(len(RECOLORINGS))]) for one in images.pixels(painted["image_id"])]
        )

    def collected(split: str, own: Any, held_split: str) -> tuple[Pixels, torch.Tensor]:
        rows = images.split(split)
        # The validation style's own colors: rows that adaptations draw from stay out of the training.
        rows = rows if split == "test" else rows[~rows["image_id"].isin(validation_rows(images)[0]["image_id"])]
        parts = {
            HELD_OUT_STYLE: held_out.pixels(held_out.split(held_split)["image_id"]),
            VALIDATION_CLASS: recolored(images.pixels(own["image_id"]), VALIDATION_RECOLORING),
            OTHER_CLASS: others(rows),
        }
        pixels = np.concatenate([images.pixels(rows["image_id"]), *parts.values()])
        names = [*rows["style"], *(name for name, part in parts.items() for _ in part)]
        return pixels, torch.tensor([CLASSES.index(name) for name in names])

    pixels, labels = collected("train", validation_rows(images)[1], "validation")
    views = panel.trunk.look_at_all(pixels, description="images of the style judge")
    head = train_style(views, labels, len(CLASSES), passes=HEAD_PASSES, seed=0, hidden=HEAD_HIDDEN)
    test_rows = images.split("test")
    pixels, labels = collected("test", test_rows[test_rows["style"] == VALIDATION_STYLE], "test")
    views = panel.trunk.look_at_all(pixels, description="unseen images")
    with torch.no_grad():
        found = torch.cat([head(views[slice(at, at + 256)]) for at in range(0, len(views), 256)]).argmax(1)
    figures: dict[str, Any] = {"accuracy": share((found == labels).numpy()).as_dict()}
    for name in CLASSES[-3:]:
        own = labels == CLASSES.index(name)
        figures[name] = {
            "recall": share((found[own] == labels[own]).numpy()).as_dict(),
            "false_alarms": share((found[~own] == CLASSES.index(name)).numpy()).as_dict(),
        }
    save_head(head, folder, "style classifier", {"labels": CLASSES, "held_out": figures})
    return load_head("style classifier", StyleHead, folder)


class Examiner:
    """Draws the prompts of a case and says of each picture: style as wanted, concept as asked for, Gram distance."""

    def __init__(self, case: Case, panel: Panel, judge: StyleHead, *, steps: int, guidance: float) -> None:
        self.case, self.panel, self.judge = case, panel, judge
        self.steps, self.guidance = steps, guidance
        self.wanted = CLASSES.index(case.wanted)
        self._vgg = load_trunk() if case.real is not None else None
        self._real = panel.trunk.look_at_all(case.real, description="real images") if case.real is not None else None

    def look(self, adapter: DiffusionAdapter, captions: Sequence[str], steps: int | None = None) -> dict[str, Any]:
        """``hits``, ``concepts``, ``gram`` one number a picture, ``kid`` one number; and the ``pictures``."""
        pictures = sample(
            adapter, captions, steps=steps or self.steps, guidance_scale=self.guidance, seeds=range(len(captions))
        )
        views = Views.joined(
            [self.panel.trunk.look(as_tensor(pictures[at : at + 64])) for at in range(0, len(pictures), 64)]
        )
        found = self.panel.examine_views(views)
        with torch.no_grad():
            hits = (self.judge(views).argmax(1) == self.wanted).tolist()
        answer: dict[str, Any] = {
            "hits": [int(hit) for hit in hits],
            "concepts": [int(hit) for hit in self.panel.concept_hits(found, self.case.concepts)],
            "pictures": pictures,
        }
        if self._vgg is not None and self._real is not None and self.case.real is not None:
            answer["gram"] = [round(value, 5) for value in self._gram(pictures, self.case.real)]
            real = self._real.embedding.double().numpy()
            own = np.arange(len(pictures))
            answer["kid"] = kid(found.embedding.astype(np.float64), real, resamples=1, own=own).value
        return answer

    def identity(self) -> dict[str, Any]:
        """What its figures depend on, besides the model."""
        case = self.case
        asked = {"wanted": case.wanted, "captions": case.captions}
        return {**asked, "steps": self.steps, "guidance": self.guidance}

    def real(self) -> dict[str, Any]:
        """The same of the case's real images: what is the most that can be reached."""
        if self._real is None:
            return {}
        with torch.no_grad():
            hits = self.judge(self._real).argmax(1) == self.wanted
        concepts = self.panel.concept_hits(self.panel.examine_views(self._real), self.case.concepts)
        return {"style": share(hits.numpy()).as_dict(), "concept": share(concepts).as_dict()}

    @torch.no_grad()
    def _gram(self, ours: Pixels, theirs: Pixels) -> list[float]:
        """Distance of VGG-16's Gram matrices, picture by picture, to the real image with the same caption."""
        weights = PerceptualSettings().style_layer_weights
        distances = []
        for at in range(0, len(ours), 16):
            a, b = (gram_matrices(self._vgg(as_tensor(one[at : at + 16]))) for one in (ours, theirs))  # type: ignore[misc]
            distances += [
                float(gram_style_loss([x[i : i + 1] for x in a], [y[i : i + 1] for y in b], weights))
                for i in range(len(a[0]))
            ]
        return distances


class Looked(DiffusionObjective):
    """The diffusion loss, with a look at the model after certain updates."""

    def __init__(self, min_snr: float, looks: Sequence[int], look: Callable[[int], None]) -> None:
        super().__init__(min_snr)
        self.looks, self.look, self.done = set(looks), look, 0

    def after_update(self) -> Logs:
        self.done += 1
        if self.done in self.looks:
            self.look(self.done)
        return {}


def adaptation(
    base: Path,
    start: Path | None,
    examiner: Examiner,
    settings: StyleAdaptationSettings,
    looks: Sequence[int],
    folder: Path,
    pictures: int = 0,
) -> dict[str, Any]:
    """One adaptation with a look after each number of updates in ``looks``; kept in ``folder``, done once."""
    file = folder / "looks.json"
    identity = examiner.identity() | {"settings": settings.model_dump(mode="json"), "looks": list(looks)}
    identity |= {"base": sha256_path(base), "start": sha256_path(start) if start else None}
    if file.exists():
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if kept["identity"] == identity:
            return kept
    case = examiner.case
    adapter = DiffusionAdapter.load(base, fast_unet=True)
    ids, captions = style_images(case.learn_from, case.style, settings.images, settings.seed, settings.phrase)
    images = FewImages(case.learn_from, ids, captions, settings.batch_size, settings.seed, case.recoloring)
    asked = list(case.captions)
    if settings.phrase is not None:
        asked = [with_phrase(one, HELD_OUT_STYLE, settings.phrase) for one in asked]
    found: dict[str, Any] = {}
    sheets = []

    def look(update: int) -> None:
        answer = examiner.look(adapter, asked)
        sheets.append(answer.pop("pictures")[:pictures])
        found[str(update)] = answer

    objective = Looked(settings.diffusion_min_snr, looks, look)
    term = Term(objective, images, settings.diffusion_weight)
    scratch = folder.with_name(f"{folder.name}.scratch")
    torch.manual_seed(settings.seed)
    parameters = TrainableParameters(adapter, settings.lora_rank, ema_decay=0)
    if start is not None:
        parameters.start_from(read_start(parameters, start))
    if 0 in looks:
        look(0)
    # A look takes longer than its updates, so an adaptation that was killed is done again from its beginning.
    shutil.rmtree(scratch, ignore_errors=True)
    log = FeedbackEngine(adapter, [term], settings, scratch, folder.name, parameters=parameters).run()
    shutil.rmtree(scratch)
    result = {"identity": identity, "looks": found, "losses": [round(line["loss"], 5) for line in log]}
    if pictures:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "pictures.npy", np.stack(sheets))
    write_json_atomic(file, result)
    return result
