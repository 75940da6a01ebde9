"""SIGTERM (preemption, cancellation) and Ctrl-C as one KeyboardInterrupt that waits while a state is half changed.

The hook around steps makes a step interruptible; a training loop holds the interruption back while it applies an
update, so that what it saves on the way out is a whole state.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType


@dataclass
class _Held:
    """Signals belong to the process, hence one object for it."""

    depth: int = 0
    wanted: bool = False


_held = _Held()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    if _held.depth:
        _held.wanted = True
    else:
        raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGTERM and SIGINT raise KeyboardInterrupt, at once or at the end of `held_back`.

    Handlers that somebody else has set stay. Outside the main thread nothing happens: Python runs handlers only there.
    """
    changed = []
    if threading.current_thread() is threading.main_thread():
        for number, usual in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
            if signal.getsignal(number) is usual:
                signal.signal(number, _interrupt)
                changed.append((number, usual))
    try:
        yield
    finally:
        for number, usual in changed:
            signal.signal(number, usual)
        if changed:
            _held.wanted = False


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Inside, an interruption waits; it is raised when the (outermost) block ends, whatever else the block raises."""
    _held.depth += 1
    try:
        yield
    finally:
        _held.depth -= 1
        if _held.wanted and not _held.depth:
            _held.wanted = False
            raise KeyboardInterrupt
