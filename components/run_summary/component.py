"""Kubeflow component of the step `run_summary`; the step itself is `unifl.steps.run_summary`."""

from kfp import dsl

from components import image


@dsl.component(base_image=image("data"), install_kfp_package=False)
def run_summary(
    status: dsl.PipelineTaskFinalStatus,
    settings: str,
    code_version: str,
    summary: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    record: dsl.Output[dsl.Artifact],
):
    """Write the run's summary whatever happened, tell a webhook, and remove old leftovers.

    The exit handler of the DAG; a webhook that fails never fails the run.
    """
    from unifl.core.settings import settings_with
    from unifl.core.task import run_task

    told = settings_with(settings, state=status.state, error=status.error_message or "")
    run_task("run_summary", {**locals(), "settings": told})
