"""The table at the end of a run: what each step did, what it cost, and its main figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SHOWN_METRICS = 3
"""Metrics of a step in the table; the report has all of them."""


def print_summary(summary: Mapping[str, Any], report: Path, console: Console) -> None:
    """Print the steps of `summary` (see `pipelines.run_folder`) and where the report is."""
    steps = summary["steps"]
    table = Table(title=f"run {summary['id']}", title_justify="left", title_style="bold")
    for heading in ("step", "result", "wall s", "CPU s", "updates", "metrics"):
        right = heading in ("wall s", "CPU s", "updates")
        table.add_column(heading, justify="right" if right else "left", overflow="fold", no_wrap=heading != "metrics")
    for step in steps:
        metrics = step["metrics"]
        table.add_row(
            step["name"],
            "[bold red]failed" if step["outcome"] == "failed" else "[green]cached" if step["cached"] else "ran",
            _seconds(step["wall_seconds"]),
            _seconds(step["cpu_seconds"]),
            f"{int(metrics['updates']):,}" if "updates" in metrics else "",
            main_figures(metrics),
        )
    console.print(table)
    ran = [step for step in steps if not step["cached"]]
    if not ran and not summary["error"]:
        console.print("Every step was cached: nothing in settings, data or code has changed.")
    else:
        cpu = sum(step["cpu_seconds"] or 0 for step in ran)
        console.print(
            f"{len(steps) - len(ran)} steps cached, {len(ran)} ran: "
            f"{cpu:,.0f} CPU s, {summary['wall_seconds']:,.0f} s in all."
        )
    console.print(f"Report: {report}", soft_wrap=True, highlight=False)


def main_figures(metrics: Mapping[str, Any]) -> str:
    """The first few metrics of a step that a person can read: numbers and verdicts, no digests."""
    shown = []
    for name, value in metrics.items():
        if name == "updates" or (isinstance(value, str) and len(value) > 20):
            continue
        shown.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(shown[:SHOWN_METRICS])


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"
