"""Publishing as a pipeline of its own: it runs under another identity than training, and only past the quality gate.

Inputs are addresses of what a feedback-learning run left: the tuned model, its base, the evaluation and the records.
"""

from kfp import dsl

from components.publish.component import publish
from pipelines.placement import Placement, place


def publishing(placement: Placement):
    """The pipeline, with its task placed by `placement`."""

    @dsl.pipeline(name="unifl-publish", description="A tuned model, its evaluation and records become a release.")
    def pipeline(
        code_version: str,
        base_model_uri: str,
        model_uri: str,
        evaluation_uri: str,
        records_uri: str,
        publish_settings: str,
    ):
        released = publish(
            base_model=dsl.importer(artifact_uri=base_model_uri, artifact_class=dsl.Model).output,
            model=dsl.importer(artifact_uri=model_uri, artifact_class=dsl.Model).output,
            evaluation=dsl.importer(artifact_uri=evaluation_uri, artifact_class=dsl.Artifact).output,
            records=dsl.importer(artifact_uri=records_uri, artifact_class=dsl.Artifact).output,
            settings=publish_settings,
            code_version=code_version,
        )
        place(released, "publish", placement)

    return pipeline
