"""Verify a model's lineage: recompute every digest that can still be recomputed, link by link from the model outwards.

The first broken link is the one nearest to the model. What is no longer on disk is counted, not guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from unifl.core.digest import folder_files, sha256_file, sha256_manifest, sha256_path
from unifl.core.errors import LineageError
from unifl.lineage.records import RECORD_FOLDERS, Record, Resource, Trace, difference, locate, trace

CHECKSUMS_FILE = "SHA256SUMS"
MADE_BY_STEPS = ("selected_prompts", "reward_", "model", "tuned_model", "stage1", "stage2", "evaluation")
"""Materials (by the beginning of their name) that only a step of the pipeline can have made: without a record they are
a broken link. Everything else (images, prompts, base model ...) is what the pipeline takes as given."""


@dataclass(frozen=True)
class Check:
    """One link: what was compared, with "ok", "absent" (not on this disk) or the reason why it is broken."""

    link: str
    place: str
    result: str

    @property
    def broken(self) -> bool:
        return self.result not in {"ok", "absent"}


def verify_model(model: Path, extra: Iterable[Path] = ()) -> list[Check]:
    """All checks of a model's lineage, nearest to the model first.

    Raises LineageError when the trace can't even begin (no record, unreadable record, changed model).
    """
    traced = trace(model, extra)
    checks = _release_checks(traced) if traced.release else []
    # A release stands for itself: what lies at the same address in some checkout of today is another file.
    here = not traced.release
    digests: dict[Path, str] = {}
    for record, subjects, materials in traced.steps_nearest_first():
        if record.run.get("outcome", "succeeded") != "succeeded":
            checks.append(Check(f"{record.step} succeeded", str(record.file), f"it ended with {record.run['outcome']}"))
        for subject in subjects:
            checks.append(_digest_check(f"{record.step} made {subject.name}", subject, record, digests, here))
        for material in materials:
            checks.append(_digest_check(f"{record.step} took {material.name}", material, record, digests, here))
            checks += _origin_checks(material, record, traced)
    return checks


def link_checks(traced: Trace) -> list[Check]:
    """Only the links between records, without reading any artifact: what a step took, another one made."""
    steps = traced.steps_nearest_first()
    return [check for record, _, taken in steps for item in taken for check in _origin_checks(item, record, traced)]


def print_checks(checks: Sequence[Check], console: Console | None = None) -> None:
    """Print the outcome. Raises LineageError that names the first broken link."""
    console = console or Console()
    broken = [check for check in checks if check.broken]
    for check in broken:
        console.print(
            f"[red]broken[/]  {escape(check.link)}: {escape(check.result)}  [dim]{escape(check.place)}[/]",
            soft_wrap=True,
        )
    if broken:
        first = broken[0]
        raise LineageError(
            f"first broken link: {first.link}: {first.result}",
            file=first.place,
            remedy="restore that file, or run its step and what depends on it again",
        )
    recomputed = sum(check.result == "ok" for check in checks)
    console.print(f"lineage holds: {recomputed} links verified, {len(checks) - recomputed} artifacts not on this disk")


def _digest_check(link: str, resource: Resource, record: Record, digests: dict[Path, str], here: bool) -> Check:
    if resource.files and sha256_manifest(resource.files) != resource.sha256:
        return Check(link, str(record.file), "the record's list of files contradicts its digest")
    path = locate(resource, record) if here else None
    if path is None or resource.sha256 is None:
        return Check(link, resource.uri, "absent")
    real = path.resolve()
    if real not in digests:
        digests[real] = sha256_path(real)
    if digests[real] == resource.sha256:
        return Check(link, str(path), "ok")
    changed = difference(path, resource)
    return Check(link, str(path), f"{changed} (recorded {resource.sha256[:12]}…, found {digests[real][:12]}…)")


def _origin_checks(material: Resource, record: Record, traced: Trace) -> list[Check]:
    """A material that only a step can have made must be the subject of a record."""
    if not any(
        material.name == name or (name.endswith("_") and material.name.startswith(name)) for name in MADE_BY_STEPS
    ):
        return []
    link = f"{material.name} of {record.step} has a record"
    if traced.producer(material.sha256, record) is not None:
        return [Check(link, material.uri, "ok")]
    given = {other.sha256 for each in traced.records for other in each.materials if other.name == "base_model"}
    if material.sha256 in given:
        return []
    for other in traced.records:
        for subject in other.subjects:
            if subject.uri == material.uri:
                reason = f"the record of {other.step} made SHA-256 {str(subject.sha256)[:12]}… at this place, "
                reason += f"but {record.step} took {str(material.sha256)[:12]}…"
                return [Check(link, material.uri, reason)]
    return [Check(link, material.uri, f"no record has SHA-256 {str(material.sha256)[:12]}… as a subject")]


def _release_checks(traced: Trace) -> list[Check]:
    """A released folder: its checksums, and its weights against the recorded tuned model and base model."""
    release = traced.model
    checks = checksum_checks(release)
    maker = traced.producer(traced.head.sha256)
    base = next((each for each in maker.materials if each.name == "base_model"), None) if maker is not None else None
    expected = {name: digest for name, digest in traced.head.files.items() if name.startswith("unet/")}
    if base is not None:
        expected |= {
            name: digest
            for name, digest in base.files.items()
            if ("/" in name and not name.startswith("unet/")) or name == "model_index.json"
        }
    if not any(name.startswith("unet/") for name in expected):
        reason = "the record does not list the tuned files"
        checks.append(Check("release holds the tuned weights", str(release), reason))
    for name, digest in expected.items():
        file = release / name
        if not file.is_file():
            checks.append(Check(f"release holds {name}", str(file), "the file is missing"))
        else:
            result = "ok" if sha256_file(file) == digest else "the file is not the recorded one"
            checks.append(Check(f"release holds {name}", str(file), result))
    return checks


def checksum_checks(folder: Path) -> list[Check]:
    """Every line of the folder's SHA256SUMS, and that no file is left out of it. Raises LineageError when it is
    missing."""
    sums = folder / CHECKSUMS_FILE
    if not sums.is_file():
        raise LineageError("the released folder has no checksums", file=sums)
    listed: dict[str, str] = {}
    for number, line in enumerate(sums.read_text(encoding="utf-8").splitlines()):
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64:
            raise LineageError("a line is not a SHA-256 and a file name", file=sums, row=number)
        listed[name] = digest
    present = {name: digest for name, digest in folder_files(folder).items() if name != CHECKSUMS_FILE}
    checks = []
    for name, digest in listed.items():
        if name not in present:
            result = "the file is missing"
        else:
            result = "ok" if present[name] == digest else "the file has changed"
        checks.append(Check(f"{CHECKSUMS_FILE} lists {name}", str(folder / name), result))
    added = present.keys() - listed.keys()
    checks += [Check(f"{CHECKSUMS_FILE} lists {name}", str(folder / name), "the file was added") for name in added]
    # A changed weight is a nearer link than a changed record.
    return sorted(checks, key=lambda check: (Path(check.place).parent.name in RECORD_FOLDERS, check.place))
