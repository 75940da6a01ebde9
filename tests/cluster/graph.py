"""What a compiled pipeline hands from step to step, for tests that compare a part of the DAG with the whole."""

from typing import Any

from pipelines.compiling import dag_tasks

Edge = tuple[str, str, str, str]


def edges(spec: dict[str, Any]) -> set[Edge]:
    """(step, output, step, input) of a compiled pipeline; an importer counts as the step whose output it imports."""
    tasks, found = dag_tasks(spec), set()
    for task in tasks.values():
        for name, source in task.get("inputs", {}).get("artifacts", {}).items():
            producer = tasks[source["taskOutputArtifact"]["producerTask"]]["taskInfo"]["name"]
            step, dot, output = producer.partition(".")
            key = output if dot else source["taskOutputArtifact"]["outputArtifactKey"]
            found.add((step, key, task["taskInfo"]["name"], name))
    return found
