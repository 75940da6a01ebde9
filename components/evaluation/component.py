"""Kubeflow component of the step `evaluation`; the step itself is `unifl.steps.evaluation`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def evaluation(
    base_model: dsl.Input[dsl.Model],
    stage1: dsl.Input[dsl.Model],
    stage2: dsl.Input[dsl.Model],
    judges: dsl.Input[dsl.Model],
    scorer: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    settings: str,
    code_version: str,
    evaluation: dsl.Output[dsl.Artifact],
    samples: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Measure base, stage 1 and stage 2: KID, FID, image-text score and four judges.

    Everything that judges here is trained apart from everything that rewards.
    """
    from unifl.core.task import run_task

    run_task("evaluation", locals())
