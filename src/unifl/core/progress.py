"""Progress with time left on everything long: a bar on a terminal, a plain line every ten seconds in logs.

Written to stderr, so that standard output stays the step's own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar, overload

LINE_INTERVAL_SECONDS = 10.0
"""Time between two lines where stderr is not a terminal: rare enough for a pod's log, often enough to see that it
lives."""

Item = TypeVar("Item")


@overload
def progress(
    iterable_or_total: int, description: str, unit: str = ..., *, total: int | None = ..., start: int = ...
) -> Iterator[int]: ...
@overload
def progress(
    iterable_or_total: Iterable[Item], description: str, unit: str = ..., *, total: int | None = ..., start: int = ...
) -> Iterator[Item]: ...
def progress(
    iterable_or_total: Iterable[Item] | int,
    description: str,
    unit: str = "items",
    *,
    total: int | None = None,
    start: int = 0,
) -> Iterator[Item] | Iterator[int]:
    """Iterate and show how far it is, how fast it goes and the time left.

    Args:
        iterable_or_total: what to iterate, or a number n for `range(start, n)`.
        description: what is going on, as a person would say it ("reward model color").
        unit: what is counted ("updates", "images").
        total: the number of items when the iterable has no length; None when nobody knows.
        start: how many were done before this process (a resumed run), so that rate and time left are right.
    """
    if isinstance(iterable_or_total, int):
        return _shown(range(start, iterable_or_total), description, unit, iterable_or_total, start)
    if total is None and isinstance(iterable_or_total, Sized):
        total = len(iterable_or_total) + start
    return _shown(iterable_or_total, description, unit, total, start)


def _shown(iterable: Iterable[Item], description: str, unit: str, total: int | None, start: int) -> Iterator[Item]:
    if sys.stderr.isatty():
        return _bar(iterable, description, unit, total, start)
    return _lines(iterable, description, unit, total, start)


def _bar(iterable: Iterable[Item], description: str, unit: str, total: int | None, start: int) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, completed=start)
        for item in iterable:
            yield item
            bar.advance(task)


def _lines(iterable: Iterable[Item], description: str, unit: str, total: int | None, start: int) -> Iterator[Item]:
    began = shown = time.monotonic()
    done = start
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        if now - shown >= LINE_INTERVAL_SECONDS:
            shown = now
            print(progress_line(description, unit, done, total, start, now - began), file=sys.stderr, flush=True)
    elapsed = time.monotonic() - began
    if elapsed >= LINE_INTERVAL_SECONDS:
        print(progress_line(description, unit, done, total, start, elapsed), file=sys.stderr, flush=True)


def progress_line(description: str, unit: str, done: int, total: int | None, start: int, seconds: float) -> str:
    """One line: how many are done, the rate since this process began (`seconds` ago, at `start`) and the time left."""
    rate = (done - start) / seconds if seconds > 0 else 0.0
    speed = f"{rate:.1f} {unit}/s" if rate >= 1 or rate == 0 else f"{1 / rate:.1f} s/{unit.removesuffix('s')}"
    if total is None:
        return f"{description}: {done} {unit}, {speed}"
    if done >= total:
        return f"{description}: {done}/{total} {unit}, {speed}, done after {duration(seconds)}"
    left = duration((total - done) / rate) if rate else "unknown"
    return f"{description}: {done}/{total} {unit}, {speed}, {left} left"


def duration(seconds: float) -> str:
    """Seconds as a person reads them: `42 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
