"""Lineage records read back: found beside a model and linked by SHA-256, materials of one to subjects of another.

Works offline for a tuned model's folder, for a released folder (its records lie in `lineage/`) and for a run's folder
(`records/`). The records are written by `unifl.core.record`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unifl.core.digest import folder_files, sha256_path
from unifl.core.errors import LineageError
from unifl.core.record import PREDICATE_TYPE, STATEMENT_TYPE, checkout_root, path_uri

RELEASE_FILE = "release.json"
"""In a released folder: which tuned model (by SHA-256) the release holds."""

RECORD_FOLDERS = ("records", "lineage")
"""Folders of a run and of a release that hold nothing but records."""

SEARCH_DEPTH = 3
"""How far below the folder two levels above a model records are looked for: `runs/dvc/<step>/<axis>/record.json`."""


@dataclass(frozen=True)
class Resource:
    """A subject or a material of a record."""

    name: str
    uri: str
    sha256: str | None
    files: Mapping[str, str] = field(default_factory=dict)
    dvc: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_descriptor(cls, descriptor: Mapping[str, Any]) -> Resource:
        annotations = descriptor.get("annotations") or {}
        digest = descriptor.get("digest") or {}
        return cls(
            str(descriptor.get("name", "")),
            str(descriptor.get("uri", "")),
            digest.get("sha256"),
            annotations.get("files") or {},
            annotations.get("dvc") or {},
        )


@dataclass(frozen=True)
class Record:
    """One step's record: where it was read, and the statement itself with its fields by name."""

    file: Path
    statement: Mapping[str, Any]

    @property
    def subjects(self) -> list[Resource]:
        return [Resource.from_descriptor(item) for item in self.statement["subject"]]

    @property
    def materials(self) -> list[Resource]:
        return [Resource.from_descriptor(item) for item in self._build["resolvedDependencies"]]

    @property
    def step(self) -> str:
        return str(self._build["externalParameters"]["step"])

    @property
    def settings(self) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = self._build["externalParameters"]["settings"]
        return settings

    @property
    def internal(self) -> Mapping[str, Any]:
        """Seed, code version, commit, dirty flag, lock digests."""
        internal: Mapping[str, Any] = self._build["internalParameters"]
        return internal

    @property
    def run(self) -> Mapping[str, Any]:
        """Builder, times, outcome, metrics and CPU seconds."""
        run: Mapping[str, Any] = self.statement["predicate"]["runDetails"]
        return run

    @property
    def finished(self) -> str:
        return str(self.run["metadata"]["finishedOn"])

    @property
    def _build(self) -> Mapping[str, Any]:
        build: Mapping[str, Any] = self.statement["predicate"]["buildDefinition"]
        return build


def read_record(file: Path) -> Record:
    """Read one record. Raises LineageError when the file isn't a Statement with SLSA provenance, or lacks a field."""
    remedy = "restore the record, or run its step again"
    try:
        statement = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LineageError(f"the record can't be read: {error}", file=file, remedy=remedy) from error
    if not _is_provenance(statement):
        raise LineageError("this is not a lineage record", file=file, expected=f"{STATEMENT_TYPE}, {PREDICATE_TYPE}")
    record = Record(file, statement)
    try:
        named = [*record.subjects, *record.materials]
        _ = (record.step, record.settings, record.internal, record.finished)
    except (KeyError, TypeError, AttributeError) as error:
        raise LineageError(f"the record lacks {error}", file=file, remedy=remedy) from error
    if not record.subjects or any(not resource.name for resource in named):
        raise LineageError("the record has a subject or material without a name", file=file, remedy=remedy)
    return record


def _is_provenance(statement: Any) -> bool:
    return (
        isinstance(statement, dict)
        and statement.get("_type") == STATEMENT_TYPE
        and statement.get("predicateType") == PREDICATE_TYPE
    )


def records_in(folder: Path, depth: int = SEARCH_DEPTH) -> Iterator[Path]:
    """Files that are records by their name: `record`, `record.json`, `<name>.record.json`, and JSON in record
    folders."""
    if not folder.is_dir():
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.is_dir():
            if depth > 0 and not (entry.name.startswith(".") or entry.name == "node_modules"):
                yield from records_in(path, depth - 1)
        elif entry.name in {"record", "record.json"} or entry.name.endswith(".record.json") or in_record_folder(path):
            yield path


def in_record_folder(path: Path) -> bool:
    """Whether `path` is JSON in a folder that holds nothing but records."""
    return path.parent.name in RECORD_FOLDERS and path.suffix == ".json"


def find_records(model: Path, extra: Iterable[Path] = ()) -> list[Record]:
    """Every record in `extra`, in and around `model`, and in the data folder of its checkout, each file once.

    Raises LineageError for a record file that can't be read: a broken record is a broken link.
    """
    places: list[tuple[Path, int]] = [(Path(folder), 16) for folder in extra]
    model = Path(os.path.abspath(model))
    if model.is_dir():
        places += [(model / name, 1) for name in RECORD_FOLDERS]
    root = checkout_root(model)
    places += [(model.parent, 1)]
    if root is None or model.parent.parent.is_relative_to(root):
        places += [(model.parent.parent, SEARCH_DEPTH)]
    if root is not None:
        places += [(root / "data", 1)]
    found: dict[Path, Record] = {}
    for folder, depth in places:
        files = [folder] if folder.is_file() else records_in(folder, depth)
        for file in files:
            real = file.resolve()
            if real not in found:
                found[real] = read_record(file)
    return list(found.values())


@dataclass(frozen=True)
class Trace:
    """A model, and the records by which it is known.

    Attributes:
        model: the path that was asked about.
        head: the subject that the trace starts from.
        release: whether `model` is a released folder, whose tuned weights are `head`.
    """

    model: Path
    head: Resource
    records: Sequence[Record]
    release: bool = False

    def producer(self, sha256: str | None, taker: Record | None = None) -> Record | None:
        """The record that has a subject with this digest; the newest when several have.

        A step that hands data through (resolve_data) has the same digest among its materials. Asked for where such a
        step (`taker`) has it from, only records that made it anew answer.
        """
        makers = [record for record in self.records if any(subject.sha256 == sha256 for subject in record.subjects)]
        if taker is not None and taker in makers:
            makers = [record for record in makers if all(material.sha256 != sha256 for material in record.materials)]
        return max(makers, key=lambda record: record.finished, default=None) if sha256 else None

    def steps_nearest_first(self) -> list[tuple[Record, list[Resource], list[Resource]]]:
        """The records that lead to the model, breadth first from it, each once, with those of its subjects and of its
        materials that matter to the model: of a step that hands data through, only what was taken from it."""
        queue: list[tuple[str | None, Record | None]] = [(self.head.sha256, None)]
        taken: dict[Path, set[str | None]] = {}
        steps: dict[Path, tuple[Record, list[Resource], list[Resource]]] = {}
        while queue:
            sha256, taker = queue.pop(0)
            record = self.producer(sha256, taker)
            if record is None or sha256 in taken.setdefault(record.file, set()):
                continue
            taken[record.file].add(sha256)
            subjects, materials = record.subjects, record.materials
            if any(material.sha256 == sha256 for material in materials):
                subjects = [each for each in subjects if each.sha256 in taken[record.file]]
                materials = [each for each in materials if each.sha256 in taken[record.file]]
            elif record.file in steps:
                continue
            steps[record.file] = (record, subjects, materials)
            queue += [(material.sha256, record) for material in materials]
        return list(steps.values())

    def records_nearest_first(self) -> list[Record]:
        """The records that lead to the model, breadth first from it, each once."""
        return [record for record, _, _ in self.steps_nearest_first()]


def trace(model: Path, extra: Iterable[Path] = ()) -> Trace:
    """Find a model's records and where its trace begins.

    Raises LineageError when `model` is missing, or when no record has it as a subject (a changed file is named).
    """
    model = Path(model)
    if not model.exists():
        raise LineageError("the model does not exist", file=model)
    records = find_records(model, extra)
    if (model / RELEASE_FILE).is_file():
        return Trace(model, _released(model, records), records, release=True)
    is_run = any((model / name).is_dir() for name in RECORD_FOLDERS)
    try:
        digest = sha256_path(model)
    except FileNotFoundError as error:
        # A run of some time ago keeps its records while the outputs that it links to were pruned: no model has to be
        # there for a trace of records.
        if is_run:
            return Trace(model, _result_of_run(model, records), records)
        raise LineageError("a file of the model is a link to nothing", file=error.filename) from error
    for record in records:
        for subject in record.subjects:
            if subject.sha256 == digest:
                return Trace(model, subject, records)
    if is_run:
        return Trace(model, _result_of_run(model, records), records)
    raise _no_record(model, digest, records)


def _released(release: Path, records: Sequence[Record]) -> Resource:
    file = release / RELEASE_FILE
    try:
        digest = json.loads(file.read_text(encoding="utf-8"))["tuned_model"]["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise LineageError("the released folder does not say which tuned model it holds", file=file) from error
    for record in records:
        for subject in record.subjects:
            if subject.sha256 == digest:
                return subject
    raise LineageError(
        f"no record has the released tuned model (SHA-256 {digest[:12]}…) as a subject",
        file=release,
        remedy="restore the release's lineage/ folder, or name a folder of records with --records",
    )


def _result_of_run(run: Path, records: Sequence[Record]) -> Resource:
    own = [record for record in records if record.file.resolve().is_relative_to(run.resolve())]
    tuned = [(record, subject) for record in own for subject in record.subjects if subject.name == "tuned_model"]
    taken = {material.sha256 for record, _ in tuned for material in record.materials}
    last = [(record, subject) for record, subject in tuned if subject.sha256 not in taken]
    if not last:
        raise LineageError("no record of this run has a tuned model as a subject", file=run)
    return max(last, key=lambda pair: pair[0].finished)[1]


def _no_record(model: Path, digest: str, records: Sequence[Record]) -> LineageError:
    uri = path_uri(model)
    for record in records:
        beside = record.file.resolve().parent == model.resolve().parent
        for subject in record.subjects:
            if subject.uri == uri or (beside and Path(subject.uri).name == model.name):
                return LineageError(
                    f"the model is not what its record says: {difference(model, subject)}",
                    file=model,
                    expected=f"SHA-256 {subject.sha256} as in {record.file}, found {digest}",
                    remedy="restore the model, or run the step that makes it again",
                )
    return LineageError(
        f"no record has this model (SHA-256 {digest}) as a subject; {len(records)} records were looked at",
        file=model,
        remedy="keep record.json beside the model, or name a folder of records with --records",
    )


def difference(path: Path, recorded: Resource) -> str:
    """What differs between a file or folder and its record: the first changed, missing or added file."""
    if not path.is_dir() or not recorded.files:
        return "its bytes have changed"
    now = folder_files(path)
    for name, digest in recorded.files.items():
        if name not in now:
            return f"{name} is missing"
        if now[name] != digest:
            return f"{name} has changed"
    added = [name for name in now if name not in recorded.files]
    return f"{added[0]} was added" if added else "its record contradicts itself"


def locate(resource: Resource, record: Record) -> Path | None:
    """Where a resource lies on this disk: by its address from the working folder's or the record's checkout, or beside
    the record; None when it is no longer there."""
    if "://" in resource.uri:
        if not resource.uri.startswith("file://"):
            return None
        from urllib.parse import unquote, urlparse

        path = Path(unquote(urlparse(resource.uri).path))
        if path.exists():
            return path
        return _beside(resource, record)
    bases = [checkout_root(Path.cwd()), Path.cwd(), checkout_root(record.file.resolve().parent)]
    for base in bases:
        if base is not None and (base / resource.uri).exists():
            return base / resource.uri
    return _beside(resource, record)


def _beside(resource: Resource, record: Record) -> Path | None:
    if resource not in record.subjects:
        return None
    path = record.file.parent / Path(resource.uri).name
    return path if path.exists() and path.resolve() != record.file.resolve() else None
