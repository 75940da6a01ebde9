"""What the DAG takes as given, as a pipeline: base model, segmenter of structure feedback, judges and scorer.

For maintainers who train these on a cluster; on one machine `data/dvc.yaml` runs the same steps. Inputs are addresses
of the drawn data (`unifl embedded_icons`, `unifl embedded_images`).
"""

from kfp import dsl

from components.autoencoder.component import autoencoder
from components.base_model.component import base_model
from components.judge_models.component import judge_models
from components.segmentation_model.component import segmentation_model
from pipelines.placement import Placement, place


def given_models(placement: Placement):
    """The pipeline, with its tasks placed by `placement`; one JSON string of settings a task."""

    @dsl.pipeline(name="unifl-given-models", description="Base model, segmenter and judges from the drawn data.")
    def pipeline(
        code_version: str,
        icons_uri: str,
        images_uri: str,
        training_images_uri: str,
        autoencoder_settings: str,
        base_model_settings: str,
        segmentation_model_settings: str,
        judge_models_settings: str,
    ):
        icons = dsl.importer(artifact_uri=icons_uri, artifact_class=dsl.Dataset).output
        images = dsl.importer(artifact_uri=images_uri, artifact_class=dsl.Dataset).output
        scenes = dsl.importer(artifact_uri=training_images_uri, artifact_class=dsl.Dataset).output

        encoder = autoencoder(images=scenes, settings=autoencoder_settings, code_version=code_version)
        place(encoder, "autoencoder", placement)
        base = base_model(
            images=scenes,
            autoencoder=encoder.outputs["autoencoder"],
            settings=base_model_settings,
            code_version=code_version,
        )
        place(base, "base_model", placement)
        segmenter = segmentation_model(icons=icons, settings=segmentation_model_settings, code_version=code_version)
        place(segmenter, "segmentation_model", placement)
        judges = judge_models(icons=icons, images=images, settings=judge_models_settings, code_version=code_version)
        place(judges, "judge_models", placement)

    return pipeline
