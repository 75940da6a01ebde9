"""The cache of local runs, `.cache/kfp`: one run at a time, and what no recent run refers to can be removed.

kfp.local keeps the outputs of each task in `artifacts/PIPELINE-TIME/TASK`. For each cached task `entries` has a file
that names them, and a run's folder links to them. Reports and records are copies in the run's folder, which stay.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import time

from unifl.core.errors import SettingsError, StorageError
from unifl.core.files import remove_path

CACHE = Path(".cache", "kfp")
LATEST_RUNS = 3
"""So many runs that have outputs keep them however old they are."""


@dataclass(frozen=True)
class Unused:
    """A task's outputs that no recent run refers to: where, bytes, days since the last use, runs that link to them."""

    folder: Path
    size: int
    days: float
    runs: list[str]


@contextlib.contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Hold the cache's lock: two runs at a time would remove each other's checkpoints.

    Raises SettingsError while another process holds it, StorageError when the cache can't be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = open(cache / "lock", "w", encoding="utf-8")  # noqa: SIM115 - held open for the whole run
    except OSError as error:
        raise StorageError(f"the cache can't be written: {error.strerror}", file=cache) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(
                "another run is going on in this checkout", file=cache / "lock", remedy="wait for it, or stop it"
            ) from error
        yield


def unused(cache: Path, runs: Path, older_than: timedelta) -> list[Unused]:
    """Outputs last used longer ago than `older_than`, oldest first; those of the latest runs are never among them.

    Outputs are used when a task makes them and when a run, also one that finds them in the cache, links to them. Call
    it inside `alone`, as the outputs of a run in progress have no link yet.
    """
    folders = sorted(folder for folder in runs.glob("*") if folder.is_dir() and not folder.is_symlink())
    links = {folder: linked for folder in folders if (linked := _linked(folder))}
    recent = set().union(*list(links.values())[-LATEST_RUNS:])
    found = []
    for task in (cache / "artifacts").glob("*/*"):
        users = [folder for folder in links if task.resolve() in links[folder]]
        last = max([task.stat().st_mtime, *(folder.stat().st_mtime for folder in users)])
        days = (time() - last) / 86400
        if days * 86400 > older_than.total_seconds() and task.resolve() not in recent:
            found.append(Unused(task, _size(task), days, [folder.name for folder in users]))
    return sorted(found, key=lambda one: -one.days)


def remove(cache: Path, chosen: list[Unused]) -> None:
    """Remove these outputs and the cache's entries that name them. Call it inside `alone`.

    Entries go first: were this cut short, no later run may take a half-removed folder for a task's outputs.
    """
    gone = [f"{one.folder.resolve()}{os.sep}" for one in chosen]
    for entry in (cache / "entries").glob("*.json"):
        addresses = _addresses(entry)
        if any(address.startswith(tuple(gone)) for address in addresses):
            entry.unlink()
    for one in chosen:
        remove_path(one.folder)
        with contextlib.suppress(OSError):  # other tasks of that run are still there
            one.folder.parent.rmdir()


def _linked(run: Path) -> set[Path]:
    """The tasks' folders in the cache that the links of a run lead to, whether they are still there or not."""
    outputs = (link for link in run.glob("outputs/*/*") if link.is_symlink())
    return {Path(link.parent, os.readlink(link)).parent.resolve() for link in outputs}


def _addresses(entry: Path) -> list[str]:
    values = json.loads(entry.read_text(encoding="utf-8")).values()
    parts = [part for value in values if isinstance(value, dict) for part in value.get("artifacts", [value])]
    return [str(part.get("uri", "")) for part in parts]


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
