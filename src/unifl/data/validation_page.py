"""The outcome of data validation as one offline HTML page and as JSON, the same for the same data (no time, no host).

Great Expectations' own pages link to a CDN and are unstyled offline; the Kubeflow page and an air-gapped reader need
this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from unifl.data.validation import KINDS, Check


def verdict_json(checks: Sequence[Check]) -> dict[str, Any]:
    """{"passed", "checks", "errors", "warnings", "results": [every check with its examples]}."""
    return {
        "passed": not any(check.blocks for check in checks),
        "checks": len(checks),
        "errors": sum(check.blocks for check in checks),
        "warnings": sum(not check.passed and not check.blocks for check in checks),
        "results": [asdict(check) for check in checks],
    }


def validation_page(checks: Sequence[Check], facts: Mapping[str, str]) -> str:
    """The page: the verdict, failed checks with file and row, then everything that was checked; `facts` head it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("unifl.data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    failed = sorted((check for check in checks if not check.passed), key=lambda check: not check.blocks)
    return environment.get_template("validation.html.jinja").render(
        verdict=verdict_json(checks),
        failed=failed,
        kinds={kind: [check for check in checks if check.kind == kind] for kind in KINDS},
        facts=facts,
    )
