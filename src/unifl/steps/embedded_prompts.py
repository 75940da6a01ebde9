"""Step embedded_prompts: makes the prompt database of the embedded preset, once, for the maintainers' frozen DVC stage.

Its output is what prompt_curation selects from (arXiv 2404.05595 §3.2).
"""

from __future__ import annotations

from pydantic import Field

from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition


class EmbeddedPromptsSettings(StepSettings):
    """Settings of the embedded prompt database."""

    seed: int = Field(0, ge=0, description="of every generator and of the order of rows")
    count: int = Field(
        54_000,
        ge=100,
        description="prompts to make; the embedded database holds at least 50,000, and zstd makes 1 MB of them",
    )


STEP = StepDefinition(
    name="embedded_prompts",
    summary="Maintainers: make the embedded prompt database.",
    inputs={},
    outputs={"prompts": "prompt database (Parquet, contract prompts)"},
    settings=EmbeddedPromptsSettings,
)


def run(inputs: Paths, outputs: Paths, settings: EmbeddedPromptsSettings, context: StepContext) -> Metrics:
    """Make the database.

    Raises:
        ModelLoadError: the package with the word lists is missing or altered.
    """
    from unifl.data.prompt_database import make_prompts, read_words, write_prompts

    frame = make_prompts(settings.count, settings.seed, read_words())
    write_prompts(frame, outputs["prompts"])
    counts = frame["source"].value_counts()
    metrics: Metrics = {"prompts": len(frame), "distinct": int(frame["text"].nunique())}
    for name in sorted(counts.index):
        metrics[f"source_{name}"] = int(counts[name])
    return metrics
