"""A run that is killed again and again, at random moments, ends with the metrics of one that nobody disturbed.

pytest -m slow tests/integration/test_kills.py                                     # a few updates a step, minutes
UNIFL_KILL_PRESET=demo pytest -m slow --timeout=7200 tests/integration/test_kills.py   # what `make demo` runs
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.checkout import TINY, Checkout

PRESET = os.environ.get("UNIFL_KILL_PRESET", TINY)
KILLS = 5
pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(3600)]


def metrics(checkout: Checkout) -> dict[str, dict[str, Any]]:
    """Metrics of each step of the last run."""
    summary = json.loads((checkout.folder / "runs" / "latest" / "summary.json").read_text(encoding="utf-8"))
    assert summary["error"] is None
    return {step["name"]: step["metrics"] for step in summary["steps"]}


def killed_after(checkout: Checkout, seconds: float, whole_group: bool) -> bool:
    """Start the run and kill it, alone or with all that it started; False when it had ended by itself before."""
    run = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "run", "--preset", PRESET],
        cwd=checkout.folder,
        env=checkout.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        if whole_group:
            os.killpg(run.pid, signal.SIGKILL)
        else:
            run.kill()
        run.wait()
        return True
    return False


def test_five_kills_at_random_moments_change_no_metric(tmp_path: Path) -> None:
    undisturbed = Checkout.copied(tmp_path / "undisturbed")
    began = time.monotonic()
    ended = undisturbed.python("-m", "pipelines", "run", "--preset", PRESET, timeout=3600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    wall = time.monotonic() - began

    disturbed = Checkout.copied(tmp_path / "disturbed")
    moments, kills = random.Random(0), 0
    while kills < KILLS:
        # On average a sixth of a run lies between two kills, so that most runs are struck five times before they end.
        seconds = moments.uniform(0.02, 0.3) * wall
        if killed_after(disturbed, seconds, whole_group=moments.random() < 0.5):
            kills += 1
            print(f"kill {kills} after {seconds:.0f} of about {wall:.0f} s")
        else:  # it ended before all kills were spent: once more from nothing
            shutil.rmtree(disturbed.folder / ".cache")
    last = disturbed.python("-m", "pipelines", "run", "--preset", PRESET, timeout=3600)
    assert last.returncode == 0, last.stdout + last.stderr
    assert metrics(disturbed) == metrics(undisturbed)
