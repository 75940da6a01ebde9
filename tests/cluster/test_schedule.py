"""Schedules: pinned to a version, no catching up, one run at a time; listed, paused, resumed, deleted."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.schedule import PAGE
from tests.cluster.conftest import Ended, git
from tests.cluster.fake_server import FakeServer

pytestmark = pytest.mark.integration

Call = Callable[..., Ended]


@pytest.fixture
def scheduled(call: Call, checkout: Path) -> str:
    ended = call("schedule", "create", "--cron", "0 3 * * 1", "--name", "weekly")
    assert ended.code == 0, ended.err
    return ended.schedule_id


def test_a_schedule_is_pinned_to_the_version_and_neither_catches_up_nor_overlaps(
    scheduled: str, server: FakeServer
) -> None:
    schedule, (version,) = server.schedules[scheduled], server.versions.values()
    assert schedule.trigger.cron_schedule.cron == "0 0 3 * * 1"
    assert schedule.pipeline_version_reference.pipeline_version_id == version.pipeline_version_id
    assert schedule.no_catchup is True
    assert schedule.max_concurrency == "1" or schedule.max_concurrency == 1
    assert schedule.runtime_config.parameters["code_version"]


def test_a_schedule_stays_with_its_version_when_newer_ones_come(
    call: Call, checkout: Path, scheduled: str, server: FakeServer
) -> None:
    (pinned,) = server.versions.values()
    (checkout / "note").write_text("x")
    git(checkout, "add", "note")
    git(checkout, "commit", "--quiet", "--message", "A note")
    call("submit")
    assert len(server.versions) == 2
    listed = call("schedule", "list").out.splitlines()
    assert len(listed) == 2
    assert listed[1].split()[:3] == [scheduled, "weekly", "active"]
    assert pinned.display_name in listed[1]


def test_a_schedule_is_paused_resumed_and_deleted(call: Call, scheduled: str, server: FakeServer) -> None:
    assert call("schedule", "pause", scheduled).out == f"schedule {scheduled} is paused\n"
    assert server.schedules[scheduled].mode == "DISABLE"
    assert "paused" in call("schedule", "list").out
    assert call("schedule", "resume", scheduled).code == 0
    assert "active" in call("schedule", "list").out
    assert call("schedule", "delete", scheduled).code == 0
    assert server.schedules == {}
    assert "There are no schedules" in call("schedule", "list").out


@pytest.mark.parametrize("verb", ["pause", "resume", "delete"])
def test_an_unknown_schedule_is_one_line_with_code_11(call: Call, verb: str) -> None:
    ended = call("schedule", verb, "nobody")
    assert ended.code == 11
    assert ended.err.startswith("there is no schedule nobody")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("cron", ["3 * *", "every monday at three o clock", "0 0 3 * * 1 2026", "0 3 * * $"])
def test_what_is_no_cron_expression_is_refused_before_anything_is_sent(
    call: Call, checkout: Path, server: FakeServer, cron: str
) -> None:
    ended = call("schedule", "create", "--cron", cron)
    assert (ended.code, server.requests) == (2, [])
    assert "is not a cron expression" in ended.err


def test_every_page_of_schedules_is_listed(call: Call, scheduled: str, server: FakeServer) -> None:
    for number in range(PAGE):
        another = copy.copy(server.schedules[scheduled])
        another.recurring_run_id = f"more-{number:03d}"
        server.schedules[another.recurring_run_id] = another
    listed = call("schedule", "list").out
    assert scheduled in listed
    assert f"more-{PAGE - 1:03d}" in listed
