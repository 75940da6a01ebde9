"""publish: the released folder of a model that passed the gate: loadable pipeline, model card, records, checksums.

A pipeline of its own, under another identity than training; it refuses a model whose lineage or gate it can't find.
"""

from __future__ import annotations

from pydantic import Field

from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition
from unifl.data.store import NAME_PATTERN


class PublishSettings(StepSettings):
    """How the release is called and licensed."""

    name: str = Field(default="UniFL embedded model", min_length=1, description="Title of the model card.")
    description: str = Field(default="", description="First paragraph of the model card.")
    licence: str = Field(
        default="other",
        pattern=r"[a-z0-9][a-z0-9.\-]*",
        description="Licence identifier of the Hugging Face hub; the strictest of base model and data.",
    )
    destination: str = Field(
        default="",
        description="Store that also gets the release: gs://BUCKET/PATH or a folder (docs/data_on_the_cluster.md).",
    )
    published_as: str = Field(
        default="latest", pattern=NAME_PATTERN, description="Name in that store that points at the newest release."
    )
    require_gate: bool = Field(default=True, description="Refuse a model without the record of a passed quality gate.")


STEP = StepDefinition(
    name="publish",
    summary="Make the released folder: loadable model, model card, record bundle, checksums.",
    inputs={
        "base_model": "base diffusion model (diffusers folder) that the model was tuned from",
        "model": "tuned model",
        "evaluation": "JSON of the evaluation step",
        "records": "folder with the records of the run (searched through)",
    },
    outputs={"release": "folder that plain diffusers loads, with card, records and SHA256SUMS"},
    settings=PublishSettings,
)


def run(inputs: Paths, outputs: Paths, settings: PublishSettings, context: StepContext) -> Metrics:
    """Write the release, and send it to the store when the settings name one.

    Raises ModelLoadError when model and base don't belong together, LineageError when a record or the gate is missing,
    DataContractError for an unusable evaluation, StorageError when the store refuses or another writer has moved the
    name meanwhile.
    """
    from unifl.core.digest import sha256_path
    from unifl.data.store import open_place, push
    from unifl.lineage.release import check_base, model_card, traced_records, write_release
    from unifl.steps.quality_gate import read_evaluation

    if settings.destination:
        open_place(settings.destination).check_rights(write=True)
    tuned = check_base(inputs["base_model"], inputs["model"])
    evaluation = read_evaluation(inputs["evaluation"])
    records = traced_records(
        inputs["model"], inputs["evaluation"], inputs["records"], require_gate=settings.require_gate
    )
    digests = {artifact.name: artifact.digest["sha256"] for artifact in context.materials}
    about = {
        "name": settings.name,
        "licence": settings.licence,
        "tuned_model": {"sha256": digests["model"], "stage": tuned.get("stage")},
        "base_model": {"sha256": digests["base_model"]},
        "evaluation": {"sha256": digests["evaluation"], "few_steps": evaluation["few_steps"]},
    }
    card = model_card(
        name=settings.name,
        licence=settings.licence,
        description=settings.description,
        about=about,
        evaluation=evaluation,
        records=records,
    )
    write_release(
        outputs["release"],
        base_model=inputs["base_model"],
        model=inputs["model"],
        evaluation=inputs["evaluation"],
        records=records,
        card=card,
        about=about,
    )
    metrics: Metrics = {"records": len(records), "release_sha256": sha256_path(outputs["release"])}
    if settings.destination:
        metrics["release_address"] = push(outputs["release"], settings.destination, name=settings.published_as).address
    return metrics
