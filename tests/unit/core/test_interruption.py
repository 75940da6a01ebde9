"""SIGTERM and Ctrl-C: at once, or after a block that must not be split."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from unifl.core.interruption import held_back, interruptible

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(autouse=True)
def handlers_of_a_foreground_process() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, and the tests may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(steps: list[str], number: int) -> None:
    """Signal this process, at once."""
    with interruptible():
        os.kill(os.getpid(), number)
        steps.append("after")


def interrupted_while_held(steps: list[str], number: int, error: Exception | None = None) -> None:
    """Signal this process two held blocks deep."""
    with interruptible(), held_back():
        with held_back():
            os.kill(os.getpid(), number)
            steps.append("inner")
        steps.append("outer")
        if error:
            raise error


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_at_once(number: int) -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(steps, number)
    assert steps == []


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_until_the_outermost_held_block_ends(number: int) -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted_while_held(steps, number)
    assert steps == ["inner", "outer"]


def test_the_interruption_wins_over_an_error_of_the_block() -> None:
    with pytest.raises(KeyboardInterrupt) as raised:
        interrupted_while_held([], signal.SIGTERM, OSError("peer gone"))
    assert isinstance(raised.value.__context__, OSError)


def test_handlers_are_put_back_and_foreign_ones_kept() -> None:
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("mine"))
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
        assert seen == ["mine"]
    finally:
        signal.signal(signal.SIGTERM, before)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_thread_leaves_signals_alone() -> None:
    found = []

    def look() -> None:
        with interruptible():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
