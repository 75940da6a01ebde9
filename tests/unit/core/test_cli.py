"""The command line: fast help, options from definitions, one line and the documented exit code for every error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from unifl.cli import main
from unifl.steps import STEPS

EVALUATION = {
    "few_steps": 4,
    "full_steps": 20,
    "metric_info": {"kid": {"title": "KID", "better": "lower"}},
    "results": [
        {"model": model, "steps": 4, "metrics": {"kid": {"value": kid, "low": kid - 1, "high": kid + 1}}}
        for model, kid in (("base", 9.0), ("stage2", 5.0))
    ],
}


@pytest.fixture
def evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(EVALUATION))
    return file


def unifl(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_help_names_every_step_and_exit_code_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from unifl.cli import unifl; unifl.main(['--help'], standalone_mode=False);"
        "print([name for name in ('torch', 'pydantic', 'pandas', 'diffusers', 'yaml') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for step in STEPS:
        assert step in answer.stdout
    assert "130  interrupted" in answer.stdout
    assert answer.stdout.splitlines()[-1] == "[]"


def test_a_step_s_help_shows_inputs_outputs_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert unifl("resolve_data", "--help") == 0
    out = capsys.readouterr().out
    for part in ("--base-model", "--images", "revision = None", "--settings-json", "--record"):
        assert part in out


def test_a_step_runs_from_the_command_line(evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluation.parent
    arguments = (
        "quality_gate",
        "--evaluation",
        evaluation,
        "--verdict",
        folder / "v.json",
        "--metrics",
        folder / "m.json",
    )
    assert unifl(*arguments) == 0
    assert "passed = True" in capsys.readouterr().out
    assert json.loads((folder / "v.json").read_text())["passed"] is True
    assert json.loads((folder / "m.json").read_text()) == {"passed": True, "rules": 1}
    assert (folder / "v.json.record.json").is_file()


def test_settings_go_preset_then_json_then_overrides(evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluation.parent
    preset = folder / "p.yaml"
    preset.write_text("quality_gate: {rules: [{metric: kid, at_most: 1}]}")
    call = ("quality_gate", "--evaluation", evaluation, "--verdict", folder / "v.json", "--preset", preset)
    assert unifl(*call) == 6
    assert "at most 1" in capsys.readouterr().err
    assert unifl(*call, "--settings-json", '{"rules": [{"metric": "kid", "at_most": 2}]}') == 6
    assert "at most 2" in capsys.readouterr().err
    assert unifl(*call, "--set", "rules=[{metric: kid, at_most: 5}]") == 0


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ('{"rulez": []}', 2, "rulez is not a setting"),
        ('{"rules": [{"metric": "fid", "at_most": 1}]}', 3, "the evaluation has no fid of stage2"),
        ('{"rules": [{"metric": "kid", "at_most": 1}]}', 6, "1 of 1 rules failed"),
    ],
)
def test_an_error_is_one_line_with_its_exit_code(
    evaluation: Path, capsys: pytest.CaptureFixture[str], settings: str, code: int, words: str
) -> None:
    call = (
        "quality_gate",
        "--evaluation",
        evaluation,
        "--verdict",
        evaluation.parent / "v",
        "--settings-json",
        settings,
    )
    assert unifl(*call) == code
    err = capsys.readouterr().err
    assert err.startswith("unifl: quality_gate: ")
    assert words in err
    assert len(err.splitlines()) == 1


def test_debug_shows_the_traceback(evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ("quality_gate", "--evaluation", evaluation.parent / "none", "--verdict", evaluation.parent / "v", "--debug")
    assert unifl(*call) == 3
    assert "Traceback" in capsys.readouterr().err


def test_wrong_arguments_exit_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert unifl("no_such_step") == 2
    assert unifl("quality_gate") == 2
    assert "Missing option" in capsys.readouterr().err


def test_lineage_of_an_unknown_model_exits_with_seven(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a" / "b" / "model").mkdir(parents=True)
    assert unifl("lineage", "show", tmp_path / "a" / "b" / "model") == 7
    assert "no record has this model" in capsys.readouterr().err
