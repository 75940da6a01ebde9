"""Settings of steps: frozen pydantic models, filled from presets, overrides and JSON, all mistakes reported at once.

Presets (`pipelines/presets/<name>.yaml`) are the only place for settings: a mapping from step name to that step's
settings. The command line, the DAG and DVC read the same file. Beside the steps a preset may hold `description` (text)
and `pipeline` (a mapping that belongs to the DAG, not to a step).
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from unifl.core.errors import SettingsError

PRESET_FOLDER = Path("pipelines", "presets")
PRESET_FOLDER_VARIABLE = "UNIFL_PRESETS"
RESERVED_KEYS = frozenset({"description", "pipeline"})
"""Top-level keys of a preset that are not steps."""


class StepSettings(BaseModel):
    """Base of every step's settings: unchangeable once made, unknown names are errors, NaN is refused.

    Give each default its source (paper section, issue, measurement) in `Field(description=...)` or the docstring.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


SettingsType = TypeVar("SettingsType", bound=StepSettings)


def settings_json(settings: StepSettings) -> str:
    """Settings as canonical JSON (sorted keys, no spaces): the parameter of a component and a part of cache keys."""
    return json.dumps(settings.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def validated(
    settings_type: type[SettingsType],
    raw: Mapping[str, Any] | str | StepSettings | None,
    *,
    step: str | None = None,
) -> SettingsType:
    """Settings of one step from a mapping, a JSON string or a settings object; None means all defaults.

    Raises SettingsError that names every wrong setting, with the value that was given.
    """
    if isinstance(raw, settings_type):
        return raw
    if isinstance(raw, StepSettings):
        raw = raw.model_dump(mode="json")
    values = parsed_json(raw, step=step) if isinstance(raw, str) else dict(raw or {})
    try:
        return settings_type.model_validate(values)
    except ValidationError as error:
        raise _settings_error(mistakes(error, settings_type), step=step) from error


def parsed_json(text: str, *, step: str | None = None) -> dict[str, Any]:
    """A JSON object as a dictionary. Raises SettingsError when `text` isn't one."""
    try:
        values = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise SettingsError(f"the settings are not JSON: {error}", step=step) from error
    if not isinstance(values, dict):
        raise SettingsError("the settings are not a JSON object", step=step, expected='for example {"seed": 0}')
    return values


def settings_with(text: str, **more: Any) -> str:
    """Settings as JSON with `more` put in: what a component knows only when it runs. What is no JSON object stays as it
    is, for the check of the settings to refuse."""
    try:
        return json.dumps({**parsed_json(text), **more})
    except SettingsError:
        return text


def mistakes(error: ValidationError, settings_type: type[StepSettings], prefix: str = "") -> list[str]:
    """Every mistake that pydantic found, as words: unknown names with the nearest valid one, wrong values as given."""
    found = []
    for item in error.errors(include_url=False):
        name = prefix + ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            valid = _fields(settings_type, item["loc"][:-1])
            found.append(f"{name} is not a setting{did_you_mean(str(item['loc'][-1]), valid)}")
        elif item["type"] == "missing":
            found.append(f"{name} is missing")
        elif isinstance(item["input"], Mapping | StepSettings):
            found.append(f"{name}: {item['msg']}" if name else item["msg"])
        else:
            found.append(f"{name}: {item['msg']} (given {item['input']!r})")
    return found


def did_you_mean(given: str, valid: Iterable[str]) -> str:
    """` (did you mean <the nearest of valid>?)`, or nothing when none is near."""
    nearest = difflib.get_close_matches(given, list(valid), n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def _fields(settings_type: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Names of the settings at `location` inside `settings_type`; none where that is not a model of its own."""
    model, in_mapping = settings_type, False
    for part in location:
        if isinstance(part, int) or in_mapping:
            in_mapping = False
            continue
        field = model.model_fields.get(part)
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_model(kind)] if field else []
        if not inner:
            return []
        model = inner[0]
        in_mapping = field is not None and get_origin(field.annotation) is dict
    return list(model.model_fields)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _settings_error(
    found: Sequence[str],
    *,
    step: str | None = None,
    file: Path | None = None,
) -> SettingsError:
    count = f"{len(found)} settings are" if len(found) > 1 else "a setting is"
    named = f"unifl {step} --help" if step else "unifl STEP --help"
    message = f"{count} wrong: {'; '.join(found)}"
    return SettingsError(message, step=step, file=file, remedy=f"`{named}` lists the settings")


def apply_overrides(settings: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `settings` with overrides like `optimiser.learning_rate=1e-5` put in; values are read as YAML.

    Raises SettingsError that names every override without `=`, with a broken value or through something that isn't a
    mapping.
    """
    import yaml

    changed: dict[str, Any] = json.loads(json.dumps(dict(settings)))
    wrong = []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            wrong.append(f"override {override!r} is not of the form name=value")
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            wrong.append(f"override {override!r}: the value is not YAML")
            continue
        target: Any = changed
        for key in keys[:-1]:
            target = target.setdefault(key, {}) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            wrong.append(f"override {override!r} goes through something that holds no settings")
            continue
        target[keys[-1]] = value
    if wrong:
        raise _settings_error(wrong)
    return changed


def preset_folders() -> list[Path]:
    """Where presets are looked for by name: $UNIFL_PRESETS, then `pipelines/presets` of the working folder and of its
    parents, then of the checkout that holds this source."""
    folders = []
    if variable := os.environ.get(PRESET_FOLDER_VARIABLE):
        folders.append(Path(variable))
    here = Path.cwd()
    folders += [folder / PRESET_FOLDER for folder in (here, *here.parents)]
    folders.append(Path(__file__).resolve().parents[3] / PRESET_FOLDER)
    found: list[Path] = []
    for folder in folders:
        if folder.is_dir() and folder.resolve() not in found:
            found.append(folder.resolve())
    return found


def presets() -> dict[str, Path]:
    """Every preset that can be called by name: name -> file, the first folder winning."""
    found: dict[str, Path] = {}
    for folder in preset_folders():
        for file in sorted(folder.glob("*.yaml")):
            found.setdefault(file.stem, file)
    return found


def preset_file(path_or_name: str | Path) -> Path:
    """The file of a preset given by name (`demo`) or by path (`my/preset.yaml`). Raises SettingsError when there is
    none."""
    path = Path(path_or_name)
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        if not path.is_file():
            raise SettingsError("the preset does not exist", file=path)
        return path
    named = presets()
    if str(path_or_name) not in named:
        raise SettingsError(
            f"no preset is called {str(path_or_name)!r}",
            expected=f"one of {', '.join(named)}" if named else f"a file below {PRESET_FOLDER}",
            remedy=f"give a path to a .yaml file, work in a checkout, or set {PRESET_FOLDER_VARIABLE}",
        )
    return named[str(path_or_name)]


def read_preset(path_or_name: str | Path) -> dict[str, Any]:
    """The preset as it is written, not yet checked against the steps. Raises SettingsError for broken YAML."""
    import yaml

    file = preset_file(path_or_name)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"the preset is not YAML: {error}", file=file) from error
    if not isinstance(content, dict):
        raise SettingsError("the preset is not a mapping from step to settings", file=file)
    return cast(dict[str, Any], content)


def load_preset(path_or_name: str | Path, steps: Sequence[str] = ()) -> dict[str, StepSettings]:
    """The settings of every step that the preset names; steps in `steps` that it doesn't name take their defaults.

    Raises one SettingsError with all mistakes of the whole file, before anything heavy is imported.
    """
    from unifl.core.step import step_definition

    file = preset_file(path_or_name)
    content = read_preset(path_or_name)
    raw: dict[str, Any] = {name: content[name] for name in content if name not in RESERVED_KEYS}
    for name in steps:
        raw.setdefault(name, {})
    wrong: list[str] = []
    loaded: dict[str, StepSettings] = {}
    for name, values in raw.items():
        if values is not None and not isinstance(values, dict):
            wrong.append(f"{name} is not a mapping of settings")
            continue
        try:
            settings_type = step_definition(name).settings
            loaded[name] = settings_type.model_validate(values or {})
        except SettingsError as error:
            wrong.append(error.message)
        except ValidationError as error:
            wrong += mistakes(error, settings_type, prefix=f"{name}.")
    if wrong:
        raise _settings_error(wrong, file=file)
    return loaded
