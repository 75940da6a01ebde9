"""What a place must offer to hold a store, and what both kinds of place share: scanning a folder and cutting files.

Two places exist: a Google Cloud Storage bucket (`unifl.data.store_bucket`) and a local folder
(`unifl.data.store_folder`). `unifl.data.store` builds sets and names on either.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unifl.core.errors import DataContractError, LineageError
from unifl.core.progress import progress

READ_BYTES = 4 * 2**20
WHOLE_BYTES = 150 * 2**20
"""A file up to this size is sent as one object; a larger one in parts that are joined at the other end. It is where
`gcloud storage` changes to parallel composite uploads."""

PART_BYTES = 64 * 2**20
"""The least size of a part, and the size of the ranges in which a download is fetched and resumed."""

MOST_PARTS = 32
"""Google Cloud Storage joins at most 32 objects at once."""

ABSENT = "0"
"""The generation of an object that does not exist (as Google Cloud Storage spells it in preconditions)."""


class Conflict(Exception):
    """Another writer was first: the object is not at the generation that the write was conditioned on."""


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine: its bytes' size, SHA-256 (hex), CRC32C (base64, as buckets spell it), and the CRC32C of
    every part when it is sent in parts."""

    path: Path
    size: int
    sha256: str
    crc32c: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredObject:
    """An object of a place; `sha256` is what its metadata says (a bucket) or what its bytes are (a folder)."""

    size: int
    crc32c: str
    sha256: str | None


@dataclass(frozen=True)
class Small:
    """The content of a small object and the generation that it was read at."""

    content: bytes
    generation: str


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: the object's key, where it goes, its size in bytes and its SHA-256."""

    key: str
    target: Path
    size: int
    sha256: str


class Place(Protocol):
    """Where a store lies. Keys are relative posix paths below `address`."""

    address: str

    def check_rights(self, *, write: bool) -> None:
        """Raises StorageError when the place is missing or doesn't let this user read (and write) there."""

    def objects(self, prefix: str) -> dict[str, StoredObject]:
        """Every object whose key begins with `prefix` (which ends in a slash)."""

    def upload(self, files: Mapping[str, LocalFile]) -> None:
        """Send files, key -> file; an object that is there already is left as it is. Goes on where a cut upload ended.

        Raises StorageError when the place refuses, DataContractError when a file changes meanwhile.
        """

    def download(self, wanted: Sequence[Wanted], journal: Path, whole: Callable[[Wanted], None]) -> None:
        """Fetch files; `whole` is called with each that is complete. `journal` remembers what a cut download has."""

    def read(self, key: str) -> Small | None:
        """A small object, or None when there is none."""

    def write(self, key: str, content: bytes, generation: str) -> None:
        """Write a small object if it still is at `generation` (ABSENT: if there is none). Raises Conflict if not."""


def part_bytes(size: int, least: int = PART_BYTES) -> int:
    """The size of the parts of a file of `size` bytes: at least `least`, and no more parts than can be joined."""
    return max(least, -(-size // MOST_PARTS))


def scan(folder: Path, workers: int, *, whole: int = WHOLE_BYTES, part: int = PART_BYTES) -> dict[str, LocalFile]:
    """Every file below `folder` (links followed): relative posix path -> its digests, sorted by path.

    Raises LineageError for a file name that holds a backslash or a line break, DataContractError for a folder without
    files.
    """
    paths = sorted(Path(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names)
    relative = {path.relative_to(folder).as_posix(): path for path in paths}
    for name in relative:
        if any(character in name for character in "\\\n\r"):
            raise LineageError(f"the file name {name!r} holds a backslash or a line break", file=folder)
    if not relative:
        raise DataContractError("the folder holds no files", file=folder)
    with ThreadPoolExecutor(workers) as pool:
        scanned = {pool.submit(_scanned, path, whole, part): name for name, path in relative.items()}
        found = {
            scanned[future]: future.result()
            for future in progress(as_completed(scanned), f"digests of {folder.name}", "files", total=len(scanned))
        }
    return dict(sorted(found.items()))


def _scanned(path: Path, whole: int, part: int) -> LocalFile:
    from google_crc32c import Checksum

    size = path.stat().st_size
    step = part_bytes(size, part) if size > whole else size
    digest, checksum, piece, parts, read = hashlib.sha256(), Checksum(), Checksum(), [], 0
    with open(path, "rb") as stream:
        while block := stream.read(min(READ_BYTES, step - read % step) if step else READ_BYTES):
            digest.update(block)
            checksum.update(block)
            read += len(block)
            if size > whole:
                piece.update(block)
                if read % step == 0 or read >= size:
                    parts.append(base64_text(piece.digest()))
                    piece = Checksum()
    if read != size:
        raise DataContractError("the file changed while it was read", file=path, remedy="run again when it is at rest")
    return LocalFile(path, size, digest.hexdigest(), base64_text(checksum.digest()), tuple(parts))


def crc32c_file(path: Path) -> str:
    """CRC32C of a file, base64."""
    from google_crc32c import Checksum

    checksum = Checksum()
    with open(path, "rb") as stream:
        while block := stream.read(READ_BYTES):
            checksum.update(block)
    return base64_text(checksum.digest())


def base64_text(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")
