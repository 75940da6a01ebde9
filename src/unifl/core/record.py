"""The lineage record of one step: an in-toto Statement v1 with SLSA provenance v1, subjects and materials by SHA-256.

Written by the hook around steps and read by `unifl.lineage`. It holds no environment and no secrets: passwords in
addresses are struck out, secret settings are masked by pydantic.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import unifl
from unifl.core.digest import dvc_md5, folder_files, sha256_file, sha256_manifest

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:unifl-pipelines:step:v1"
BUILDER_ID = "urn:unifl-pipelines:step-hook:v1"
COMMIT_VARIABLE = "UNIFL_COMMIT"
"""Names the commit where the code runs without its git checkout (in a container image)."""

CODE_PATHS = ("src", "components", "pipelines", "requirements", "pyproject.toml")
"""What makes a checkout dirty: code and locks, not the outputs and locks of data that a run itself changes."""

MANIFEST_LIMIT = 2000
"""A folder with more files than this is recorded by its digest alone, to keep records readable."""


@dataclass(frozen=True)
class Artifact:
    """A file or folder that a step read or wrote, or a resource it resolved (a DVC output at a revision).

    `digest` maps algorithm to hex; `annotations` may hold `files` (relative path -> SHA-256 of a folder's files) and
    `dvc`.
    """

    name: str
    uri: str
    digest: Mapping[str, str]
    annotations: Mapping[str, Any] = field(default_factory=dict)

    def descriptor(self) -> dict[str, Any]:
        """The in-toto ResourceDescriptor."""
        described: dict[str, Any] = {"name": self.name, "uri": without_secrets(self.uri), "digest": dict(self.digest)}
        if self.annotations:
            described["annotations"] = without_secrets(dict(self.annotations))
        return described


@functools.lru_cache(maxsize=8)
def checkout_root(start: Path) -> Path | None:
    """The git checkout that holds `start`, or None."""
    return next((folder for folder in (start, *start.parents) if (folder / ".git").exists()), None)


def path_uri(path: Path) -> str:
    """A path as records name it: relative to the working folder's checkout (or to that folder), else a file:
    address."""
    absolute = Path(os.path.abspath(path))
    root = checkout_root(Path.cwd()) or Path.cwd()
    if absolute.is_relative_to(root):
        return absolute.relative_to(root).as_posix()
    return absolute.as_uri()


def described(name: str, path: Path, uri_path: Path | None = None) -> Artifact:
    """The artifact at `path`, hashed now; `uri_path` is where it will lie when it is still under a temporary name."""
    annotations: dict[str, Any] = {}
    if path.is_dir():
        files = folder_files(path)
        digest = sha256_manifest(files)
        if len(files) <= MANIFEST_LIMIT:
            annotations["files"] = files
    else:
        digest = sha256_file(path)
    dvc = dvc_digest(path)
    if dvc:
        annotations["dvc"] = dvc
    return Artifact(name, path_uri(uri_path or path), {"sha256": digest}, annotations)


def dvc_digest(path: Path) -> dict[str, str] | None:
    """What DVC calls `path`, when `<path>.dvc` or a `dvc.lock` of its folder or a parent tracks it; else None.

    `pointer` is that file and `md5` what lies there now; `tracked_md5` is added where the pointer says something else.
    """
    import yaml

    absolute = Path(os.path.abspath(path))
    root = checkout_root(absolute.parent)
    pointer = absolute.with_name(absolute.name + ".dvc")
    candidates = [pointer] if pointer.is_file() else []
    if root is not None:
        folders = [folder for folder in absolute.parents if folder.is_relative_to(root)]
        candidates += [folder / "dvc.lock" for folder in folders if (folder / "dvc.lock").is_file()]
    for file in candidates:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        stages = list((content.get("stages") or {}).values()) if file.name == "dvc.lock" else [content]
        for stage in stages:
            for output in stage.get("outs") or []:
                if "md5" in output and file.parent / output["path"] == absolute:
                    md5, tracked = dvc_md5(path), str(output["md5"])
                    found = {"pointer": path_uri(file), "md5": md5}
                    return found if md5 == tracked else {**found, "tracked_md5": tracked}
    return None


def source_state() -> dict[str, Any]:
    """Commit, dirty flag and lock digests of the code that runs; None for what is unknown outside a checkout."""
    root = checkout_root(Path(__file__).resolve().parent) or checkout_root(Path.cwd())
    commit: str | None = None
    dirty: bool | None = None
    if root is not None:
        commit = git(root, "rev-parse", "--verify", "-q", "HEAD")
        status = git(root, "status", "--porcelain", "--", *CODE_PATHS)
        dirty = None if status is None else status != ""
    if commit is None:
        commit = os.environ.get(COMMIT_VARIABLE) or None
    locks = sorted((root / "requirements").glob("*.lock")) if root is not None else []
    digests = {lock.relative_to(root).as_posix(): sha256_file(lock) for lock in locks} if root is not None else {}
    return {"commit": commit, "dirty": dirty, "lock_sha256": digests or None}


def git(root: Path, *arguments: str) -> str | None:
    """What git answers in the checkout `root`; None when it fails or isn't installed."""
    try:
        answer = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


def without_secrets(value: Any) -> Any:
    """`value` with user names and passwords struck out of every address in it (`https://***@host/...`)."""
    if isinstance(value, str):
        return _CREDENTIALS.sub("***@", value)
    if isinstance(value, Mapping):
        return {key: without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return value


def accelerator() -> dict[str, Any] | None:
    """The accelerator that torch used and whether its algorithms were deterministic; None on a CPU or without torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return {
        "name": torch.cuda.get_device_name(),
        "deterministic": bool(torch.are_deterministic_algorithms_enabled()),
    }


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with seconds, as SLSA asks for."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def statement(
    *,
    step: str,
    settings: Mapping[str, Any],
    subjects: Sequence[Artifact],
    materials: Sequence[Artifact],
    metrics: Mapping[str, Any],
    code_version: str,
    invocation: str,
    started: datetime,
    finished: datetime,
    cpu_seconds: float,
    wall_seconds: float,
    outcome: str = "succeeded",
) -> dict[str, Any]:
    """The record as a dictionary ready for JSON.

    `invocation` is the key of the step's content (settings, inputs, code): the same work has the same one. `outcome` is
    "succeeded" or the name of the error of a step that failed after writing its outputs (a gate's verdict).
    """
    internal = {
        "seed": settings.get("seed"),
        "code_version": code_version,
        **source_state(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "accelerator": accelerator(),
    }
    versions = {"unifl": unifl.__version__, "python": platform.python_version(), "machine": platform.machine()}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [artifact.descriptor() for artifact in subjects],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"step": step, "settings": without_secrets(dict(settings))},
                "internalParameters": internal,
                "resolvedDependencies": [artifact.descriptor() for artifact in materials],
            },
            "runDetails": {
                "builder": {"id": BUILDER_ID, "version": versions},
                "metadata": {
                    "invocationId": invocation,
                    "startedOn": timestamp(started),
                    "finishedOn": timestamp(finished),
                },
                "outcome": outcome,
                "metrics": dict(metrics),
                "cpu_seconds": round(cpu_seconds, 3),
                "wall_seconds": round(wall_seconds, 3),
            },
        },
    }
