"""Status: every step with state, times, accelerator hours and cost; without a run, the last runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl, kubernetes

from pipelines.compiling import documents
from pipelines.settings import FLOW
from tests.cluster.conftest import Ended
from tests.cluster.fake_server import FakeServer

pytestmark = pytest.mark.integration

Call = Callable[..., Ended]


@dsl.component(base_image="python", install_kfp_package=False)
def nothing() -> None:
    pass


def two_steps_on(kind: str | None, tmp_path: Path) -> dict[str, Any]:
    """A pipeline with a step on two GPUs of a kind and a step on none, as a server keeps it."""

    @dsl.pipeline(name="two-steps")
    def pipeline() -> None:
        train = nothing().set_display_name("train")
        train.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(2)
        if kind:
            kubernetes.add_node_selector(train, "cloud.google.com/gke-accelerator", kind)
        nothing().set_display_name("judge").after(train)

    compiler.Compiler().compile(pipeline, str(tmp_path / "p.yaml"))
    parts = documents((tmp_path / "p.yaml").read_text())
    return parts[0] if len(parts) == 1 else {"pipeline_spec": parts[0], "platform_spec": parts[1]}


def row(ended: Ended, step: str) -> list[str]:
    line = next(line for line in ended.out.splitlines() if f" {step} " in line)
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_every_step_of_the_dag_has_a_row_in_the_order_of_the_flow(call: Call, server: FakeServer, started: str) -> None:
    server.finish(started, 3)
    ended = call("status", started)
    assert (ended.code, ended.err) == (0, "")
    shown = [line.strip("│ ").split()[0] for line in ended.out.splitlines() if line.startswith("│")]
    assert shown == list(FLOW)
    assert row(ended, "resolve_data") == ["resolve_data", "SUCCEEDED", "2026-03-01 09:30:00", "30 min 00 s", "", ""]
    assert row(ended, "quality_gate") == ["quality_gate", "PENDING", "", "", "", ""]
    assert f"run {started}  past  RUNNING" in ended.out
    assert "No step asks for an accelerator" in ended.out
    assert f"{server.host}/#/runs/details/{started}" in ended.out


def test_a_failed_run_shows_its_step_and_the_servers_words(call: Call, server: FakeServer, started: str) -> None:
    server.failing = {"validate_data"}
    server.finish(started)
    ended = call("status", started)
    assert ended.code == 0
    assert row(ended, "validate_data")[1] == "FAILED"
    assert "The server says: task validate-data failed" in ended.out


def test_gpu_hours_are_time_times_gpus_and_cost_goes_by_the_node_s_accelerator(
    call: Call, server: FakeServer, tmp_path: Path
) -> None:
    run = server.start(two_steps_on("nvidia-l4", tmp_path))
    server.finish(run)
    ended = call("status", run)
    assert row(ended, "train")[3:] == ["30 min 00 s", "1.00", "0.71"]
    assert row(ended, "judge")[3:] == ["30 min 00 s", "", ""]
    assert "1.00 GPU hours, about 0.71 USD" in ended.out


@pytest.mark.parametrize(("kind", "named"), [("nvidia-of-tomorrow", "nvidia-of-tomorrow"), (None, "nvidia.com/gpu")])
def test_an_accelerator_without_a_price_gets_no_estimate(
    call: Call, server: FakeServer, tmp_path: Path, kind: str | None, named: str
) -> None:
    run = server.start(two_steps_on(kind, tmp_path))
    server.finish(run)
    ended = call("status", run)
    assert row(ended, "train")[4:] == ["1.00", "unknown"]
    assert f"no estimate, because no price is known for {named}" in ended.out
    assert "about" not in ended.out


def test_prices_can_be_given(call: Call, server: FakeServer, tmp_path: Path) -> None:
    run = server.start(two_steps_on(None, tmp_path))
    server.finish(run)
    prices = tmp_path / "prices.yaml"
    prices.write_text("currency: EUR\nper_hour: {nvidia.com/gpu: 3}\n")
    ended = call("status", run, "--prices", prices)
    assert row(ended, "train")[4:] == ["1.00", "3.00"]
    assert "about 3.00 EUR" in ended.out


@pytest.mark.parametrize("text", ["per_hour: {x: much}", "prices: {x: 1}", "- 1", "a: ["])
def test_a_broken_price_file_is_one_line_with_code_2(call: Call, started: str, tmp_path: Path, text: str) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(text)
    ended = call("status", started, "--prices", prices)
    assert ended.code == 2
    assert "this is not a table of prices" in ended.err
    assert ended.err.count("\n") == 1


def test_without_a_run_the_last_runs_are_listed_newest_first(
    call: Call, server: FakeServer, compiled_dag: dict[str, Any]
) -> None:
    runs = [server.start(compiled_dag, name=f"run{number}") for number in range(3)]
    server.finish(runs[0])
    lines = call("status", "--last", 2).out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [[runs[2], "run2", "RUNNING"], [runs[1], "run1", "RUNNING"]]
    assert call("status").out.splitlines()[3].split() == [
        runs[0],
        "run0",
        "SUCCEEDED",
        "2026-03-01",
        "09:00:00",
        "7",
        "h",
        "00",
        "min",
    ]


def test_without_any_run_the_next_command_is_named(call: Call) -> None:
    assert "python -m pipelines submit" in call("status").out
