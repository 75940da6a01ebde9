"""The released folder: a base pipeline with the tuned UNet in place, its records, its model card and its checksums.

Made by the `publish` step. Plain `StableDiffusionPipeline.from_pretrained(folder)` loads it; `unifl lineage verify
folder` and `sha256sum -c SHA256SUMS` check it without any network.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unifl.core.digest import folder_files, sha256_path
from unifl.core.errors import LineageError, ModelLoadError
from unifl.core.files import write_json_atomic, write_text_atomic
from unifl.lineage.records import RELEASE_FILE, Record, Trace, find_records
from unifl.lineage.verify import CHECKSUMS_FILE, link_checks

LINEAGE_FOLDER = "lineage"
EVALUATION_FILE = "evaluation.json"
UNET_WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")


def check_base(base_model: Path, model: Path) -> dict[str, Any]:
    """The tuned model's base.json, once it names this very base and its UNet fits.

    Raises ModelLoadError when the tuned model is not one, was tuned from another base, or has other tensors.
    """
    try:
        about: dict[str, Any] = json.loads((model / "base.json").read_text(encoding="utf-8"))
        named = about["base_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            "this is not a tuned model",
            file=model,
            expected="unet/ and base.json that names its base",
            remedy="run the tuning step",
        ) from error
    found = sha256_path(base_model)
    if named != found:
        raise ModelLoadError(
            "the model was tuned from another base",
            file=base_model,
            expected=f"SHA-256 {named}, found {found}",
            remedy="give the base model of that run",
        )
    tuned, base = tensor_shapes(model / UNET_WEIGHTS), tensor_shapes(base_model / UNET_WEIGHTS)
    if tuned != base:
        differing = sorted(name for name in tuned.keys() | base.keys() if tuned.get(name) != base.get(name))
        raise ModelLoadError(f"the tuned UNet does not fit its base: {differing[0]}", file=model / UNET_WEIGHTS)
    return about


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, read from the header alone. Raises ModelLoadError for an unreadable file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"the weights can't be read: {error}", file=file, remedy="restore the file") from error


def traced_records(model: Path, evaluation: Path, records: Path, *, require_gate: bool) -> list[Record]:
    """The records that lead to `model` and to `evaluation`, with the gate's; nearest to the model first.

    Raises LineageError when a link is missing, or (with `require_gate`) when no passed gate has judged this evaluation
    of this model.
    """
    found = find_records(model, [records])
    digest, judged = sha256_path(model), sha256_path(evaluation)
    head = next((subject for record in found for subject in record.subjects if subject.sha256 == digest), None)
    if head is None:
        raise LineageError(f"no record has the model (SHA-256 {digest}) as a subject", file=model, remedy=_RECORDS)
    trace = Trace(model, head, found)
    chosen = trace.records_nearest_first()
    for check in link_checks(trace):
        if check.broken:
            raise LineageError(f"{check.link}: {check.result}", file=records, remedy=_RECORDS)
    evaluated = trace.producer(judged)
    if evaluated is None or digest not in {material.sha256 for material in evaluated.materials}:
        raise LineageError("no record says that this evaluation judged this model", file=evaluation, remedy=_RECORDS)
    gates = [
        record
        for record in found
        if record.step == "quality_gate"
        and record.run.get("outcome") == "succeeded"
        and judged in {material.sha256 for material in record.materials}
    ]
    if require_gate and not gates:
        raise LineageError(
            "no quality gate has passed this evaluation", file=records, remedy="run quality_gate, keep its record"
        )
    return [*chosen, evaluated, *gates[:1]]


_RECORDS = "give the folder with the records of the whole run"


def write_release(
    release: Path,
    *,
    base_model: Path,
    model: Path,
    evaluation: Path,
    records: Sequence[Record],
    card: str,
    about: Mapping[str, Any],
) -> None:
    """Write the whole folder: pipeline, evaluation, records, card, release.json and, last, SHA256SUMS."""
    shutil.copytree(base_model, release, ignore=shutil.ignore_patterns("*.record.json", "record.json", "README.md"))
    shutil.rmtree(release / "unet")
    shutil.copytree(model / "unet", release / "unet")
    shutil.copyfile(evaluation, release / EVALUATION_FILE)
    (release / LINEAGE_FOLDER).mkdir()
    for record in records:
        name = f"{record.step}-{str(record.subjects[0].sha256)[:8]}.json"
        shutil.copyfile(record.file, release / LINEAGE_FOLDER / name)
    write_text_atomic(release / "README.md", card)
    write_json_atomic(release / RELEASE_FILE, dict(about))
    lines = [f"{digest}  {name}\n" for name, digest in folder_files(release).items()]
    write_text_atomic(release / CHECKSUMS_FILE, "".join(lines))


def model_card(
    *,
    name: str,
    licence: str,
    description: str,
    about: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    records: Sequence[Record],
) -> str:
    """The README.md of a release: hub metadata, how to load, the measured figures, the data and the way here."""
    from huggingface_hub import ModelCard, ModelCardData
    from jinja2 import Environment, PackageLoader, StrictUndefined

    metrics = list(evaluation["metric_info"])
    data = ModelCardData(
        license=licence,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["unifl", "feedback-learning", "arxiv:2404.05595"],
    )
    environment = Environment(
        loader=PackageLoader("unifl.lineage"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    inputs = {
        material.name: material
        for record in records
        for material in record.materials
        if material.name in {"images", "prompts", "preferences", "base_model"}
    }
    text = environment.get_template("model_card.md.jinja").render(
        card_data=data.to_yaml(),
        name=name,
        description=description,
        about=about,
        evaluation=evaluation,
        metrics=metrics,
        records=records,
        inputs=list(inputs.values()),
    )
    return str(ModelCard(text))
