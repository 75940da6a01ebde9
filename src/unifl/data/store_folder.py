"""A store in a local folder (or on a mounted volume): the same layout and the same promises as in a bucket."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from unifl.core.digest import sha256_file
from unifl.core.errors import DataContractError, StorageError
from unifl.core.files import atomic_path, storage_errors
from unifl.core.progress import progress
from unifl.data.store_place import ABSENT, Conflict, LocalFile, Small, StoredObject, Wanted, crc32c_file


class FolderPlace:
    """A folder that holds a store. It is made by the first write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.address = str(self.folder)

    def check_rights(self, *, write: bool) -> None:
        there = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        if not write and there != self.folder:
            raise StorageError("there is no such folder", file=self.folder, remedy="check the address of the store")
        if not os.access(there, os.R_OK | os.X_OK | (os.W_OK if write else 0)):
            raise StorageError(f"no right to {'write' if write else 'read'} there", file=there)

    def objects(self, prefix: str) -> dict[str, StoredObject]:
        files = [path for path in sorted((self.folder / prefix).rglob("*")) if path.is_file()]
        return {
            path.relative_to(self.folder).as_posix(): StoredObject(
                path.stat().st_size, crc32c_file(path), sha256_file(path)
            )
            for path in files
            if not path.name.startswith(".partial-")
        }

    def upload(self, files: Mapping[str, LocalFile]) -> None:
        for key, file in progress(files.items(), f"copying to {self.address}", "files"):
            if (self.folder / key).exists():
                continue
            with atomic_path(self.folder / key) as partial:
                shutil.copyfile(file.path, partial)
                if sha256_file(partial) != file.sha256:
                    raise DataContractError("the file changed while it was copied", file=file.path)

    def download(self, wanted: Sequence[Wanted], journal: Path, whole: Callable[[Wanted], None]) -> None:
        for file in progress(wanted, f"copying from {self.address}", "files"):
            file.target.parent.mkdir(parents=True, exist_ok=True)
            with storage_errors(file.target):
                try:
                    shutil.copyfile(self.folder / file.key, file.target)
                except FileNotFoundError as error:
                    raise DataContractError("a file of the set is missing", file=self.folder / file.key) from error
            whole(file)

    def read(self, key: str) -> Small | None:
        try:
            content = (self.folder / key).read_bytes()
        except FileNotFoundError:
            return None
        return Small(content, _generation(content))

    def write(self, key: str, content: bytes, generation: str) -> None:
        (self.folder / key).parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            now = self.read(key)
            if (now.generation if now else ABSENT) != generation:
                raise Conflict(key)
            with atomic_path(self.folder / key) as partial:
                partial.write_bytes(content)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Compare and replace must not be torn apart by another process."""
        with open(self.folder / ".lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _generation(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
