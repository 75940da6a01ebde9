"""Maintainers' stage: images -> the embedded preference pairs of the four axes, voted by five simulated annotators.

Stands before `reward_model` (arXiv 2404.05595 §3.2), which turns the votes into one reward model an axis.
"""

from __future__ import annotations

from pydantic import Field

from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition


class EmbeddedPreferencesSettings(StepSettings):
    """How many pairs an axis, and who votes."""

    train: int = Field(3600, ge=1, description="pairs an axis of training images; with the next two >= 4,000")
    validation: int = Field(500, ge=1, description="pairs an axis of validation images: alpha and accuracy")
    test: int = Field(500, ge=1, description="pairs an axis of test images: the accuracy nobody selected by")
    annotators: int = Field(5, ge=1, le=99, description="votes a pair; arXiv 2404.05595 §3.2 has 4 to 5")
    seed: int = Field(0, ge=0, description="pair i of a split depends on (seed, split, i, axis) alone")


STEP = StepDefinition(
    name="embedded_preferences",
    summary="Make the embedded preference pairs from two-sided degradations, voted by simulated annotators.",
    inputs={"images": "folder of image shards (contract images)"},
    outputs={"preferences": "Parquet, one row a vote (contract preferences)"},
    settings=EmbeddedPreferencesSettings,
)


def run(inputs: Paths, outputs: Paths, settings: EmbeddedPreferencesSettings, context: StepContext) -> Metrics:
    """Write the votes of all pairs of all axes; metrics count them and give the share of votes for the better side."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from unifl.core.progress import progress
    from unifl.data.contracts import PREFERENCES, open_images
    from unifl.data.preferences import annotators, make_pairs, votes
    from unifl.data.vocabulary import AXES

    images = open_images(inputs["images"])
    panel = annotators(settings.annotators, settings.seed)
    counts = {"train": settings.train, "validation": settings.validation, "test": settings.test}
    rows = []
    right = 0
    work = [(axis, split) for axis in AXES for split in counts]
    for axis, split in progress(work, "preference pairs", "groups"):
        pairs = list(make_pairs(images, axis, split, counts[split], settings.seed))
        group = votes(pairs, panel, settings.seed)
        better = {pair.pair_id: "a" if pair.a.quality > pair.b.quality else "b" for pair in pairs}
        right += sum(row["preferred"] == better[row["pair_id"]] for row in group)
        rows.extend(group)
    table = pa.Table.from_pylist(rows, schema=PREFERENCES)
    pq.write_table(table, outputs["preferences"], compression="zstd", compression_level=19)
    return {
        "pairs": len(rows) // settings.annotators,
        "votes": len(rows),
        "votes_for_better_side": right / len(rows),
    }
