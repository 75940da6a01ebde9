"""What an image installs: the part of the project's locks that its own steps need.

`images/<name>/requirements.in` names roots; the requirements of the installed packages say what else belongs to them;
`requirements/*.lock` says which version. The result is committed, and a test fails when it is stale.
"""

import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from unifl.core.errors import SettingsError
from unifl.core.files import write_text_atomic

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ("data", "train")
COMMAND = "python -m images lock"
PROJECT_LOCKS = ("requirements/dev.lock", "requirements/models.lock")
OWN_LOCK = frozenset({"torch"})
"""Installed from a lock beside the image's: its builds for CPU and CUDA need different packages."""

NO_DEPENDENCIES, LEFT_OUT = "--no-deps", "!"
"""Marks of a line in requirements.in: this package without what it requires; this package not at all."""


def write_locks() -> list[Path]:
    """Write the lock of every image and return the files."""
    files = []
    for name in IMAGES:
        file = ROOT / "images" / name / "requirements.lock"
        write_text_atomic(file, lock_text(name))
        files.append(file)
    return files


def lock_text(name: str) -> str:
    """The lock of the image `name`, a pin a line, sorted.

    Raises SettingsError for a package that is not installed here, or that the project's locks don't pin.
    """
    roots, left_out = _roots(ROOT / "images" / name / "requirements.in")
    pins = project_pins()
    wanted = sorted(closure(roots) - OWN_LOCK - left_out)
    missing = [package for package in wanted if package not in pins]
    if missing:
        raise SettingsError(
            f"no version is pinned for {', '.join(missing)}",
            file=", ".join(PROJECT_LOCKS),
            remedy="add it to requirements/*.in, then `make lock`",
        )
    header = f"# What images/{name}/requirements.in asks for, in the versions of requirements/. "
    header += f"Made by `{COMMAND}`; do not edit."
    return "\n".join([header, *(f"{package}=={pins[package]}" for package in wanted), ""])


def project_pins() -> dict[str, str]:
    """Package -> version, from the project's own locks."""
    pins = {}
    for lock in PROJECT_LOCKS:
        for line in (ROOT / lock).read_text(encoding="utf-8").splitlines():
            if found := re.match(r"([A-Za-z0-9._-]+)==(\S+)", line):
                pins[str(canonicalize_name(found[1]))] = found[2]
    return pins


def closure(roots: Iterable[tuple[str, bool]]) -> set[str]:
    """The roots and all that they require, by the metadata of what is installed here.

    Args:
        roots: requirement, and whether its own requirements count.

    Raises SettingsError for a package that is not installed.
    """
    found: set[str] = set()
    done: set[tuple[str, frozenset[str]]] = set()
    waiting = [(Requirement(root), with_dependencies) for root, with_dependencies in roots]
    while waiting:
        requirement, with_dependencies = waiting.pop()
        package = str(canonicalize_name(requirement.name))
        found.add(package)
        if not with_dependencies or (package, frozenset(requirement.extras)) in done:
            continue
        done.add((package, frozenset(requirement.extras)))
        waiting.extend((needed, True) for needed in _requirements(package, requirement.extras))
    return found


def _requirements(package: str, extras: Iterable[str]) -> Iterator[Requirement]:
    try:
        declared = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise SettingsError(f"package {package} is not installed", remedy="run `make install`") from error
    for line in declared:
        needed = Requirement(line)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            yield needed


def _roots(file: Path) -> tuple[list[tuple[str, bool]], set[str]]:
    lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    left_out = {str(canonicalize_name(line.removeprefix(LEFT_OUT))) for line in lines if line.startswith(LEFT_OUT)}
    roots = [line for line in lines if line and not line.startswith(LEFT_OUT)]
    return [
        (root.removesuffix(NO_DEPENDENCIES).strip(), not root.endswith(NO_DEPENDENCIES)) for root in roots
    ], left_out
