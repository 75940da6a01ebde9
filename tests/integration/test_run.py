"""The whole DAG on this machine, on the embedded data, from a checkout as a fresh clone has it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.local_cache import CACHE, alone
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


def test_outputs_that_no_recent_run_refers_to_can_be_removed_and_no_others(finished: Checkout) -> None:
    changed = finished.run("evaluation.resamples=12")
    assert changed.returncode == 0, changed.stdout + changed.stderr
    old, _ = latest(finished)
    old = old.resolve()
    outputs = [output.resolve() for output in (old / "outputs" / "evaluation").iterdir()]
    for _ in range(3):
        again = finished.run()
        assert again.returncode == 0, again.stdout + again.stderr

    kept = finished.python("-m", "pipelines", "prune")
    assert (kept.returncode, kept.stdout) == (0, "freed 0.0 MiB: the outputs of 0 steps\n"), kept.stderr
    for dry_run in (["--dry-run"], []):
        assert all(output.exists() for output in outputs)
        pruned = finished.python("-m", "pipelines", "prune", "--older-than", "0h", *dry_run)
        assert pruned.returncode == 0, pruned.stderr
        lines = pruned.stdout.splitlines()
        assert any("/evaluation " in line and old.name in line for line in lines)
        assert lines[-1].startswith("would free" if dry_run else "freed")
        # Only what this run and the others with a changed or failed gate made for themselves.
        assert all("/evaluation " in line or "/quality-gate " in line for line in lines[:-1])
    assert not any(output.exists() for output in outputs)
    assert (old / "report.html").exists()

    again = finished.run()
    assert "Every step was cached" in again.stdout, again.stdout + again.stderr
    verified = finished.python("-m", "unifl", "lineage", "verify", "runs/latest")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    made_again = finished.run("evaluation.resamples=12")
    assert made_again.returncode == 0, made_again.stdout + made_again.stderr
    assert {step["name"] for step in latest(finished)[1]["steps"] if not step["cached"]} == {
        "evaluation",
        "quality_gate",
    }


def test_nothing_is_removed_while_a_run_goes_on(finished: Checkout) -> None:
    with alone(finished.folder / CACHE):
        refused = finished.python("-m", "pipelines", "prune", "--older-than", "0h")
    assert refused.returncode == 2
    assert "another run is going on" in refused.stderr


@pytest.mark.parametrize("age", ["14", "d", "-3d", "2w"])
def test_a_wrong_age_is_refused(finished: Checkout, age: str) -> None:
    refused = finished.python("-m", "pipelines", "prune", f"--older-than={age}")
    assert refused.returncode == 2
    assert "expected days or hours" in refused.stderr


def test_all_wrong_settings_are_told_at_once_before_anything_starts(finished: Checkout) -> None:
    before = sorted((finished.folder / "runs").iterdir())
    refused = finished.run("decoupled_feedback.no_such=1", "evaluation.images=-1", "no_such_step.x=1")
    assert refused.returncode == 2
    for word in ("no_such is not a setting", "images", "no_such_step"):
        assert word in refused.stderr
    assert sorted((finished.folder / "runs").iterdir()) == before
