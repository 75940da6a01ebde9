"""`--placement`: what is sent to the cluster, what `status` makes of it, what is refused before anything is sent."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.conftest import Ended
from tests.cluster.fake_server import FakeServer

pytestmark = pytest.mark.integration

Call = Callable[..., Ended]


def test_a_submitted_placement_is_printed_and_its_gpus_are_priced(
    call: Call, checkout: Path, server: FakeServer
) -> None:
    cpu, spot = call("submit"), call("submit", "--placement", "gke-l4-spot")
    assert (spot.code, spot.err) == (0, "")
    assert "placement gke-l4-spot" in spot.out.splitlines()
    assert cpu.out.splitlines()[0] != spot.out.splitlines()[0], "another placement is another version"
    server.finish(spot.run_id)
    shown = call("status", spot.run_id).out
    # Eight training steps of half an hour, one L4 each.
    assert "4.00 GPU hours, about 2.84 USD" in shown


def test_a_schedule_and_a_rerun_take_a_placement(call: Call, checkout: Path, server: FakeServer) -> None:
    scheduled = call("schedule", "create", "--cron", "0 3 * * 1", "--placement", "gke-a100")
    assert (scheduled.code, scheduled.err) == (0, "")
    (version,) = server.versions.values()
    platform = version.pipeline_spec["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    labels = platform["exec-evaluation"]["nodeSelector"]["labels"]
    assert labels == {"cloud.google.com/gke-accelerator": "nvidia-a100-80gb"}
    past = call("submit")
    server.finish(past.run_id)
    again = call("rerun", past.run_id, "--from", "evaluation", "--placement", "gke-l4-spot")
    assert (again.code, again.err) == (0, "")
    assert "placement gke-l4-spot" in again.out.splitlines()


def test_a_wrong_placement_is_refused_before_anything_is_sent(
    call: Call, checkout: Path, server: FakeServer, tmp_path: Path
) -> None:
    unknown = call("submit", "--placement", "gke-l4-spto")
    assert (unknown.code, unknown.out) == (2, "")
    assert "did you mean gke-l4-spot?" in unknown.err
    (tmp_path / "mine.yaml").write_text("pools: {gpu: {gpu: nvidia-h1000-80gb, gpus: 1}}\n")
    wrong = call("submit", "--placement", tmp_path / "mine.yaml")
    assert wrong.code == 2
    assert "did you mean nvidia-h100-80gb?" in wrong.err
    assert len(wrong.err.splitlines()) == 1
    assert server.runs == {}
    assert server.requests == []
