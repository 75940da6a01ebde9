"""Maintainers' stage: npm icon sets -> one Parquet file of sprites with exact alpha (see :mod:`unifl.data.icons`)."""

from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition


class EmbeddedIconsSettings(StepSettings):
    """Nothing to set: concepts and sets are in :mod:`unifl.data.vocabulary`."""


STEP = StepDefinition(
    name="embedded_icons",
    summary="Collect the icon sets for the embedded data.",
    inputs={"node_modules": "folder with the npm packages of data/package-lock.json"},
    outputs={"icons": "folder with sprites.parquet"},
    settings=EmbeddedIconsSettings,
)


def run(inputs: Paths, outputs: Paths, settings: EmbeddedIconsSettings, context: StepContext) -> Metrics:
    """Ingest every concept in every drawn style."""
    from unifl.data.icons import ingest, write_sprites

    table = ingest(inputs["node_modules"])
    outputs["icons"].mkdir(parents=True)
    write_sprites(table, outputs["icons"] / "sprites.parquet")
    return {"sprites": table.num_rows, "styles": len(set(table.column("style").to_pylist()))}
