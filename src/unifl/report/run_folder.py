"""Reads what a run left behind (summary.json and the outputs that it names) for the report, the last thing that a
run writes.

A run may have stopped half-way, so every reader here returns either the content or a `Missing` with the reason,
which the page prints in the section concerned. It never invents a value. No section of arXiv 2404.05595: this is the
pipeline's own bookkeeping.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unifl.core.errors import DataContractError

Content = TypeVar("Content")


@dataclass(frozen=True)
class Missing:
    """Why a part of the report has nothing to show, in one sentence."""

    reason: str


def or_missing(build: Callable[[], Content], subject: str) -> Content | Missing:
    """What `build` returns, or the reason why the files behind it cannot be shown.

    A file that another version of a step wrote must not cost a finished run its whole report.
    """
    try:
        return build()
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        return Missing(f"{subject} does not have the expected form ({type(error).__name__}: {error}).")


@dataclass(frozen=True)
class RunFolder:
    """A run's folder with its summary, as `pipelines` writes it: {id, preset, started, steps: [{name, cached,
    ...}]}."""

    path: Path
    summary: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Reads summary.json; raises DataContractError when it is absent or no JSON object, because then there is no
        run to report on."""
        file = path / "summary.json"
        remedy = "finish a run with `make demo`, or give the folder of another run"
        try:
            summary = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataContractError(
                f"cannot read the run's summary: {error}", step="report", file=file, remedy=remedy
            ) from error
        if not isinstance(summary, dict) or not isinstance(summary.get("steps"), list):
            raise DataContractError(
                "the run's summary has no list of steps",
                step="report",
                file=file,
                expected="an object with id, preset, steps",
                remedy=remedy,
            )
        return cls(path, summary)

    @property
    def steps(self) -> list[dict[str, Any]]:
        return list(self.summary["steps"])

    def step(self, name: str) -> dict[str, Any] | Missing:
        found = next((step for step in self.steps if step["name"] == name), None)
        return found if found is not None else Missing(f"The step {name} has not run in this run.")

    def output(self, step_name: str, output_name: str) -> Path | Missing:
        """Where a step's output lies; relative paths in the summary start at the run's folder."""
        step = self.step(step_name)
        if isinstance(step, Missing):
            return step
        written = (step.get("outputs") or {}).get(output_name)
        if not written and step.get("outcome") == "failed":
            return Missing(f"The step {step_name} failed.")
        if not written:
            return Missing(f"The step {step_name} names no output {output_name}.")
        path = self.path / written
        return (
            path if path.exists() else Missing(f"The output {output_name} of {step_name} is not at {written} any more.")
        )

    def json(self, step_name: str, output_name: str, member: str = "") -> dict[str, Any] | Missing:
        """A JSON output, or the JSON file `member` in an output folder."""
        found = self.output(step_name, output_name)
        return found if isinstance(found, Missing) else read_json(found / member if member else found)

    def link(self, step_name: str, output_name: str) -> str:
        """The address of an output as report.html links it; an empty string when there is no such file in the run."""
        found = self.output(step_name, output_name)
        return "" if isinstance(found, Missing) else self.relative(str(found.relative_to(self.path)))

    def relative(self, path: str) -> str:
        """A link from report.html to `path`, when that lies in the run's folder; else an empty string."""
        inside = Path(path)
        if inside.is_absolute() or ".." in inside.parts or not (self.path / inside).exists():
            return ""
        return inside.as_posix()


def read_json(path: Path) -> dict[str, Any] | Missing:
    """The JSON object in `path`, or why there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return Missing(f"{path.name} cannot be read: {error.strerror}.")
    except ValueError as error:
        return Missing(f"{path.name} is not valid JSON: {error}.")
    return content if isinstance(content, dict) else Missing(f"{path.name} holds no JSON object.")


def read_json_lines(path: Path) -> list[dict[str, Any]] | Missing:
    """The JSON objects of `path`, one a line. A last line cut short by an interruption is left out; any other bad
    line is a reason."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        return Missing(f"{path.name} cannot be read: {error.strerror}.")
    rows = []
    for index, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if index == len(lines) - 1:
                break
            return Missing(f"{path.name}, line {index + 1}, is not valid JSON.")
    return rows or Missing(f"{path.name} holds no updates.")
