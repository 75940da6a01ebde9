"""validate_data: check images, prompts and preferences; a critical failure blocks the run.

Stands between resolve_data and every training step, before any accelerator time is spent. Writes an offline page for
people and a verdict for machines, also when it fails.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from unifl.core.errors import DataContractError, SettingsError
from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition


class ValidateDataSettings(StepSettings):
    """What to check against."""

    expectations: str = Field(
        default="data/expectations",
        description="Folder of suites (images.json, prompts.json, preferences.json); looked up from the working "
        "folder, then from the checkout that holds this source.",
    )
    expectations_sha256: str | None = Field(
        default=None,
        description="Folder digest of the suites; a submission sets it, so that caches notice a changed suite.",
    )


STEP = StepDefinition(
    name="validate_data",
    summary="Check images, prompts and preferences against their expectations; block the run on an error.",
    inputs={
        "images": "folder of Parquet shards",
        "prompts": "prompt database (Parquet)",
        "preferences": "preference votes (Parquet)",
    },
    outputs={"report": "offline HTML page", "verdict": "JSON: passed, every check, failing files and rows"},
    settings=ValidateDataSettings,
)


def run(inputs: Paths, outputs: Paths, settings: ValidateDataSettings, context: StepContext) -> Metrics:
    """Run all checks and write page and verdict.

    Raises DataContractError (outputs kept) that names the first failed critical check with file and row; SettingsError
    for missing or unexpected suites.
    """
    from unifl.core.files import write_json_atomic, write_text_atomic
    from unifl.core.record import described
    from unifl.data.validation import CONTRACT, validate
    from unifl.data.validation_page import validation_page, verdict_json

    suites = described("expectations", suites_folder(settings.expectations))
    if settings.expectations_sha256 not in {None, suites.digest["sha256"]}:
        raise SettingsError(
            "the expectation suites are not the submitted ones",
            file=settings.expectations,
            expected=f"SHA-256 {settings.expectations_sha256}, found {suites.digest['sha256']}",
            remedy="submit again, or build the image from the submitted commit",
        )
    context.materials.append(suites)
    checks = validate(inputs["images"], inputs["prompts"], inputs["preferences"], suites_folder(settings.expectations))
    verdict = verdict_json(checks)
    facts = {artifact.name: f"sha256:{artifact.digest['sha256']}" for artifact in context.materials}
    write_json_atomic(outputs["verdict"], verdict)
    write_text_atomic(outputs["report"], validation_page(checks, facts))
    errors = [check for check in checks if check.blocks]
    if errors:
        # The contract speaks for a whole kind of data; any other check knows file and row better.
        first = min(errors, key=lambda check: check.name == CONTRACT)
        example = first.examples[0] if first.examples else None
        raise DataContractError(
            f"{len(errors)} of {len(checks)} checks failed, first {first.kind}: {first.name}"
            + (f", found {example.value}" if example else ""),
            file=example.file if example else inputs[first.kind],
            row=example.row if example else None,
            remedy="the report of this step lists every failed check with its rows; mend or drop those rows",
            keep_outputs=True,
        )
    return {"checks": verdict["checks"], "errors": verdict["errors"], "warnings": verdict["warnings"]}


def suites_folder(name: str) -> Path:
    """The folder of suites: from the working folder, else from the checkout that holds this source."""
    for base in (Path(), Path(__file__).resolve().parents[3]):
        if (base / name).is_dir():
            return base / name
    raise SettingsError("the folder of expectation suites does not exist", file=name, remedy="set `expectations`")
