"""Settings: frozen, strict about names, all mistakes of a preset told at once."""

import json
from pathlib import Path

import pytest
from pydantic import Field

from unifl.core.errors import SettingsError
from unifl.core.settings import (
    StepSettings,
    apply_overrides,
    load_preset,
    presets,
    settings_json,
    settings_with,
    validated,
)


class Optimiser(StepSettings):
    learning_rate: float = Field(default=1e-5, gt=0)


class Tuning(StepSettings):
    updates: int = Field(default=10, ge=1)
    optimiser: Optimiser = Optimiser()


def test_settings_come_from_a_mapping_json_or_an_object_alike() -> None:
    expected = Tuning(updates=3)
    assert validated(Tuning, {"updates": 3}) == expected
    assert validated(Tuning, '{"updates": 3}') == expected
    assert validated(Tuning, expected) is expected
    assert validated(Tuning, None) == Tuning()
    assert validated(Tuning, settings_json(expected)) == expected


def test_a_number_that_json_made_a_float_is_a_whole_number_again() -> None:
    assert validated(Tuning, {"updates": 3.0}).updates == 3


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        validated(Tuning, {"updates": 0, "optimiser": {"learning_rate": float("inf")}, "lr": 1}, step="tuning")
    line = str(caught.value)
    assert line.startswith("tuning: 3 settings are wrong")
    for part in ("updates", "optimiser.learning_rate", "lr is not a setting"):
        assert part in line


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_settings_that_are_no_json_object_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="JSON"):
        validated(Tuning, text)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Tuning().updates = 5  # type: ignore[misc]


def test_overrides_reach_nested_settings_and_leave_the_original_alone() -> None:
    original = {"optimiser": {"learning_rate": 1.0}, "updates": 1}
    changed = apply_overrides(original, ["optimiser.learning_rate=1e-4", "updates=7", "axis=color", "k=null"])
    assert changed == {"optimiser": {"learning_rate": "1e-4"}, "updates": 7, "axis": "color", "k": None}
    assert original == {"optimiser": {"learning_rate": 1.0}, "updates": 1}
    assert validated(Optimiser, changed["optimiser"]).learning_rate == 1e-4


def test_all_broken_overrides_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        apply_overrides({"updates": 3}, ["updates", "updates.a=1", "x={", ".=1"])
    assert str(caught.value).startswith("4 settings are wrong")


def test_a_preset_is_found_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("description: a test\npipeline: {joint: true}\nresolve_data: {revision: abc}\nvalidate_data:\n")
    monkeypatch.setenv("UNIFL_PRESETS", str(tmp_path))
    assert presets()["mine"] == file
    for spelling in (file, "mine"):
        loaded = load_preset(spelling, ["quality_gate"])
        assert set(loaded) == {"resolve_data", "validate_data", "quality_gate"}
        assert json.loads(settings_json(loaded["resolve_data"]))["revision"] == "abc"


def test_all_mistakes_of_a_preset_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("resolve_date: {}\nresolve_data: {repo: x, revision: [1]}\nquality_gate: 3\n")
    with pytest.raises(SettingsError) as caught:
        load_preset(file)
    line = str(caught.value)
    assert "4 settings are wrong" in line
    for part in (
        "'resolve_date'",
        "resolve_data.repo is not a setting",
        "resolve_data.revision",
        "quality_gate is not a",
    ):
        assert part in line


@pytest.mark.parametrize(("text", "message"), [("a: [", "not YAML"), ("- a", "not a mapping")])
def test_a_broken_preset_is_a_settings_error(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=message):
        load_preset(file)


def test_an_unknown_preset_is_answered_with_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("{}")
    monkeypatch.setenv("UNIFL_PRESETS", str(tmp_path))
    with pytest.raises(SettingsError, match="mine"):
        load_preset("yours")
    with pytest.raises(SettingsError, match="does not exist"):
        load_preset(tmp_path / "yours.yaml")


def test_more_is_put_into_json_and_what_is_no_json_is_left_for_the_check_to_refuse() -> None:
    assert validated(Tuning, settings_with('{"updates": 3}', optimiser={"learning_rate": 1e-4})).updates == 3
    assert json.loads(settings_with("", updates=4)) == {"updates": 4}
    assert settings_with("{", updates=4) == "{"
