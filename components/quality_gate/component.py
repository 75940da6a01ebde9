"""Kubeflow component of the step `quality_gate`; the step itself is `unifl.steps.quality_gate`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def quality_gate(
    evaluation: dsl.Input[dsl.Artifact],
    settings: str,
    code_version: str,
    verdict: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Let the tuned model pass, or fail, by thresholds on its evaluation.

    A failed gate writes its verdict and ends the run with exit code 6.
    """
    from unifl.core.task import run_task

    run_task("quality_gate", locals())
