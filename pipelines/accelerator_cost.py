"""What a step asked of accelerators, by the compiled pipeline, and what its time on them costs, by a table of prices.

An estimate: accelerators are paid while a node stands, not while a step runs. CPU and memory are not priced.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unifl.core.errors import SettingsError

PRICES = Path(__file__).parent / "accelerator_prices.yaml"
ACCELERATOR_LABELS = ("cloud.google.com/gke-accelerator", "nvidia.com/gpu.product")
"""Node selectors that name the kind of accelerator; the resource name alone (nvidia.com/gpu) does not."""


class Prices(BaseModel):
    """Prices of one accelerator for an hour, in one currency."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    currency: str = Field(default="USD", description="Currency of all prices.")
    per_hour: dict[str, float] = Field(description="Accelerator -> price of one of them for an hour.")


@dataclass(frozen=True)
class Accelerators:
    """What one step asked for: `kind` by the node selector, else by the resource name; `count` of them."""

    kind: str
    count: int


def read_prices(file: Path | None) -> Prices:
    """The project's prices, with those of `file` in their place where it names them.

    Raises SettingsError for a file that isn't a price table, or that has another currency.
    """
    known = _read(PRICES)
    if file is None:
        return known
    given = _read(file)
    if given.currency != known.currency:
        return given
    return Prices(currency=known.currency, per_hour={**known.per_hour, **given.per_hour})


def _read(file: Path) -> Prices:
    try:
        return Prices.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise SettingsError(
            f"this is not a table of prices: {what}",
            file=file,
            expected="currency: USD, and per_hour: {ACCELERATOR: PRICE}",
        ) from error


def requested(executor: str, spec: Mapping[str, Any], platform: Mapping[str, Any]) -> Accelerators | None:
    """What an executor of a compiled pipeline asks for; None without accelerators."""
    container = spec.get("deploymentSpec", {}).get("executors", {}).get(executor, {}).get("container", {})
    asked = container.get("resources", {}).get("accelerator")
    if not asked:
        return None
    kubernetes = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    labels = kubernetes.get(executor, {}).get("nodeSelector", {}).get("labels", {})
    kind = next((labels[label] for label in ACCELERATOR_LABELS if label in labels), None)
    resource = asked.get("resourceType") or asked.get("type") or "unknown accelerator"
    return Accelerators(kind or resource, int(float(asked.get("resourceCount") or asked.get("count") or 1)))
