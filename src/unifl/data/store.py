"""One store for large folders (models, releases, data): sent once, named by content, referenced by DVC and by Kubeflow.

A store lies in a bucket (`gs://BUCKET/PATH`) or in a local folder:

    ROOT/sets/SHA256/PATH       the files of a folder under their own names; SHA256 is the folder's digest
    ROOT/manifests/SHA256.json  the list of that folder's files, written last: before it the set can't be read
    ROOT/names/NAME.json        a published name, which points at a set
    ROOT/parts/...              parts of large files on their way; joined and removed

A set never changes, so two writers of one folder write the same and two writers of different folders never meet. A name
moves only if nobody has moved it since it was read. `ROOT/sets/SHA256` is what an importer of Kubeflow Pipelines and
`dvc import-url --no-download` take.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unifl.core.digest import sha256_file, sha256_manifest
from unifl.core.errors import DataContractError, SettingsError, StorageError
from unifl.core.files import storage_errors
from unifl.data.store_place import (
    ABSENT,
    PART_BYTES,
    WHOLE_BYTES,
    Conflict,
    Place,
    Small,
    StoredObject,
    Wanted,
    scan,
)

WORKERS = 8
"""Transfers at once, as in google-cloud-storage's transfer manager."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""What a published name looks like."""

_BUCKET = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,221})/?(?P<prefix>.*?)/*")
_SET = re.compile(r"(?P<root>.+)/sets/(?P<sha256>[0-9a-f]{64})/?")
_NAME = re.compile(rf"(?P<root>.+)/names/(?P<name>{NAME_PATTERN})")


class SetFile(BaseModel):
    """One file of a set: SHA-256 (hex), size in bytes, CRC32C (base64)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"[0-9a-f]{64}")
    size: int = Field(ge=0)
    crc32c: str


class Manifest(BaseModel):
    """The files of a set, by relative posix path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, SetFile]

    @property
    def sha256(self) -> str:
        """The folder's digest, which is the set's address."""
        return sha256_manifest({path: file.sha256 for path, file in self.files.items()})


class Pointer(BaseModel):
    """What a name points at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredSet:
    """A set of a store."""

    root: str
    files: Mapping[str, SetFile]
    sha256: str

    @property
    def address(self) -> str:
        return f"{self.root}/sets/{self.sha256}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def check(self, there: Mapping[str, StoredObject]) -> None:
        """Raises DataContractError unless the objects of the set are its files and nothing else."""
        for path, file in self.files.items():
            found = there.get(f"sets/{self.sha256}/{path}")
            if found is None:
                raise DataContractError(
                    "a file of the set is missing", file=f"{self.address}/{path}", remedy=_SEND_AGAIN
                )
            self._compare(path, file, found)
        self.refuse_strangers(there)

    def refuse_strangers(self, there: Mapping[str, StoredObject]) -> None:
        """Raises DataContractError when an object at the set's address is not what the set holds there."""
        for key, found in there.items():
            path = key.removeprefix(f"sets/{self.sha256}/")
            if path not in self.files:
                raise DataContractError(
                    "this file does not belong to the set", file=f"{self.address}/{path}", remedy=_REMOVE
                )
            self._compare(path, self.files[path], found)

    def _compare(self, path: str, file: SetFile, found: StoredObject) -> None:
        if (found.size, found.crc32c, found.sha256) != (file.size, file.crc32c, file.sha256):
            raise DataContractError(
                "the object is corrupted or another one",
                file=f"{self.address}/{path}",
                expected=f"{file.size} bytes, SHA-256 {file.sha256}, CRC32C {file.crc32c}; "
                f"found {found.size} bytes, SHA-256 {found.sha256}, CRC32C {found.crc32c}",
                remedy=_REMOVE,
            )


_SEND_AGAIN = "send the folder again (`unifl store push`): it goes on from what is there"
_REMOVE = "remove this object and send the folder again (`unifl store push`)"


def open_place(root: str, workers: int = WORKERS, *, part: int = PART_BYTES) -> Place:
    """The place at `root`: `gs://BUCKET/PATH` or a local folder. Raises SettingsError for another kind of address."""
    if match := _BUCKET.fullmatch(root):
        from unifl.data.store_bucket import BucketPlace

        return BucketPlace(match["bucket"], match["prefix"], workers, part)
    if "://" in root or not root:
        raise SettingsError(f"{root!r} is no address of a store", expected="gs://BUCKET/PATH or a local folder")
    from unifl.data.store_folder import FolderPlace

    return FolderPlace(Path(root))


def push(
    folder: Path,
    root: str,
    *,
    name: str | None = None,
    workers: int = WORKERS,
    whole: int = WHOLE_BYTES,
    part: int = PART_BYTES,
) -> StoredSet:
    """Send a folder to the store at `root` and return its set; what is there already is not sent again.

    Args:
        folder: a folder with at least one file; it must not change meanwhile.
        root: `gs://BUCKET/PATH` or a local folder.
        name: publish the set under this name, unless another writer moves the name meanwhile.
        workers: transfers at once.
        whole: files above this size (bytes) go in parts.
        part: least size of a part (bytes).

    Raises:
        SettingsError: `folder` is none, or `root` or `name` is wrong.
        StorageError: bucket missing, no right, credentials expired, no answer, or the name was moved by another.
        DataContractError: an object at the set's address is not the set's (corrupted), or a file changed.
    """
    if not folder.is_dir():
        raise SettingsError("only folders can be sent", file=folder, expected="an existing folder")
    if name is not None and not re.fullmatch(NAME_PATTERN, name):
        raise SettingsError(f"{name!r} is no name", expected=f"letters, digits, dots, hyphens ({NAME_PATTERN})")
    place = open_place(root, workers, part=part)
    place.check_rights(write=True)
    publication = Publication(place, name) if name else None
    scanned = scan(folder, workers, whole=whole, part=part)
    manifest = Manifest(
        files={path: SetFile(sha256=f.sha256, size=f.size, crc32c=f.crc32c) for path, f in scanned.items()}
    )
    stored = StoredSet(place.address, manifest.files, manifest.sha256)
    there = place.objects(f"sets/{stored.sha256}/")
    stored.refuse_strangers(there)
    keys = {f"sets/{stored.sha256}/{path}": file for path, file in scanned.items()}
    if missing := {key: file for key, file in keys.items() if key not in there}:
        place.upload(missing)
        there = place.objects(f"sets/{stored.sha256}/")
    stored.check(there)
    _write_manifest(place, manifest)
    if publication:
        publication.move(stored)
    return stored


def pull(address: str, target: Path, *, workers: int = WORKERS, part: int = PART_BYTES) -> StoredSet:
    """Fetch a set (`ROOT/sets/SHA256`, or the one that `ROOT/names/NAME` points at) into the new folder `target`.

    Every file is checked against its SHA-256 before the folder appears. A cut download goes on when it is called again.

    Raises:
        SettingsError: `target` exists, or the address is wrong.
        StorageError: bucket missing, no right, credentials expired, no answer, no space.
        DataContractError: no such set, or a file that is corrupted.
    """
    if target.exists():
        raise SettingsError("it exists already", file=target, remedy="name a new folder, or remove this one")
    place, stored = _found(address, workers, part)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.parent / f".{target.name}.{stored.sha256[:16]}.download"
    with _alone(staging), storage_errors(target):
        _require_space(stored, staging)
        wanted = [
            Wanted(f"sets/{stored.sha256}/{path}", staging / "files" / path, file.size, file.sha256)
            for path, file in stored.files.items()
        ]
        place.download(wanted, staging / "ranges", lambda file: _check_fetched(place, file))
        os.rename(staging / "files", target)
    return stored


def verify(address: str, *, workers: int = WORKERS) -> StoredSet:
    """Hold every object of a set against its manifest without fetching it: names, sizes, CRC32C (which the bucket
    computes from the bytes it holds) and recorded SHA-256.

    Raises DataContractError that names the first that differs.
    """
    place, stored = _found(address, workers, PART_BYTES)
    stored.check(place.objects(f"sets/{stored.sha256}/"))
    return stored


def _found(address: str, workers: int, part: int) -> tuple[Place, StoredSet]:
    """The set that an address means, with its manifest checked against the address."""
    match = _SET.fullmatch(address) or _NAME.fullmatch(address)
    if match is None:
        raise SettingsError(f"{address!r} is no address of a set", expected="ROOT/sets/SHA256 or ROOT/names/NAME")
    place = open_place(match["root"], workers, part=part)
    place.check_rights(write=False)
    sha256 = match.groupdict().get("sha256") or _pointed(place, match["name"])
    small = place.read(_manifest_key(sha256))
    if small is None:
        raise DataContractError("there is no such set, or its upload has not ended", file=address, remedy=_SEND_AGAIN)
    return place, StoredSet(place.address, _manifest(place, sha256, small).files, sha256)


def _pointed(place: Place, name: str) -> str:
    small = place.read(_name_key(name))
    if small is None:
        raise DataContractError(f"nothing is published as {name}", file=place.address)
    return _pointer(place, name, small).sha256


def _pointer(place: Place, name: str, small: Small) -> Pointer:
    try:
        return Pointer.model_validate_json(small.content)
    except ValidationError as error:
        raise DataContractError(
            "the name does not point at a set", file=f"{place.address}/{_name_key(name)}"
        ) from error


def _manifest(place: Place, sha256: str, small: Small) -> Manifest:
    file = f"{place.address}/{_manifest_key(sha256)}"
    try:
        manifest = Manifest.model_validate_json(small.content)
    except ValidationError as error:
        raise DataContractError("this is no manifest of a set", file=file, remedy=_REMOVE) from error
    if manifest.sha256 != sha256:
        raise DataContractError(
            "the manifest is corrupted", file=file, expected=f"{sha256}, found {manifest.sha256}", remedy=_REMOVE
        )
    outside = [
        path for path in manifest.files if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts
    ]
    if outside:
        raise DataContractError(f"the manifest names a file outside its folder: {outside[0]}", file=file)
    return manifest


def _write_manifest(place: Place, manifest: Manifest) -> None:
    key = _manifest_key(manifest.sha256)
    content = json.dumps(manifest.model_dump(), indent=1, sort_keys=True).encode()
    if (small := place.read(key)) is None:
        try:
            place.write(key, content, ABSENT)
            return
        except Conflict:
            small = place.read(key)
    if small is not None:
        _manifest(place, manifest.sha256, small)


class Publication:
    """A name of a store, as it was when this was made: it moves only if nobody else has moved it since.

    Raises DataContractError when what is there under the name is no pointer.
    """

    def __init__(self, place: Place, name: str) -> None:
        self._place, self._name = place, name
        self._before = place.read(_name_key(name))
        self._now = _pointer(place, name, self._before).sha256 if self._before else None

    def move(self, stored: StoredSet) -> None:
        """Let the name point at a set. Raises StorageError when another writer was first."""
        if self._now == stored.sha256:
            return
        content = Pointer(sha256=stored.sha256).model_dump_json().encode()
        try:
            self._place.write(_name_key(self._name), content, self._before.generation if self._before else ABSENT)
        except Conflict as error:
            # A write that was repeated because its answer got lost finds itself.
            now = self._place.read(_name_key(self._name))
            if now is not None and now.content == content:
                return
            raise StorageError(
                f"another writer has published {self._name} meanwhile; this set is stored, but not under that name",
                file=stored.address,
                remedy="look at what is published now; the same command publishes over it",
            ) from error


def _check_fetched(place: Place, file: Wanted) -> None:
    found = sha256_file(file.target)
    if found != file.sha256:
        file.target.unlink()
        raise DataContractError(
            "the object is corrupted",
            file=f"{place.address}/{file.key}",
            expected=f"SHA-256 {file.sha256}, found {found}",
            remedy=_REMOVE,
        )


def _require_space(stored: StoredSet, staging: Path) -> None:
    there = sum(path.stat().st_blocks * 512 for path in staging.rglob("*") if path.is_file())
    free = shutil.disk_usage(staging).free
    if free < stored.size - there:
        raise StorageError(
            f"no space left: the set needs {(stored.size - there) / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free",
            file=staging.parent,
            remedy="free some space and run the same command again",
        )


@contextmanager
def _alone(staging: Path) -> Iterator[None]:
    """The folder of an unfinished download, for one process at a time; kept when the block raises, to go on from."""
    staging.mkdir(exist_ok=True)
    with open(staging / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError("another process fetches the same set to the same place", file=staging) from error
        yield
        shutil.rmtree(staging)


def _manifest_key(sha256: str) -> str:
    return f"manifests/{sha256}.json"


def _name_key(name: str) -> str:
    return f"names/{name}.json"
