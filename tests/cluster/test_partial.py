"""Parts of the DAG as pipelines of their own: the DAG's edges, addresses in the place of steps, settings in front."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.compiling import dag_tasks, specification
from pipelines.feedback_learning import feedback_learning
from pipelines.partial import PARTS, inputs_of, part
from pipelines.placement import THIS_MACHINE, read_placement
from tests.cluster.fake_server import FakeServer
from tests.cluster.graph import edges
from tests.cluster.test_submit import Call

pytestmark = pytest.mark.integration

ACCELERATION_INPUTS = (
    "selected_prompts",
    "reward_color",
    "reward_layout",
    "reward_lighting",
    "reward_detail",
    "stage1",
)


def waits(spec: dict[str, Any]) -> dict[str, set[str]]:
    """Step -> the steps that it waits for."""
    tasks = dag_tasks(spec)
    names = {key: task["taskInfo"]["name"] for key, task in tasks.items()}
    return {names[key]: {names[other] for other in task["dependentTasks"]} for key, task in tasks.items()}


def test_a_part_has_the_dag_s_edges_into_its_steps() -> None:
    where = THIS_MACHINE  # the fastest to compile; edges are the same everywhere
    dag = specification(feedback_learning(where))
    whole = edges(dag)
    for name, steps in PARTS.items():
        spec = specification(part(name, where, dag))
        assert edges(spec) == {edge for edge in whole if edge[2] in steps}, name
        parameters = set(spec["root"]["inputDefinitions"]["parameters"])
        assert parameters == {
            "code_version",
            "preflight_settings",
            "run_summary_settings",
            *(f"{step}_settings" for step in steps),
            *(f"{input_}_uri" for input_ in inputs_of(name, dag)),
        }


def test_nothing_starts_before_preflight_and_data_is_checked_before_training() -> None:
    spec = specification(part("acceleration_only", read_placement("cpu")))
    before = waits(spec)
    assert before["resolve_data"] == {"preflight"}
    assert "validate_data" in before["adversarial_feedback"]
    assert before["run_summary"] == {name for name in before if name != "run_summary"}
    alone = waits(specification(part("step_evaluation", read_placement("cpu"))))
    assert "preflight" in alone["evaluation"]


def test_an_acceleration_is_submitted_with_the_addresses_of_what_it_starts_from(
    call: Call, checkout: Path, server: FakeServer
) -> None:
    inputs = [word for name in ACCELERATION_INPUTS for word in ("--input", f"{name}=gs://past/{name}")]
    ended = call("submit", "--pipeline", "acceleration_only", "--placement", "gke-l4-spot", *inputs)
    assert (ended.code, ended.err) == (0, "")
    (run,) = server.runs.values()
    parameters = run.runtime_config.parameters
    assert parameters["stage1_uri"] == "gs://past/stage1"
    assert json.loads(parameters["resolve_data_settings"])["expected"]
    told = json.loads(parameters["preflight_settings"])
    assert told["demands"]
    assert set(told["readable"]) == {f"gs://past/{name}" for name in ACCELERATION_INPUTS}
    assert [pipeline.display_name for pipeline in server.pipelines.values()] == ["unifl-acceleration-only"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--pipeline", "evaluation_only", "--input", "stage2=gs://x", "--input", "stag1=gs://y"),
            "did you mean stage1?",
        ),
        (("--pipeline", "evaluation_only"), "the input stage1 is missing; the input stage2 is missing"),
        (("--pipeline", "evaluation_onyl"), "did you mean evaluation_only?"),
        (("--input", "stage1=gs://x"), "stage1 is no input of feedback_learning"),
        (("--placement", "gke-l4-sport"), "no placement is called 'gke-l4-sport' (did you mean gke-l4-spot?)"),
        (
            ("--pipeline", "step_quality_gate", "--input", "evaluation=gs://x", "--set", "evaluation.images=8"),
            "takes no settings",
        ),
    ],
)
def test_what_does_not_belong_together_is_one_line_and_nothing_is_sent(
    call: Call, checkout: Path, server: FakeServer, arguments: tuple[str, ...], words: str
) -> None:
    ended = call("submit", *arguments)
    assert (ended.code, server.requests) == (2, [])
    assert words in ended.err
    assert ended.err.count("\n") == 1


def test_a_table_for_this_machine_is_refused(call: Call, checkout: Path, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("on_cluster: false\n")
    ended = call("submit", "--placement", tmp_path / "mine.yaml")
    assert (ended.code, server.requests) == (2, [])
    assert "is for this machine" in ended.err


def test_a_single_step_is_submitted_on_a_past_artifact(call: Call, checkout: Path, server: FakeServer) -> None:
    ended = call("submit", "--pipeline", "step_quality_gate", "--input", "evaluation=gs://past/evaluation")
    assert (ended.code, ended.err) == (0, "")
    (run,) = server.runs.values()
    ran = {task["taskInfo"]["name"] for task in dag_tasks(server.spec(run)).values()}
    assert ran == {"preflight", "evaluation.evaluation", "quality_gate", "run_summary"}
    told = json.loads(run.runtime_config.parameters["preflight_settings"])
    assert {demand["task"] for demand in told["demands"]} == {"preflight", "quality_gate", "run_summary"}


def test_a_step_runs_again_alone(call: Call, checkout: Path, server: FakeServer, started: str) -> None:
    server.finish(started)
    ended = call("rerun", started, "--from", "evaluation", "--only")
    assert ended.out.splitlines()[0] == "runs again: evaluation"
    ran = {task["taskInfo"]["name"] for task in dag_tasks(server.spec(server.runs[ended.run_id])).values()}
    assert {name for name in ran if "." not in name} == {"preflight", "evaluation", "run_summary"}
