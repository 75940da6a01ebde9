"""The DAG in its two spellings, Kubeflow's and DVC's, and the files that are generated from it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipelines.compiling import compile_all, compiled, dag_tasks, documents, specification
from pipelines.feedback_learning import feedback_learning
from pipelines.partial import part
from pipelines.placement import THIS_MACHINE, read_placement
from pipelines.settings import FLOW, TASKS

ROOT = Path(__file__).resolve().parents[2]
COMPILED = ROOT / "pipelines" / "compiled" / "feedback_learning.yaml"
ONLY_KUBEFLOW = {"resolve_data", "publish", "preflight", "run_summary"}

pytestmark = pytest.mark.integration


def kubeflow_edges() -> set[tuple[str, str]]:
    """(upstream, downstream) of the compiled pipeline, by the tasks' names in the DAG."""
    tasks = dag_tasks(next(yaml.safe_load_all(COMPILED.read_text(encoding="utf-8"))))
    named = {key: task["taskInfo"]["name"] for key, task in tasks.items()}
    edges = set()
    for key, task in tasks.items():
        artifacts = task["inputs"].get("artifacts", {}).values()
        upstream = {artifact["taskOutputArtifact"]["producerTask"] for artifact in artifacts}
        edges |= {(named[other], named[key]) for other in upstream | set(task.get("dependentTasks", []))}
    return edges


def dvc_edges() -> tuple[set[str], set[tuple[str, str]]]:
    """Stages of dvc.yaml and (upstream, downstream) between them."""
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        graph = repo.index.graph
        stages = {
            stage: stage.addressing.replace("@", "_") for stage in graph if not stage.addressing.startswith("data/")
        }
        edges = {(stages[up], stages[down]) for down, up in graph.edges if up in stages and down in stages}
        return set(stages.values()), edges


def test_kubeflow_and_dvc_have_the_same_steps_and_edges() -> None:
    stages, edges = dvc_edges()
    assert stages == set(TASKS) - ONLY_KUBEFLOW
    assert edges == {edge for edge in kubeflow_edges() if not ONLY_KUBEFLOW & set(edge)}


def test_every_task_of_the_dag_has_a_place_in_the_table_of_tasks() -> None:
    assert {name for edge in kubeflow_edges() for name in edge} == set(FLOW)


@pytest.mark.parametrize(("placement", "folder"), [("cpu", "."), ("gke-l4-spot", "gke-l4-spot")])
def test_committed_pipelines_are_what_the_source_compiles_to(tmp_path: Path, placement: str, folder: str) -> None:
    written = compile_all(tmp_path, placement)
    committed = {file.name: file.read_text(encoding="utf-8") for file in (COMPILED.parent / folder).glob("*.yaml")}
    assert {file.name: file.read_text(encoding="utf-8") for file in written} == committed, (
        f"run `python -m pipelines compile --placement {placement}`"
    )


def test_what_is_compiled_is_what_kubeflow_s_own_compiler_writes(tmp_path: Path) -> None:
    from kfp import compiler

    pipeline = part("step_reward_model_color", read_placement("gke-l4-spot"))
    compiler.Compiler().compile(pipeline, str(tmp_path / "pipeline.yaml"))
    assert documents(compiled(pipeline)) == documents((tmp_path / "pipeline.yaml").read_text(encoding="utf-8"))


def test_a_run_on_this_machine_has_neither_preflight_nor_exit_handler() -> None:
    tasks = specification(feedback_learning(THIS_MACHINE))["root"]["dag"]["tasks"].values()
    assert {task["taskInfo"]["name"] for task in tasks} == set(TASKS)


def test_compiling_takes_less_than_four_cpu_seconds(tmp_path: Path) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "pipelines", "compile", "--out", str(tmp_path)], cwd=ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert cpu < 4, f"{cpu:.1f} CPU s, {time.monotonic() - started:.1f} s"


def test_presets_name_the_steps_that_dvc_reads_from_them() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    for stage in (stage.get("do", stage) for stage in stages):
        for entry in stage["params"]:
            for file, names in entry.items():
                preset = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
                assert set(names) <= set(preset), file
