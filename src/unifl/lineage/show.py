"""The trace of a model as a tree in the terminal: every step with its commit, settings that matter and cost, down to
the data."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from unifl.core.progress import duration
from unifl.lineage.records import Record, Resource, Trace

WIDTH = 240
"""Columns of the tree where the output is not a terminal."""


def print_tree(trace: Trace, console: Console | None = None) -> None:
    """Print the tree from the model to every data set, with SHA-256 (first 12 digits) and DVC digests."""
    # Nobody wants a log or a pipe cut off at 80 columns.
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(tree_of(trace))
    commits = {str(record.internal.get("commit")) for record in trace.records_nearest_first()}
    console.print(
        f"{len(trace.records_nearest_first())} records, commits: {', '.join(sorted(commits))}", soft_wrap=True
    )


def tree_of(trace: Trace) -> Tree:
    """The rich tree; a record met before is named without its materials, one that hands data through shows just its
    origin."""
    title = _resource_line(trace.head)
    if trace.release:
        title = f"[bold]release[/] {escape(str(trace.model))} holds {title}"
    tree = Tree(title)
    _grow(tree, trace.head, None, trace, set())
    return tree


def _grow(branch: Tree, resource: Resource, taker: Record | None, trace: Trace, seen: set[Path]) -> None:
    record = trace.producer(resource.sha256, taker)
    if record is None:
        return
    origin = next((material for material in record.materials if material.sha256 == resource.sha256), None)
    if origin is not None:
        source = branch.add(f"from {_resource_line(origin)} [dim]by {escape(record.step)}[/]")
        _grow(source, origin, record, trace, seen)
        return
    if record.file in seen:
        branch.add(f"[dim]made by {escape(record.step)}, shown above[/]")
        return
    seen.add(record.file)
    step = branch.add(_record_line(record))
    for material in record.materials:
        _grow(step.add(_resource_line(material)), material, record, trace, seen)


def _resource_line(resource: Resource) -> str:
    line = f"[bold]{escape(resource.name)}[/]  {escape(resource.uri)}"
    if resource.sha256:
        line += f"  [cyan]sha256:{resource.sha256[:12]}[/]"
    if resource.dvc:
        described = " ".join(f"{key}={value}" for key, value in resource.dvc.items() if key != "md5")
        line += f"  [magenta]dvc md5:{escape(str(resource.dvc.get('md5')))}[/] [dim]{escape(described)}[/]"
    return line


def _record_line(record: Record) -> str:
    internal, run = record.internal, record.run
    commit = str(internal.get("commit") or "unknown")[:12] + (" (dirty)" if internal.get("dirty") else "")
    facts = [f"commit {commit}"]
    if internal.get("seed") is not None:
        facts.append(f"seed {internal['seed']}")
    if "axis" in record.settings:
        facts.append(f"axis {record.settings['axis']}")
    facts.append(f"{duration(float(run['cpu_seconds']))} CPU")
    facts.append(record.finished)
    if run.get("outcome", "succeeded") != "succeeded":
        facts.append(f"[red]{run['outcome']}[/]")
    return f"made by [green]{escape(record.step)}[/]  [dim]{escape(', '.join(facts))}[/]"
