"""DVC in a fresh clone: the inputs come from the embedded remote, the DAG runs by command line, and runs only once."""

import json
from pathlib import Path

import pytest
import yaml

from tests.integration.checkout import TINY, Checkout

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

INPUTS = ("images", "prompts.parquet", "preferences.parquet", "base_model", "segmenter", "judges", "scorer")


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A fresh checkout after `dvc pull`."""
    checkout = Checkout.copied(tmp_path_factory.mktemp("checkout"))
    ended = checkout.dvc("pull")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return checkout


@pytest.fixture(scope="module")
def reproduced(pulled: Checkout) -> Checkout:
    """The same, after the DAG has run once with settings of a few updates."""
    pipeline = pulled.folder / "dvc.yaml"
    text = pipeline.read_text(encoding="utf-8")
    pipeline.write_text(text.replace("pipelines/presets/embedded.yaml", TINY), encoding="utf-8")
    (pulled.folder / "dvc.lock").unlink(missing_ok=True)
    ended = pulled.dvc("repro")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return pulled


def locked(checkout: Checkout, stage: str) -> dict[str, str]:
    """Output path -> MD5 of a stage in dvc.lock."""
    stages = yaml.safe_load((checkout.folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {output["path"]: output["md5"] for output in stages[stage]["outs"]}


def test_pulling_restores_every_input_of_the_pipeline(pulled: Checkout) -> None:
    assert all((pulled.folder / "data" / name).exists() for name in INPUTS)


def test_the_default_remote_lies_in_the_repository_and_a_cloud_one_is_named(pulled: Checkout) -> None:
    listed = pulled.dvc("remote", "list").stdout
    assert "embedded" in listed
    assert "gs://" in listed
    assert pulled.dvc("remote", "default").stdout.strip() == "embedded"


def test_the_embedded_remote_is_small_enough_for_git() -> None:
    seed = Path(__file__).resolve().parents[2] / "data" / "seed"
    sizes = [file.stat().st_size for file in seed.rglob("*") if file.is_file()]
    assert sizes, "data/seed is empty: dvc push"
    assert sum(sizes) <= 40 * 2**20
    assert max(sizes) <= 15 * 2**20


def test_reproducing_runs_every_step_and_leaves_a_record_of_each(reproduced: Checkout) -> None:
    records = sorted((reproduced.folder / "runs" / "dvc").rglob("record.json"))
    steps = {
        json.loads(file.read_text())["predicate"]["buildDefinition"]["externalParameters"]["step"] for file in records
    }
    assert len(records) == 11
    assert {"reward_model", "adversarial_feedback", "quality_gate"} <= steps


def test_reproducing_again_has_nothing_to_do(reproduced: Checkout) -> None:
    again = reproduced.dvc("repro")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Running stage" not in again.stdout


def test_one_reward_model_made_again_has_the_locked_digest(reproduced: Checkout) -> None:
    model = "runs/dvc/reward_model/color/reward_model"
    before = locked(reproduced, "reward_model@color")
    again = reproduced.dvc("repro", "--force", "--single-item", "reward_model@color")
    assert "Running stage 'reward_model@color'" in again.stdout, again.stderr
    assert locked(reproduced, "reward_model@color") == before
    assert model in before


def test_pulling_again_asks_for_nothing_that_only_a_run_can_make(reproduced: Checkout) -> None:
    ended = reproduced.dvc("pull")
    assert ended.returncode == 0, ended.stdout + ended.stderr
