"""Data by DVC repository, revision and path: what a pipeline takes as given, fetched and checked against its digests.

The `resolve_data` step copies the outputs; a submission resolves revision and digests beforehand with `resolve`,
without copying. Works for a local checkout with an embedded remote (no network), for a remote git repository with its
data in a bucket (as in a pod, which has neither checkout nor git), and for a folder without .git.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unifl.core.digest import dvc_md5, sha256_path
from unifl.core.errors import DataContractError, SettingsError
from unifl.core.record import Artifact, git, without_secrets
from unifl.data.store_bucket import google_refusal

PULL = "check repository, revision and remote; `dvc pull` in that checkout shows what DVC misses"

UNCOMMITTED = "-uncommitted"

MD5_LENGTHS = (32, 36)
"""Of DVC's digest of a file, and of a folder (it ends in `.dir`)."""


@dataclass(frozen=True)
class Resolved:
    """Where data lies: repository, commit (None outside git), and for every name its path and DVC's MD5.

    The commit ends in `-uncommitted` when the pointers were taken from a working folder that has changed them since.
    An MD5 that ends in `.dir` names a folder; None marks a path that git holds and DVC does not, and one that DVC
    imports from a bucket. `sha256` has the digest of each path that is imported from a set of a store
    (unifl.data.store).
    """

    repository: str
    commit: str | None
    paths: Mapping[str, str]
    md5: Mapping[str, str | None]
    sha256: Mapping[str, str] = field(default_factory=dict)


def resolve(repository: str, revision: str | None, paths: Mapping[str, str], remote: str | None = None) -> Resolved:
    """Find commit and DVC digests of `paths` (name -> path in the repository) without fetching any data.

    Raises SettingsError for an unknown repository or revision, DataContractError for a path that isn't there.
    """
    with _file_system(repository, revision, remote) as fs:
        return _resolved(fs, repository, revision, paths)


def missing(
    repository: str,
    revision: str | None,
    paths: Mapping[str, str],
    *,
    expected: Mapping[str, str],
    remote: str | None = None,
) -> list[DataContractError]:
    """What of `paths` is not in the repository at the revision, has another digest than `expected`, or (for another
    repository than a folder of this machine) is not in the DVC remote; all of it.

    Fetches nothing: an expected SHA-256 of data that is no set of a store is left for `fetch` to compare. Arguments as
    there. Raises SettingsError for an unknown repository or revision, StorageError for a remote that this identity may
    not read.
    """
    problems = []
    with _file_system(repository, revision, remote) as fs:
        for name, path in paths.items():
            try:
                found = _resolved(fs, repository, revision, {name: path})
            except DataContractError as error:
                problems.append(error)
                continue
            wanted, md5, sha256 = expected.get(name, ""), found.md5[name], found.sha256.get(name)
            if len(wanted) in MD5_LENGTHS and wanted != md5:
                problems.append(_another_digest(name, path, wanted, f"DVC MD5 {md5}"))
            elif wanted and sha256 and len(wanted) not in MD5_LENGTHS and wanted != sha256:
                problems.append(_another_digest(name, path, wanted, f"the set {sha256}"))
            elif not Path(repository).is_dir():
                with _dvc_errors(path, repository, revision):
                    if (lacking := _lacking(fs.repo, path, md5, remote)) is not None:
                        problems.append(
                            DataContractError(f"{name} is not in {lacking}", file=path, remedy="`dvc push` sends it")
                        )
    return problems


def _lacking(repo: Any, path: str, md5: str | None, remote: str | None) -> str | None:
    """The place that should hold the data of `path` and does not; None when it is there, or is kept by git.

    Of a folder DVC's list of its files is looked for: one question a path.
    """
    if md5 is not None:
        store = repo.cloud.get_remote_odb(remote or None, "fetch")
        fs, address = store.fs, store.oid_to_path(md5)
        lacking = f"the DVC remote {fs.unstrip_protocol(store.path)}"
    elif (output := _output(repo, path)) is not None and output.stage.is_partial_import:
        source = output.stage.deps[0]
        fs, address, lacking = source.fs, source.fs_path, str(source.def_path)
    else:
        return None
    try:
        fs.info(address)  # `exists` would take a refusal for an absence
    except FileNotFoundError:
        return lacking
    return None


def fetch(
    repository: str,
    revision: str | None,
    paths: Mapping[str, str],
    outputs: Mapping[str, Path],
    *,
    expected: Mapping[str, str],
    remote: str | None = None,
) -> list[Artifact]:
    """Copy every path to its output and check it; returns what was taken, as materials of the lineage record.

    Args:
        repository: path of a checkout or address of a git repository.
        revision: branch, tag or commit; None takes the working folder of a checkout (still held to its DVC digests).
        paths: name -> path in the repository.
        outputs: name -> where the copy shall lie.
        expected: name -> SHA-256 (64 hex digits, folder digest of `unifl.core.digest`) or DVC's MD5 (32, `.dir` for
            folders).
        remote: name of the DVC remote; None takes the repository's default.

    Raises:
        SettingsError: unknown repository or revision.
        DataContractError: a path is missing, can't be fetched, or its digest is another.
    """
    materials = []
    with _file_system(repository, revision, remote) as fs:
        resolved = _resolved(fs, repository, revision, paths)
        for name, path in paths.items():
            # What the pointers say already needs no fetching.
            wanted = expected.get(name, "")
            if len(wanted) in MD5_LENGTHS and wanted != resolved.md5[name]:
                raise _another_digest(name, path, wanted, f"DVC MD5 {resolved.md5[name]}")
        for name, path in paths.items():
            target = outputs[name]
            with _dvc_errors(path, repository, revision):
                fs.get(path, os.fspath(target), recursive=True)
            sha256 = _checked(name, path, target, resolved.md5[name], expected.get(name))
            if sha256 != resolved.sha256.get(name, sha256):
                raise _another_digest(name, path, f"the set {resolved.sha256[name]}", f"SHA-256 {sha256}")
            annotations: dict[str, Any] = {}
            if resolved.md5[name]:
                annotations["dvc"] = {"md5": resolved.md5[name], "path": path}
            uri = f"dvc+{_address(fs, repository)}@{resolved.commit or 'no-commit'}#{path}"
            materials.append(Artifact(name, uri, {"sha256": sha256}, annotations))
    return materials


def _resolved(fs: Any, repository: str, revision: str | None, paths: Mapping[str, str]) -> Resolved:
    md5: dict[str, str | None] = {}
    sha256: dict[str, str] = {}
    for name, path in paths.items():
        with _dvc_errors(path, repository, revision):
            info = fs.info(path)
            source = _imported_from(fs, path)
        # What DVC calls the MD5 of an import in place goes by the bucket's etags, not by the files.
        md5[name] = None if source else (info.get("dvc_info") or {}).get("md5")
        if source and (found := re.fullmatch(r".*/sets/([0-9a-f]{64})/?", source)):
            sha256[name] = found[1]
    commit = _commit(fs)
    if commit is not None and not revision and _pointers_changed(Path(repository), paths):
        commit += UNCOMMITTED
    return Resolved(without_secrets(repository), commit, dict(paths), md5, sha256)


def _imported_from(fs: Any, path: str) -> str | None:
    """The address that DVC imports `path` from without a copy (`dvc import-url --no-download`), or None."""
    output = _output(fs.repo, path)
    return str(output.stage.deps[0].def_path) if output is not None and output.stage.is_partial_import else None


def _output(repo: Any, path: str) -> Any:
    """What DVC tracks as or around `path`; None when it tracks nothing there."""
    from dvc.exceptions import OutputNotFoundError

    try:
        return repo.find_outs_by_path(repo.fs.join(repo.root_dir, *Path(path).parts))[0]
    except OutputNotFoundError:
        return None


def _pointers_changed(checkout: Path, paths: Mapping[str, str]) -> bool:
    """Whether the working folder's DVC pointers of `paths` differ from its commit."""
    pointers = {f"{path}.dvc" for path in paths.values()}
    pointers |= {(Path(path).parent / "dvc.lock").as_posix() for path in paths.values()}
    return bool(git(checkout, "status", "--porcelain", "--", *sorted(pointers)))


def _address(fs: Any, repository: str) -> str:
    """The repository as others find it: for a checkout, where it was cloned from when that is an address; else its
    path."""
    if Path(repository).is_dir() and _commit(fs) is not None:
        origin = git(Path(repository), "remote", "get-url", "origin")
        if origin and not Path(origin).exists():
            return origin
    return repository


def _commit(fs: Any) -> str | None:
    from dvc.scm import NoSCM

    repo = fs.repo
    if isinstance(repo.scm, NoSCM):
        return None
    return str(repo.get_rev() or repo.scm.get_rev())


def _checked(name: str, path: str, target: Path, md5: str | None, expected: str | None) -> str:
    """The SHA-256 of the copy, once it is what DVC and the caller expect."""
    if md5 is not None and (found := dvc_md5(target)) != md5:
        raise DataContractError(
            f"{name} is not what DVC's pointer says",
            file=path,
            expected=f"MD5 {md5}, found {found}",
            remedy="`dvc checkout` restores the tracked data, `dvc commit` accepts a change",
        )
    sha256 = sha256_path(target)
    if expected and expected not in {sha256, md5}:
        raise _another_digest(name, path, expected, f"SHA-256 {sha256} (DVC MD5 {md5})")
    return sha256


def _another_digest(name: str, path: str, expected: str, found: str) -> DataContractError:
    return DataContractError(
        f"{name} has another digest",
        file=path,
        expected=f"{expected}, found {found}",
        remedy="check the revision, or update the expected digest on purpose",
    )


@contextmanager
def _file_system(repository: str, revision: str | None, remote: str | None) -> Iterator[Any]:
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    local = Path(repository)
    config: dict[str, Any] = {}
    if local.is_dir() and not (local / ".git").exists():
        if revision:
            raise SettingsError(
                f"the revision {revision!r} can't be resolved in a folder without .git",
                file=repository,
                remedy="leave the revision out, or name a git checkout",
            )
        config = {"core": {"no_scm": True}}
    with ExitStack() as stack:
        try:
            fs = DVCFileSystem(repository, rev=revision or None, remote=remote or None, config=config)
            stack.callback(fs.repo.close)  # opened (or cloned) only when it is asked for
            if not local.is_dir():
                _take_embedded_remotes(fs.repo, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        except (DvcException, SCMError, OSError) as error:
            raise SettingsError(
                f"the DVC repository can't be opened at {revision or 'its working folder'}: {_one_line(error)}",
                file=without_secrets(repository),
                remedy="name a checkout or git address with a .dvc folder, and an existing revision",
            ) from error
        yield fs


def _take_embedded_remotes(repo: Any, scratch: Path) -> None:
    """Give a cloned repository the DVC remotes that it holds itself, as of its commit.

    DVC reads the configuration of a clone from the commit, whose root is "/" to it, and so looks for a remote with a
    relative path in the root of this machine.
    """
    from dvc.config_schema import RelPath

    for name, settings in repo.config["remote"].items():
        if isinstance(settings.get("url"), RelPath) and repo.fs.isdir(settings["url"]):
            copy = scratch / name
            repo.fs.get(settings["url"], str(copy))
            settings["url"] = str(copy)


@contextmanager
def _dvc_errors(path: str, repository: str, revision: str | None) -> Iterator[None]:
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError
    from dvc_objects.errors import ObjectFormatError

    where = f"{without_secrets(repository)}@{revision or 'working folder'}"
    try:
        yield
    except (DataContractError, SettingsError):
        raise
    except Exception as error:
        # A bucket's refusal reaches us as what DVC or gcsfs made of it.
        if refusal := google_refusal(error, where):
            raise refusal from error
        if isinstance(error, FileNotFoundError):
            raise DataContractError(
                f"the path is not in {where}, or its data not in the remote", file=path, remedy=PULL
            ) from error
        if isinstance(error, DvcException | DataIndexDirError | ObjectFormatError):
            raise DataContractError(
                f"the data can't be fetched from {where}: {_one_line(error)}", file=path, remedy=PULL
            ) from error
        raise


def _one_line(error: BaseException) -> str:
    """The error and what it came from: DVC's own text is often no more than "SCM error"."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return " ".join(": ".join(str(cause) for cause in causes).split())
