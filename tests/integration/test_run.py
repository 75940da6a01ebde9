"""The whole DAG on this machine, on the embedded data, from a checkout as a fresh clone has it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.settings import TASKS
from tests.integration.checkout import Checkout

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

TUNING = ("perceptual_feedback", "decoupled_feedback", "adversarial_feedback")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which the DAG has run once."""
    checkout = Checkout.copied(tmp_path_factory.mktemp("checkout"))
    ended = checkout.run()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return checkout


def latest(checkout: Checkout) -> tuple[Path, dict[str, Any]]:
    folder = checkout.folder / "runs" / "latest"
    return folder, json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def test_a_run_ends_with_every_step_recorded_and_its_cost_known(finished: Checkout) -> None:
    folder, summary = latest(finished)
    steps = {step["name"]: step for step in summary["steps"]}
    assert set(steps) == set(TASKS)
    for name, step in steps.items():
        statement = json.loads((folder / step["record"]).read_text(encoding="utf-8"))
        assert statement["predicate"]["buildDefinition"]["externalParameters"]["step"] == TASKS[name]
        assert step["cpu_seconds"] > 0
        for output in step["outputs"].values():
            assert (folder / output).exists()
    assert [steps[name]["metrics"]["updates"] for name in TUNING] == [2, 2, 2]
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")


def test_lineage_leads_from_the_last_model_to_the_data(finished: Checkout) -> None:
    shown = finished.python("-m", "unifl", "lineage", "verify", "runs/latest")
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_an_unchanged_run_takes_every_step_from_the_cache_in_less_than_30_seconds(finished: Checkout) -> None:
    started = time.monotonic()
    again = finished.run()
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Every step was cached" in again.stdout
    assert time.monotonic() - started < 30
    assert all(step["cached"] for step in latest(finished)[1]["steps"])


def test_a_changed_setting_reruns_its_step_and_what_depends_on_it(finished: Checkout) -> None:
    changed = finished.run("evaluation.resamples=11")
    assert changed.returncode == 0, changed.stdout + changed.stderr
    ran = {step["name"] for step in latest(finished)[1]["steps"] if not step["cached"]}
    assert ran == {"evaluation", "quality_gate"}


def test_a_failed_gate_ends_the_run_with_its_exit_code_and_one_line(finished: Checkout) -> None:
    failed = finished.run("quality_gate.rules=[{metric: kid, at_most: -1000000}]")
    assert failed.returncode == 6
    assert failed.stderr.startswith("quality_gate: ")
    assert failed.stderr.count("\n") == 1
    folder, summary = latest(finished)
    gate = next(step for step in summary["steps"] if step["name"] == "quality_gate")
    assert gate["outcome"] == "failed"
    assert "verdict" in gate["outputs"]
    assert (folder / "report.html").exists()


def test_all_wrong_settings_are_told_at_once_before_anything_starts(finished: Checkout) -> None:
    before = sorted((finished.folder / "runs").iterdir())
    refused = finished.run("decoupled_feedback.no_such=1", "evaluation.images=-1", "no_such_step.x=1")
    assert refused.returncode == 2
    for word in ("no_such is not a setting", "images", "no_such_step"):
        assert word in refused.stderr
    assert sorted((finished.folder / "runs").iterdir()) == before
