"""SHA-256 digests of files and folders, by which lineage knows every artifact, and the digest of the code itself.

An auditor needs no Python to reproduce them. A file: `sha256sum FILE`. A folder:

    cd FOLDER && find -L . -type f -printf '%P\\0' | xargs -0 -r sha256sum | LC_ALL=C sort | sha256sum
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from unifl.core.errors import LineageError

_UNPRINTABLE = ("\\", "\n", "\r")
"""Characters that sha256sum escapes in file names; a folder that holds them would not hash the same in a shell."""


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits. Raises OSError when it can't be read."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_files(folder: Path) -> dict[str, str]:
    """Every file below `folder` (links followed): relative posix path -> SHA-256, sorted by path.

    Empty folders don't count.

    Raises LineageError for a file name that holds a backslash or a line break, OSError for a dangling link.
    """
    files: dict[str, str] = {}
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if any(character in relative for character in _UNPRINTABLE):
                raise LineageError(
                    f"the file name {relative!r} holds a backslash or a line break",
                    file=folder,
                    remedy="rename the file",
                )
            files[relative] = sha256_file(path)
    return dict(sorted(files.items()))


def sha256_manifest(files: Mapping[str, str]) -> str:
    """Digest of a folder from its files' digests: SHA-256 of the sorted lines `<hex>  <relative posix path>\\n`."""
    lines = sorted(f"{digest}  {path}\n".encode() for path, digest in files.items())
    return hashlib.sha256(b"".join(lines)).hexdigest()


def sha256_path(path: Path) -> str:
    """Digest of a file (its bytes) or of a folder (see the module's first lines for the shell command), 64 hex digits.

    Raises FileNotFoundError when `path` does not exist.
    """
    if path.is_dir():
        return sha256_manifest(folder_files(path))
    return sha256_file(path)


def dvc_md5(path: Path) -> str:
    """The MD5 by which DVC knows a file, or a folder (MD5 of its sorted JSON list of files, with `.dir` appended)."""
    if path.is_file():
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest()
    files = sorted(Path(parent, name) for parent, _, names in os.walk(path, followlinks=True) for name in names)
    entries = {file.relative_to(path).as_posix(): dvc_md5(file) for file in files}
    listed = [{"md5": entries[name], "relpath": name} for name in sorted(entries)]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


@functools.lru_cache(maxsize=1)
def code_version() -> str:
    """Digest of the project's own source: the folder digest over `src/unifl/**/*.py`, computed once a process.

    It goes into cache keys and checkpoint keys, because neither kfp.local nor DVC looks into the library that a step
    calls.
    """
    package = Path(__file__).resolve().parents[1]
    sources = {path.relative_to(package).as_posix(): sha256_file(path) for path in package.rglob("*.py")}
    return sha256_manifest(sources)
