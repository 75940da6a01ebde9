"""Builds the report of a run: one HTML file without scripts, links to the outside or files beside it.

The last thing a run writes, for the data scientist who asks whether the tuned model is better and what it took
(arXiv 2404.05595 §4). The evaluation step uses the same templates for its own page.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import unifl
from unifl.core.errors import DataContractError
from unifl.core.files import atomic_path
from unifl.core.progress import duration
from unifl.report import bookkeeping, figures, training
from unifl.report.pictures import picture_table
from unifl.report.rewards import rewards
from unifl.report.run_folder import Missing, RunFolder, or_missing
from unifl.report.scores import Evaluation, number, read_evaluation
from unifl.report.verdict import claims, side_effects

REPORT_NAME = "report.html"


def write_report(run_folder: Path) -> Path:
    """Writes `run_folder`/report.html from summary.json and the outputs it names, and returns its path.

    A step that has not run, or a file that is gone, becomes a sentence in its section. Raises DataContractError when
    there is no summary.
    """
    run = RunFolder.open(run_folder)
    evaluation = run.json("evaluation", "evaluation")
    samples = run.output("evaluation", "samples")
    page = _template("report.html.jinja").render(
        run=run.summary,
        steps=bookkeeping.steps(run),
        tuning=training.tuning(run),
        rewards=rewards(run),
        prompts=or_missing(partial(training.prompts, run), "The description of the curation"),
        data=or_missing(partial(training.data, run), "The data set"),
        gate=run.json("quality_gate", "verdict"),
        validation=run.json("validate_data", "verdict"),
        pages={name: run.link(name, "report") for name in ("validate_data", "evaluation")},
        lineage=or_missing(partial(bookkeeping.lineage, run), "A record"),
        **_evaluation_view(_read(evaluation), samples),
    )
    report = run_folder / REPORT_NAME
    with atomic_path(report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return report


def evaluation_page(evaluation: Mapping[str, Any], samples_folder: Path) -> str:
    """The evaluation step's own page: headline, metrics and sample pictures, as one HTML document."""
    return _template("evaluation.html.jinja").render(**_evaluation_view(read_evaluation(evaluation), samples_folder))


def _read(evaluation: Mapping[str, Any] | Missing) -> Evaluation | Missing:
    if isinstance(evaluation, Missing):
        return evaluation
    try:
        return read_evaluation(evaluation)
    except DataContractError as error:
        return Missing(f"{error}.")


def _evaluation_view(evaluation: Evaluation | Missing, samples: Path | Missing) -> dict[str, Any]:
    """What the templates' shared parts show of an evaluation and its pictures."""
    pictures = samples if isinstance(samples, Missing) else or_missing(partial(picture_table, samples), "samples.json")
    view: dict[str, Any] = {"evaluation": evaluation, "pictures": pictures}
    if isinstance(evaluation, Missing):
        return view | {"claims": [], "side_effects": [], "chart": None, "best": {}}
    chart = None
    if evaluation.metrics and evaluation.rows:
        leading = evaluation.metrics[0]
        chart = figures.interval_chart(evaluation.rows, leading, evaluation.floor.get(leading.key))
    told = {"claims": claims(evaluation), "side_effects": side_effects(evaluation)}
    return view | told | {"chart": chart, "best": _best(evaluation)}


def _best(evaluation: Evaluation) -> dict[str, float]:
    """The best value of each metric over all rows, which the table prints in bold."""
    best = {}
    for metric in evaluation.metrics:
        values = [row.scores[metric.key].value for row in evaluation.rows if metric.key in row.scores]
        if values:
            best[metric.key] = min(values) if metric.lower_is_better else max(values)
    return best


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("unifl.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["moment"] = _moment
    environment.filters["duration"] = duration
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    loader = environment.loader
    assert loader is not None
    environment.globals["style"] = Markup(loader.get_source(environment, "style.css")[0])
    environment.globals["version"] = unifl.__version__
    return environment.get_template(name)


def _moment(written: str) -> str:
    """An ISO 8601 time as "23 November 2026, 04:15 UTC"; anything else as it is."""
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        return written
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()
