"""Step: preference votes of one axis and the images -> the axis's reward model with its alpha (arXiv 2404.05595 §3.2).

Decoupled feedback takes four of these as hinges; adversarial feedback starts its discriminator from the one of detail.
The axis `global` gives one reward of everything, trained on the pairs of all four axes (ImageReward, arXiv 2304.05977):
no part of the DAG, but what the baseline ReFL and the ablation of decoupling take.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field

from unifl.core.errors import SettingsError
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition
from unifl.rewards.settings import HeadSettings

Axis = Literal["color", "layout", "lighting", "detail", "global"]


class RewardModelSettings(HeadSettings):
    """Which axis, how many of its pairs, how its head is trained and where its hinge lies."""

    axis: Axis | None = Field(
        None,
        description="one of color, layout, lighting, detail; or global, one reward of all four axes' pairs together "
        "(ImageReward, arXiv 2304.05977). Every call must give it",
    )
    pairs: int | None = Field(
        None,
        ge=8,
        description="training pairs, first in the file first; None takes all. Global takes each axis in turn",
    )
    validation_pairs: int | None = Field(500, ge=8, description="validation pairs; 500 give accuracy within 3 points")
    alpha_offset: dict[Axis, float] = Field(
        {"detail": -0.5},
        description="added to the mean preferred score; arXiv 2404.05595 §4 sets detail lower, since more adds noise",
    )
    threads: int = Field(
        1,
        ge=1,
        description="threads of PyTorch; not the number of cores or OMP_NUM_THREADS, since the order of sums, and "
        "with it the digest of the reward model, follows from it. One does not suffer from other work on the machine",
    )
    probe_images: int = Field(40, ge=0, description="validation images on which the reaction to each axis is measured")


STEP = StepDefinition(
    name="reward_model",
    summary="Train the reward model of one axis on its preferences (Bradley-Terry).",
    inputs={
        "preferences": "Parquet, one row a vote (contract preferences)",
        "images": "folder of image shards that the pairs refer to (contract images)",
    },
    outputs={"reward_model": "folder with model.safetensors, config.json, details.json"},
    settings=RewardModelSettings,
)


def run(inputs: Paths, outputs: Paths, settings: RewardModelSettings, context: StepContext) -> Metrics:
    """Compute (or find) the features, train the head, validate it, write the folder.

    Raises SettingsError without an axis or for an alpha above every score, DataContractError for pairs that cannot be
    used, DivergenceError on NaN.
    """
    if settings.axis is None:
        raise SettingsError("the axis is missing", expected="axis=color, layout, lighting, detail or global")

    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        return _train(settings.axis, inputs, outputs, settings)
    finally:
        torch.set_num_threads(before)


def _train(axis: Axis, inputs: Paths, outputs: Paths, settings: RewardModelSettings) -> Metrics:
    from unifl.data.contracts import open_images
    from unifl.rewards.features import features_of_prompts, features_of_references
    from unifl.rewards.model import DETAILS, RewardConfig, RewardModel, sentence_encoder, shared_trunk
    from unifl.rewards.pairs import pairs_of_split, read_votes
    from unifl.rewards.response import axis_response, response_details, response_probe
    from unifl.rewards.training import PairTensors, train_head, validate

    images = open_images(inputs["images"])
    votes = read_votes(inputs["preferences"], axis, images)
    training = pairs_of_split(votes, "train", settings.pairs, inputs["preferences"])
    validation = pairs_of_split(votes, "validation", settings.validation_pairs, inputs["preferences"])
    probe = response_probe(images, "validation", settings.probe_images, seed=0)

    trunk = shared_trunk("lite0")
    sides = [side for pair in training + validation for side in (pair.preferred, pair.rejected)]
    features = features_of_references(sides + probe.references, images, trunk, f"features of {axis}")
    text = None
    if settings.text:
        prompts = {pair.prompt for pair in training + validation} | set(probe.captions.values())
        text = features_of_prompts(prompts, sentence_encoder, f"prompts of {axis}")

    tensors = PairTensors.of(training, features, text)
    held_out = PairTensors.of(validation, features, text)
    trained = train_head(tensors, held_out, settings, f"reward model {axis}")
    result = validate(trained.head, validation, held_out, settings.seed)
    offset = settings.alpha_offset.get(axis, 0.0)
    config = RewardConfig(
        axis=axis,
        trunk=trunk.variant,
        trunk_sha256=trunk.sha256,
        text=settings.text,
        text_sha256=_text_sha256() if settings.text else None,
        text_width=settings.text_width if settings.text else 0,
        hidden=settings.hidden,
        alpha=result.alpha + offset,
        alpha_low=result.alpha_interval[0] + offset,
        alpha_high=result.alpha_interval[1] + offset,
        alpha_offset=offset,
        validation_accuracy=result.accuracy,
        validation_accuracy_low=result.accuracy_interval[0],
        validation_accuracy_high=result.accuracy_interval[1],
        training_pairs=len(training),
        validation_pairs=len(validation),
        logit_scale=float(trained.head.score_deviation),
        synthetic_preferences=bool(votes["synthetic"].any()),
        highest_score=result.highest_score,
    )
    config.check_alpha(config.alpha, "alpha_offset")
    folder = outputs["reward_model"]
    RewardModel(config, trained.head, trunk).save(folder)
    changes = axis_response(trained.head, probe, features, text) if probe.captions else {}
    response = response_details(changes, settings.seed)
    details = {"axis": axis, **result.details, "curve": trained.curve, **response}
    (folder / DETAILS).write_text(json.dumps(details, indent=1) + "\n", encoding="utf-8")
    return {
        "axis": axis,
        "updates": trained.updates,
        "training_pairs": len(training),
        "validation_accuracy": result.accuracy,
        "validation_accuracy_low": result.accuracy_interval[0],
        "validation_accuracy_high": result.accuracy_interval[1],
        "alpha": config.alpha,
        "loss": trained.curve[-1]["loss"],
    }


def _text_sha256() -> str:
    from unifl.perception.packages import digest

    return digest("minilm-weights")
