"""Ends a run on the cluster before its time."""

from pipelines.cluster_client import Cluster
from unifl.core.errors import RunStateError

CANCELED = frozenset({"CANCELING", "CANCELED"})
OVER = frozenset({"SUCCEEDED", "FAILED", "SKIPPED"})


def cancel(cluster: Cluster, run_id: str) -> str:
    """Terminate a run and return a line about it; asking twice is no error.

    Raises NotFoundError for an unknown run, RunStateError for one that has ended by itself.
    """
    state = cluster.run(run_id).state
    if state in CANCELED:
        return f"run {run_id} is {state.lower()} already"
    if state in OVER:
        raise RunStateError(f"run {run_id} has ended already: {state}", remedy="there is nothing left to cancel")
    with cluster.errors(f"run {run_id}"):
        cluster.client.terminate_run(run_id)
    return f"run {run_id} is being canceled"
