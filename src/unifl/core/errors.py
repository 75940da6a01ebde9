"""The error family: one line for a person (step, file, row, expectation, remedy), one exit code for a machine.

Every layer raises these; the hook around steps fills in the step's name and the command line turns them into the
process's exit code.

    UniflError             1    anything below, or a defect
    ├── SettingsError      2    a preset, an override or an argument is wrong (all mistakes are reported together)
    ├── DataContractError  3    a file does not hold what its contract says
    ├── ModelLoadError     4    a model folder or a packaged weight is missing, unreadable or not the expected one
    ├── DivergenceError    5    a loss or a metric is not a finite number, or a training collapses
    ├── GateFailed         6    the quality gate says no
    ├── LineageError       7    a digest or a link between records does not hold
    ├── StorageError       8    the disk is full, or the storage refuses: bucket, rights, credentials, another writer
    ├── ClusterError       9    no cluster answers, or it answers with an error of its own
    ├── AccessError       10    the cluster does not let this user in: token, rights or namespace
    ├── NotFoundError     11    the cluster knows no such run, step, schedule or artifact
    ├── RunStateError     12    the run's state does not allow it (it has ended, or has not)
    └── RunFailedError    13    the run that was waited for failed or was canceled
    KeyboardInterrupt    130    Ctrl-C or SIGTERM (preemption); the next run goes on from the last checkpoint
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import ClassVar

INTERRUPTED_EXIT_CODE = 130
"""Exit code after Ctrl-C or SIGTERM (128 + SIGINT, as shells report it)."""


class UniflError(Exception):
    """An error a person can act on. `str(error)` is one line.

    Args:
        message: what is wrong, without a full stop at the end.
        step: name of the step; the hook around steps fills it in when it is absent.
        file: the file or folder at fault.
        row: the row of that file, counted from 0 as pandas and pyarrow do (or a name of the row).
        expected: what should have been there.
        remedy: what to do about it.
        keep_outputs: True when the outputs are whole although the step failed (a verdict, a report): the hook then puts
            them in place before it raises.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        step: str | None = None,
        file: Path | str | None = None,
        row: int | str | None = None,
        expected: str | None = None,
        remedy: str | None = None,
        keep_outputs: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.step = step
        self.file = file
        self.row = row
        self.expected = expected
        self.remedy = remedy
        self.keep_outputs = keep_outputs

    def __str__(self) -> str:
        where = []
        if self.file is not None:
            where.append(f"file {self.file}")
        if self.row is not None:
            where.append(f"row {self.row}")
        line = f"{self.step}: " if self.step else ""
        line += self.message
        if where:
            line += f" ({', '.join(where)})"
        if self.expected:
            line += f"; expected {self.expected}"
        if self.remedy:
            line += f"; remedy: {self.remedy}"
        return " ".join(line.split())


class SettingsError(UniflError):
    """A preset, an override or an argument is wrong."""

    exit_code = 2


class DataContractError(UniflError):
    """A file does not hold what its contract says."""

    exit_code = 3


class ModelLoadError(UniflError):
    """A model folder or a packaged weight is missing, unreadable or not the expected one."""

    exit_code = 4


class DivergenceError(UniflError):
    """A loss or a metric is not a finite number, or a training collapses."""

    exit_code = 5


class GateFailed(UniflError):
    """The quality gate says no."""

    exit_code = 6


class LineageError(UniflError):
    """A digest or a link between records does not hold."""

    exit_code = 7


class StorageError(UniflError):
    """The disk is full, or the storage refuses: bucket, rights, credentials, another writer."""

    exit_code = 8


class ClusterError(UniflError):
    """No cluster answers, or it answers with an error of its own."""

    exit_code = 9


class AccessError(UniflError):
    """The cluster does not let this user in: the token, the rights or the namespace."""

    exit_code = 10


class NotFoundError(UniflError):
    """The cluster knows no such run, step, schedule or artifact."""

    exit_code = 11


class RunStateError(UniflError):
    """The run's state does not allow what was asked: it has ended already, or not yet."""

    exit_code = 12


class RunFailedError(UniflError):
    """The run that was waited for failed or was canceled."""

    exit_code = 13


FULL_DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_disk_full(error: BaseException) -> bool:
    """Whether `error`, or an error that it came from, says that no space is left.

    Libraries written in Rust and C++ (safetensors, tokenizers, Arrow) lose the errno on the way, so their text counts
    too.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, OSError) and link.errno in FULL_DISK_ERRNOS:
            return True
        if "No space left on device" in str(link) or "Disk quota exceeded" in str(link):
            return True
        link = link.__cause__ or link.__context__
    return False
