"""resolve_data: fetch the run's inputs from a DVC repository at a revision, each checked against its digest.

First step of the DAG. The lineage record names repository, commit, path and DVC digest of every input, so that a model
can be traced back to the data's own history.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from unifl.core.errors import SettingsError
from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition

OUTPUTS = {
    "images": "folder of Parquet shards",
    "prompts": "prompt database (Parquet)",
    "preferences": "preference votes (Parquet)",
    "base_model": "base diffusion model (diffusers folder)",
    "segmenter": "instance segmenter of structure feedback",
    "judges": "judges of the evaluation, an axis each, style and concept",
    "scorer": "image-text scorer of the evaluation",
}


def _digest(value: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{32}(\.dir)?", value):
        raise ValueError("neither a SHA-256 nor DVC's MD5")
    return value


class ResolveDataSettings(StepSettings):
    """Where the data comes from."""

    repository: str = Field(default=".", description="Checkout or git address that holds the data's DVC pointers.")
    revision: str | None = Field(
        default=None,
        description="Branch, tag or commit; none takes the checkout's working folder. A commit makes a run repeatable.",
    )
    remote: str | None = Field(
        default=None, description="DVC remote; none takes the default of .dvc/config (the embedded one, data/seed)."
    )
    paths: dict[str, str] = Field(
        default={name: f"data/{name}" + (".parquet" if name in {"prompts", "preferences"} else "") for name in OUTPUTS},
        description="Output name to path in the repository (the layout of the data folder).",
    )
    expected: dict[str, Annotated[str, AfterValidator(_digest)]] = Field(
        default={},
        description="Output name to expected SHA-256 (folders: see unifl.core.digest) or DVC MD5; checked where given.",
    )


STEP = StepDefinition(
    name="resolve_data",
    summary="Fetch the run's inputs from a DVC repository at a revision and check their SHA-256.",
    inputs={},
    outputs=OUTPUTS,
    settings=ResolveDataSettings,
)


def run(inputs: Paths, outputs: Paths, settings: ResolveDataSettings, context: StepContext) -> Metrics:
    """Fetch all outputs.

    Raises SettingsError for an unknown repository, revision or name; DataContractError for missing data or a wrong
    digest.
    """
    from unifl.data.resolve import fetch

    unknown = sorted((settings.paths.keys() | settings.expected.keys()) - OUTPUTS.keys())
    missing = sorted(OUTPUTS.keys() - settings.paths.keys())
    if unknown or missing:
        wrong = [f"{name} is not an output" for name in unknown] + [f"{name} has no path" for name in missing]
        raise SettingsError("; ".join(wrong), expected=f"paths for {', '.join(OUTPUTS)}")
    materials = fetch(
        settings.repository,
        settings.revision,
        {name: settings.paths[name] for name in OUTPUTS},
        outputs,
        expected=settings.expected,
        remote=settings.remote,
    )
    context.materials.extend(materials)
    return {f"{material.name}_sha256": material.digest["sha256"] for material in materials}
