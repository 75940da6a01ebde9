"""The over-optimization guard: stops a tuning whose pictures get worse while what it trains on gets better.

Every few updates, examiners that training never sees score the pictures of a fixed prompt set. When the distance to
real images has grown, or the judges' mean has fallen, beyond the 95 % interval of the paired difference from the best
inspection, the engine stops and goes back to the best weights. Rewards can be hacked (arXiv 2404.05595, section on
adversarial feedback, sees it within a few steps), and a loss curve alone does not show it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from unifl.core.files import atomic_path, write_json_atomic
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.evaluation.metrics import Draws
from unifl.feedback.parameters import TrainableParameters

SUMMARY_NAME = "guard.json"
_STATE, _BEST = "inspections.json", "best.safetensors"


@dataclass(frozen=True)
class Findings:
    """What the examiners say of one model: KID x 1,000 (lower is better) and the judges' mean (higher is better).

    The draws of all inspections use the same resamples, so that two of them can be subtracted.
    """

    kid: Draws
    judges: Draws


@dataclass(frozen=True)
class Inspection:
    """The findings after ``update`` updates; ``worse`` says in words what fell against the best one, or is empty."""

    update: int
    findings: Findings
    worse: str = ""

    def summary(self) -> dict[str, Any]:
        """The figures with their intervals, as JSON takes them."""
        kid, judges = self.findings.kid.estimate().as_dict(), self.findings.judges.estimate().as_dict()
        return {"update": self.update, "kid": kid, "judges": judges, "worse": self.worse}


class Guard:
    """Inspects a training every ``every`` updates and remembers its best weights, across kills.

    ``examine`` gives the findings for the model as it stands; ``folder`` belongs to this run alone.
    """

    def __init__(self, examine: Callable[[DiffusionAdapter], Findings], every: int, folder: Path) -> None:
        self.every = every
        self.folder = folder
        self._examine = examine
        self.inspections: list[Inspection] = self._restored()

    def due(self, update: int, last: int) -> bool:
        """Whether the model is to be inspected after ``update`` of ``last`` updates; 0 is before the first."""
        return update % self.every == 0 or update == last

    @property
    def best(self) -> Inspection:
        """The inspection with the lowest KID. Raises IndexError before the first."""
        return min(self.inspections, key=lambda one: one.findings.kid.value)

    @property
    def stopped(self) -> Inspection | None:
        """The inspection that ended the training, if one has."""
        return next((one for one in self.inspections if one.worse), None)

    def inspect(self, update: int, adapter: DiffusionAdapter, parameters: TrainableParameters) -> Inspection:
        """Examine the averaged weights, which are those that would be saved; keep them if they are the best so far.

        A run that goes on from an earlier checkpoint finds its inspections here and does not make them twice.
        """
        known = next((one for one in self.inspections if one.update == update), None)
        if known is not None:
            return known
        with parameters.averaged():
            findings = self._examine(adapter)
        found = Inspection(update, findings, _worse(findings, self.best.findings) if self.inspections else "")
        if not self.inspections or findings.kid.value < self.best.findings.kid.value:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.folder / _BEST) as partial:
                save_file({name: value.contiguous() for name, value in parameters.state().items()}, partial)
        self.inspections.append(found)
        self._save()
        return found

    def recall(self, update: int) -> Inspection:
        """The inspection after ``update`` updates, which this or another process has made."""
        if all(one.update != update for one in self.inspections):
            self.inspections = self._restored()
        return next(one for one in self.inspections if one.update == update)

    def roll_back(self, parameters: TrainableParameters) -> None:
        """Put the best inspection's weights back."""
        parameters.restore(load_file(self.folder / _BEST))

    def summary(self) -> dict[str, Any]:
        """What a report says: every inspection, the update that ended the training, the one whose weights are kept."""
        stopped = self.stopped
        kept = self.best.update if stopped else self.inspections[-1].update
        return {
            "every": self.every,
            "stopped_at": stopped.update if stopped else None,
            "kept_update": kept,
            "inspections": [one.summary() for one in self.inspections],
        }

    def _save(self) -> None:
        rows = [
            {
                "update": one.update,
                "worse": one.worse,
                **{
                    name: {"value": draws.value, "draws": draws.draws.tolist()}
                    for name, draws in (("kid", one.findings.kid), ("judges", one.findings.judges))
                },
            }
            for one in self.inspections
        ]
        write_json_atomic(self.folder / _STATE, rows)

    def _restored(self) -> list[Inspection]:
        path = self.folder / _STATE
        if not path.exists():
            return []

        def draws(entry: dict[str, Any]) -> Draws:
            return Draws(float(entry["value"]), np.array(entry["draws"], np.float64))

        return [
            Inspection(int(row["update"]), Findings(draws(row["kid"]), draws(row["judges"])), row["worse"])
            for row in json.loads(path.read_text(encoding="utf-8"))
        ]


def _worse(now: Findings, best: Findings) -> str:
    """In words, what is worse than at the best inspection beyond the interval of the paired difference."""
    kid, judges = now.kid.minus(best.kid), now.judges.minus(best.judges)
    fallen = []
    if kid.low > 0:
        fallen.append(f"KID rose by {kid.value:.0f} [{kid.low:.0f}, {kid.high:.0f}]")
    if judges.high < 0:
        fallen.append(f"the judges' mean fell by {-judges.value:.2f} [{-judges.high:.2f}, {-judges.low:.2f}]")
    return " and ".join(fallen)
