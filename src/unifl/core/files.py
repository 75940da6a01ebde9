"""Files and folders that appear whole or not at all: written under a temporary name beside their place, then renamed.

Used by the hook around steps for every output, and by checkpoints, caches and metrics.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unifl.core.errors import StorageError, is_disk_full

_count = itertools.count()


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())


def remove_path(path: Path) -> None:
    """Remove a file, a link or a whole folder; nothing happens when it isn't there."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.is_dir():
        shutil.rmtree(path)


class PartialPath:
    """A temporary path beside `final` that keeps its file extension, to be put in place by `commit` or removed by
    `discard`.

    Leftovers of killed processes of this machine are swept away when the next writer of the same path starts.
    """

    def __init__(self, final: Path) -> None:
        self.final = Path(final)
        self.final.parent.mkdir(parents=True, exist_ok=True)
        self._sweep()
        self.path = self._sibling("partial")

    def _sibling(self, kind: str) -> Path:
        return self.final.parent / f".{kind}-{os.getpid()}-{next(_count)}-{_host()}-{self.final.name}"

    def _sweep(self) -> None:
        leftover = re.compile(rf"\.(?:partial|replaced)-(\d+)-\d+-{re.escape(_host())}-{re.escape(self.final.name)}")
        for entry in os.scandir(self.final.parent):
            match = leftover.fullmatch(entry.name)
            if match and not _is_alive(int(match[1])):
                remove_path(Path(entry.path))

    def commit(self) -> None:
        """Rename the temporary path to `final`, replacing what is there. Raises FileNotFoundError when nothing was
        written."""
        if not self.path.exists():
            raise FileNotFoundError(f"nothing was written to {self.final}")
        replaced: Path | None = None
        if self.final.is_dir() or (self.path.is_dir() and (self.final.exists() or self.final.is_symlink())):
            replaced = self._sibling("replaced")
            os.rename(self.final, replaced)
        os.replace(self.path, self.final)
        if replaced is not None:
            remove_path(replaced)

    def discard(self) -> None:
        """Remove the temporary path."""
        remove_path(self.path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn "no space left" of any library into a StorageError that names `path`; other errors pass through."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise disk_full_error(path) from error
        raise


def disk_full_error(path: Path) -> StorageError:
    """The StorageError for a file system without space at `path`."""
    folder = next((p for p in (path, *path.parents) if p.is_dir()), Path("."))
    free = shutil.disk_usage(folder).free
    return StorageError(
        f"no space left on the file system of {folder} ({free / 2**20:.1f} MiB free)",
        file=path,
        remedy="free some space and run the same command again; it goes on from what was finished",
    )


@contextlib.contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """A temporary path beside `final` for a file or a folder; renamed when the block ends, removed when it raises.

    Raises StorageError when the disk is full, FileNotFoundError when the block wrote nothing.
    """
    with storage_errors(final):
        partial = PartialPath(final)
        try:
            yield partial.path
            partial.commit()
        except BaseException:
            partial.discard()
            raise


def sync_files(folder: Path) -> None:
    """Return when every file of `folder` is on the disk, and not only in the memory of this machine."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all. Raises StorageError when the disk is full."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json_atomic(path: Path, obj: Any) -> None:
    """Write `obj` as indented JSON with a final line break, whole or not at all; keys keep their order.

    Raises ValueError for NaN and infinity (they are not JSON), StorageError when the disk is full.
    """
    write_text_atomic(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
