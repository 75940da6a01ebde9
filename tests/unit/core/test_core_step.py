"""The hook around steps, tried on a tiny real step: whole outputs, a record, named errors, checkpoints that survive."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from unifl.core.digest import code_version, sha256_path
from unifl.core.errors import (
    DataContractError,
    DivergenceError,
    GateFailed,
    ModelLoadError,
    SettingsError,
    StorageError,
    UniflError,
)
from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition, run_step


class CountSettings(StepSettings):
    seed: int = 3
    repository: str = "."
    fault: str = ""


COUNT = StepDefinition(
    name="count",
    summary="Count the letters of a text.",
    inputs={"text": "a text", "more": "another text"},
    outputs={"counts": "a folder", "note": "a file"},
    settings=CountSettings,
    optional_inputs=frozenset({"more"}),
)

FAULTS: dict[str, Exception] = {
    "model": ModelLoadError("no model"),
    "gate": GateFailed("too low", keep_outputs=True),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "float": FloatingPointError("overflow"),
    "defect": ZeroDivisionError("a defect"),
}


def count(inputs: Paths, outputs: Paths, settings: CountSettings, context: StepContext) -> Metrics:
    letters = inputs["text"].read_text()
    (context.checkpoints / "state").write_text(letters)
    outputs["counts"].mkdir()
    (outputs["counts"] / "letters.json").write_text(json.dumps({letter: letters.count(letter) for letter in letters}))
    if settings.fault == "nothing":
        return {}
    outputs["note"].write_text("counted")
    if settings.fault in FAULTS:
        raise FAULTS[settings.fault]
    if settings.fault == "interrupt":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    return {"letters": len(letters), "share": float("nan") if settings.fault == "nan" else 0.5}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    (tmp_path / "text").write_text("abba")
    return tmp_path


def run_count(place: Path, **settings: Any) -> Metrics:
    outputs = {"counts": place / "out" / "counts", "note": place / "out" / "note.txt"}
    metrics, record = place / "out" / "metrics.json", place / "out" / "record.json"
    return run_step(COUNT, count, {"text": place / "text"}, outputs, settings, metrics=metrics, record=record)


def left_behind(place: Path) -> list[str]:
    return sorted(os.listdir(place / "out")) if (place / "out").exists() else []


def checkpoints(place: Path) -> list[Path]:
    return list((place / "checkpoints").rglob("state"))


def test_a_step_leaves_outputs_metrics_and_record(place: Path) -> None:
    metrics = run_count(place)
    assert left_behind(place) == ["counts", "metrics.json", "note.txt", "record.json"]
    assert metrics == json.loads((place / "out" / "metrics.json").read_text()) == {"letters": 4, "share": 0.5}
    assert json.loads((place / "out" / "counts" / "letters.json").read_text()) == {"a": 2, "b": 2}
    assert checkpoints(place) == []


def test_the_record_is_slsa_provenance_with_subjects_and_materials_by_sha256(place: Path) -> None:
    run_count(place, seed=7)
    statement = json.loads((place / "out" / "record.json").read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]} == {
        "counts": sha256_path(place / "out" / "counts"),
        "note": sha256_path(place / "out" / "note.txt"),
    }
    build, run = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    assert build["externalParameters"] == {"step": "count", "settings": {"seed": 7, "repository": ".", "fault": ""}}
    (material,) = build["resolvedDependencies"]
    assert (material["name"], material["digest"]) == ("text", {"sha256": sha256_path(place / "text")})
    internal = build["internalParameters"]
    assert internal["seed"] == 7
    assert internal["code_version"] == code_version()
    assert {"commit", "dirty", "lock_sha256"} <= internal.keys()
    assert run["metrics"] == {"letters": 4, "share": 0.5}
    assert run["cpu_seconds"] >= 0
    assert run["metadata"]["finishedOn"].endswith("Z")


def test_the_record_tells_no_secret(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hunter2hunter2")
    run_count(place, repository="https://me:hunter2hunter2@example.org/data.git")
    record = (place / "out" / "record.json").read_text()
    assert "hunter2hunter2" not in record
    assert "https://***@example.org/data.git" in record


def test_the_record_lies_beside_the_first_output_when_no_place_is_given(place: Path) -> None:
    outputs = {"counts": place / "out" / "counts", "note": place / "out" / "note.txt"}
    run_step(COUNT, count, {"text": place / "text"}, outputs, None)
    assert left_behind(place) == ["counts", "counts.record.json", "note.txt"]


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("model", ModelLoadError, "count: no model"),
        ("disk", StorageError, "no space left"),
        ("float", DivergenceError, "not finite"),
        ("nan", DivergenceError, "share is not a finite number"),
        ("nothing", UniflError, "without writing its output note"),
        ("defect", ZeroDivisionError, "a defect"),
    ],
)
def test_a_failed_step_leaves_nothing_but_its_checkpoint(
    place: Path, fault: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        run_count(place, fault=fault)
    assert left_behind(place) == []
    assert len(checkpoints(place)) == 1


def test_a_failed_step_leaves_the_outputs_of_the_run_before(place: Path) -> None:
    run_count(place)
    before = {name: sha256_path(place / "out" / name) for name in left_behind(place)}
    with pytest.raises(ModelLoadError):
        run_count(place, fault="model")
    assert {name: sha256_path(place / "out" / name) for name in left_behind(place)} == before


def test_a_failed_gate_keeps_its_verdict_and_its_record_says_so(place: Path) -> None:
    with pytest.raises(GateFailed, match="count: too low"):
        run_count(place, fault="gate")
    assert left_behind(place) == ["counts", "metrics.json", "note.txt", "record.json"]
    run = json.loads((place / "out" / "record.json").read_text())["predicate"]["runDetails"]
    assert run["outcome"] == "GateFailed"


def test_sigterm_ends_a_step_like_ctrl_c_and_keeps_the_checkpoint(place: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_count(place, fault="interrupt")
    assert left_behind(place) == []
    assert len(checkpoints(place)) == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_checkpoint_folder_follows_settings_and_inputs(place: Path) -> None:
    for change in (lambda: None, lambda: None, lambda: (place / "text").write_text("other")):
        change()
        with pytest.raises(ModelLoadError):
            run_count(place, fault="model")
    with pytest.raises(ModelLoadError):
        run_count(place, fault="model", seed=9)
    assert len(checkpoints(place)) == 3


def test_checkpoints_that_nobody_came_back_to_are_forgotten(place: Path) -> None:
    for seed, days in ((1, 30), (2, 3)):
        with pytest.raises(ModelLoadError):
            run_count(place, fault="model", seed=seed)
        newest = max(checkpoints(place), key=lambda state: state.parent.stat().st_mtime).parent
        os.utime(newest, (time.time() - days * 86400,) * 2)
    assert len(checkpoints(place)) == 1
    with pytest.raises(ModelLoadError):
        run_count(place, fault="model", seed=3)
    assert len(checkpoints(place)) == 2


def test_a_missing_input_is_named_with_a_remedy(place: Path) -> None:
    (place / "text").unlink()
    with pytest.raises(DataContractError, match=r"count: the input text does not exist .*remedy"):
        run_count(place)


def test_wrong_names_and_settings_are_refused_before_anything_runs(place: Path) -> None:
    with pytest.raises(SettingsError, match="the input text is missing"):
        run_step(COUNT, count, {}, {"counts": place / "c", "note": place / "n"}, None)
    with pytest.raises(SettingsError, match="picture is not an input"):
        run_step(COUNT, count, {"picture": place}, {"counts": place / "c", "note": place / "n"}, None)
    with pytest.raises(SettingsError, match="count: a setting is wrong: sed is not a setting"):
        run_count(place, sed=1)
    assert not (place / "checkpoints").exists()


def test_the_commit_of_an_image_without_git_comes_from_the_environment(tmp_path: Path) -> None:
    package = Path(sys.modules["unifl"].__file__ or "").parent
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "unifl").symlink_to(package)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-rL", str(tmp_path / "site"), str(copy)], check=True)
    code = "from unifl.core.record import source_state; import json; print(json.dumps(source_state()))"
    environment = {**os.environ, "PYTHONPATH": str(copy), "UNIFL_COMMIT": "abc123"}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout) == {"commit": "abc123", "dirty": None, "lock_sha256": None}
