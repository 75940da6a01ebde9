"""Runs the study's trainings as `unifl STEP` does, each once for its settings and inputs, and knows what is finished.

A training lies in `FOLDER/<name>/<seed>` with its outputs, lineage record, metrics and log. Its stamp holds step,
settings and the SHA-256 of its inputs: a finished training is taken again while they agree, and a killed one goes on
from its checkpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.study.plan import Plan, Training
from unifl.core.digest import sha256_path
from unifl.core.errors import SettingsError, UniflError
from unifl.core.files import write_json_atomic
from unifl.core.settings import load_preset, validated
from unifl.core.step import step_definition

STAMP = "finished.json"


@dataclass(frozen=True)
class Trained:
    """A finished training: where its outputs lie, and the metrics of its step."""

    folder: Path
    metrics: Mapping[str, Any]

    def output(self, name: str) -> Path:
        return self.folder / name


class Trainings:
    """All trainings of a plan below one folder."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self._digests: dict[Path, str] = {}

    def ensure(self, name: str, seed: int) -> Trained:
        """Train `name` if it isn't finished; what it needs must be. Raises UniflError with the end of its log."""
        training = self.plan.trainings[name]
        folder = self.place(name, seed)
        settings = self._settings(training, seed)
        inputs = {key: self._path(address, seed) for key, address in training.inputs.items()}
        stamp = {
            "step": training.step,
            "settings": settings,
            "inputs": {key: self._digest(path) for key, path in sorted(inputs.items())},
        }
        if not self.finished(folder, stamp):
            self._run(training, folder, settings, inputs)
            write_json_atomic(folder / STAMP, stamp)
        return Trained(folder, json.loads((folder / "metrics.json").read_text(encoding="utf-8")))

    @staticmethod
    def finished(folder: Path, stamp: Mapping[str, Any]) -> bool:
        """Whether the folder holds what the stamp describes."""
        try:
            return bool(json.loads((folder / STAMP).read_text(encoding="utf-8")) == stamp)
        except (OSError, ValueError):
            return False

    def place(self, name: str, seed: int) -> Path:
        """The folder of a training; those without a seed have one for all."""
        return self.folder / name / (str(seed) if self.plan.trainings[name].seeded else "all")

    def model(self, model: str, seed: int) -> Path | None:
        """The tuned model folder of a model of the plan; None for the base."""
        name = self.plan.models[model].training
        return None if name is None else self.place(name, seed) / self.plan.trainings[name].output

    def _settings(self, training: Training, seed: int) -> dict[str, Any]:
        step = training.step
        settings: dict[str, Any] = {}
        if training.preset is not None:
            settings = load_preset(training.preset, [step])[step].model_dump(mode="json")
        settings |= training.settings | ({"seed": seed} if training.seeded else {})
        return validated(step_definition(step).settings, settings, step=step).model_dump(mode="json")

    def _path(self, address: str, seed: int) -> Path:
        if not address.startswith("@"):
            return Path(address)
        name, _, output = address[1:].partition(".")
        return self.place(name, seed) / (output or self.plan.trainings[name].output)

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            if not path.exists():
                raise SettingsError("an input of the study is missing", file=path, remedy="`dvc pull` brings the data")
            self._digests[path] = sha256_path(path)
        return self._digests[path]

    def _run(self, training: Training, folder: Path, settings: dict[str, Any], inputs: Mapping[str, Path]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STAMP).unlink(missing_ok=True)
        outputs = {name: folder / name for name in step_definition(training.step).outputs}
        for path in outputs.values():
            self._digests.pop(path, None)
        files = [part for name, path in (inputs | outputs).items() for part in (f"--{name}", str(path))]
        command = [
            sys.executable, "-m", "unifl", training.step, *files, "--settings-json", json.dumps(settings),
            "--metrics", str(folder / "metrics.json"), "--record", str(folder / "record.json"),
        ]  # fmt: skip
        log = folder / "log.txt"
        with open(log, "a", encoding="utf-8") as stream:
            ended = subprocess.run(command, stdout=stream, stderr=stream, env=self._environment, check=False)
        if ended.returncode:
            lines = log.read_text(encoding="utf-8").splitlines()[-3:]
            raise UniflError(
                f"{training.step} ended with code {ended.returncode}: {' '.join(lines)}",
                file=log,
                remedy="mend it and start the study again: it goes on from what is finished",
            )

    @cached_property
    def _environment(self) -> dict[str, str]:
        # Digests of tuned models follow from the number of threads; one is what every machine has.
        return {**os.environ, "OMP_NUM_THREADS": "1"}
