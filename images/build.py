"""Builds the images and writes what came out: `images/digests.json` for the components, a bill of materials beside it.

A digest belongs to a registry, so a local build has none yet: its entry keeps the tag, and says under `built` which
image that tag meant here. `push` gives the digest.
"""

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from images.base import TEST_BASE, ensure_test_base
from images.engine import docker, inspected
from images.locks import ROOT
from images.sbom import write_sbom
from images.wheels import fetch, served, torch_variant
from unifl.core.digest import code_version, sha256_file, sha256_manifest
from unifl.core.errors import UniflError
from unifl.core.files import write_text_atomic
from unifl.core.record import git

DIGESTS = ROOT / "images" / "digests.json"
MANIFESTS = ROOT / "manifests" / "images" / "kustomization.yaml"
BILLS = ROOT / "dist" / "images"
HED_LOCK = ROOT / "requirements" / "models-hed.lock"
BUILD_LOCK = ROOT / "images" / "build.lock"
PIP_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
# The file of digests lies among these and is written by each build: it must not make the next one look changed.
IN_THE_IMAGES = (
    *("src", "data/expectations", "images", "requirements", "pyproject.toml"),
    f":(exclude){DIGESTS.relative_to(ROOT)}",
)


def build(names: Sequence[str], torch: str, base: str | None, from_index: bool, digests: Path) -> list[dict[str, Any]]:
    """Build the images `names` and return their entries.

    Args:
        names: "data", "train".
        torch: "cpu" or "cuda", for the image that has torch.
        base: reference of the base image; None takes the one that the Dockerfiles name.
        from_index: let the build reach a package index itself, instead of handing it this machine's packages.
        digests: the file to write; made from `images/digests.json` when it does not exist.

    Raises UniflError when a package is missing, or when Docker fails.
    """
    entries = _read(digests if digests.exists() else DIGESTS)
    for name in names:
        entry = entries[name]
        tag = f"{entry['repository']}:{_version()}"
        arguments = {**_identity(name, torch), **({"BASE": base} if base else {})}
        if from_index:
            _docker_build(name, tag, {**arguments, **_pip_configuration()})
        else:
            wheels = fetch(f"train-{torch}" if name == "train" else name, [*_locks(name, torch), BUILD_LOCK])
            if name == "train" and torch_variant(wheels) != torch:
                raise UniflError(
                    f"this machine's pip has another build of torch than {torch}",
                    file=wheels,
                    remedy="set PIP_EXTRA_INDEX_URL to an index that has it, remove the folder and try again",
                )
            with served(wheels) as address:
                _docker_build(name, tag, {**arguments, "PIP_FIND_LINKS": address, "PIP_NO_INDEX": "1"})
        entries[name] = {**entry, "tag": _version(), "digest": None, "built": _facts(tag)}
        components = write_sbom(
            tag, entry["repository"], _version(), entries[name]["built"]["image_id"], BILLS / f"{name}.cdx.json"
        )
        entries[name]["built"]["components"] = components
        # After each image: the next may fail.
        _write(digests, entries)
    return [entries[name] for name in names]


def push(
    names: Sequence[str], registry: str, digests: Path = DIGESTS, manifests: Path = MANIFESTS
) -> list[dict[str, Any]]:
    """Push the built images to `registry` (HOST/PATH), write their digests to both files, and return their entries.

    Raises UniflError for an image that was not built from this source, or whose base is for tests only.
    """
    entries = _read(digests)
    for name in names:
        entry = entries[name]
        built = entry.get("built")
        if built is None or built["code_version"] != code_version():
            raise UniflError(f"the image {name} was not built from this source", file=digests, remedy="make images")
        if built["base"] == TEST_BASE and not registry.startswith(("localhost:", "127.0.0.1:")):
            raise UniflError(
                f"the image {name} stands on a base for tests ({TEST_BASE})",
                remedy="build it where the base that its Dockerfile names can be pulled",
            )
        repository = f"{registry}/{entry['repository'].rpartition('/')[2]}"
        tagged = f"{repository}:{entry['tag']}"
        docker("tag", built["image_id"], tagged)
        _watched(["docker", "push", tagged], f"docker push {tagged}")
        known = [str(one) for one in inspected(tagged)["RepoDigests"]]
        digest = next(one.partition("@")[2] for one in known if one.startswith(f"{repository}@"))
        entries[name] = {**entry, "repository": repository, "digest": digest}
        _write(digests, entries)
        _pin_in_manifests(manifests, repository.rpartition("/")[2], digest)
    return [entries[name] for name in names]


def built_references(names: Sequence[str], digests: Path) -> list[str]:
    """The references of the images `names`. Raises UniflError for one that was not built on this machine."""
    entries = _read(digests)
    missing = [name for name in names if not entries[name].get("built")]
    if missing:
        raise UniflError(f"not built here: {', '.join(missing)}", file=digests, remedy="make images")
    return [f"{entries[name]['repository']}:{entries[name]['tag']}" for name in names]


def _pin_in_manifests(manifests: Path, name: str, digest: str) -> None:
    """Write the digest of the image `name` where the manifests take it from; they don't use every image."""
    text = manifests.read_text(encoding="utf-8")
    pinned = re.sub(rf"(- name: \S*/{re.escape(name)}\n\s+digest: )sha256:[0-9a-f]{{64}}", rf"\g<1>{digest}", text)
    write_text_atomic(manifests, pinned)


def usable_base() -> str | None:
    """None when the base that the Dockerfiles name can be had, else the base for tests, made when it isn't there."""
    base = pinned_base("data")
    if subprocess.run(["docker", "pull", "--quiet", base], capture_output=True, check=False).returncode == 0:
        return None
    ensure_test_base()
    return TEST_BASE


def pinned_base(name: str) -> str:
    """The base image that a Dockerfile names when nobody overrides it."""
    text = (ROOT / "images" / name / "Dockerfile").read_text(encoding="utf-8")
    return next(line.partition("=")[2] for line in text.splitlines() if line.startswith("ARG BASE="))


def _locks(name: str, torch: str) -> list[Path]:
    own = [ROOT / "images" / name / "requirements.lock"]
    return [*own, ROOT / "images" / name / f"torch-{torch}.lock", HED_LOCK] if name == "train" else own


def lock_digest(name: str, torch: str) -> str:
    """SHA-256 over the locks that an image installs from: the folder digest of `unifl.core.digest`."""
    return sha256_manifest({lock.name: sha256_file(lock) for lock in _locks(name, torch)})


def revision(root: Path = ROOT) -> str:
    """The commit of the checkout `root`, with `-dirty` when what the images hold differs from it; "" without git."""
    commit = git(root, "rev-parse", "HEAD") or ""
    changed = git(root, "status", "--porcelain", "--", *IN_THE_IMAGES) if commit else ""
    return f"{commit}-dirty" if changed else commit


def _identity(name: str, torch: str) -> dict[str, str]:
    """Build arguments that the labels show."""
    identity = {
        "VERSION": _version(),
        "COMMIT": revision(),
        "CODE_VERSION": code_version(),
        "LOCK_SHA256": lock_digest(name, torch),
    }
    return {**identity, "TORCH": torch} if name == "train" else identity


def _docker_build(name: str, tag: str, arguments: dict[str, str]) -> None:
    options = [option for key, value in arguments.items() for option in ("--build-arg", f"{key}={value}")]
    file = f"images/{name}/Dockerfile"
    command = ["docker", "build", "--network", "host", "--file", file, "--tag", tag, *options, "."]
    _watched(command, f"docker build --file {file}")


def _watched(command: list[str], short: str) -> None:
    """Run a long command with its own lines shown. Raises UniflError when it fails."""
    print(short, flush=True)
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise UniflError(f"{short} failed", remedy="its lines above say why")


def _pip_configuration() -> dict[str, str]:
    """What pip is told in the build: this environment's index, when it names one."""
    return {variable: os.environ[variable] for variable in PIP_VARIABLES if os.environ.get(variable)}


def _facts(tag: str) -> dict[str, Any]:
    image = inspected(tag)
    labels = image["Config"]["Labels"]
    return {
        "image_id": image["Id"],
        "bytes": image["Size"],
        "base": labels["org.opencontainers.image.base.name"],
        "commit": labels["org.opencontainers.image.revision"],
        "code_version": labels["io.unifl.code-version"],
        "lock_sha256": labels["io.unifl.lock.sha256"],
        **({"torch": labels["io.unifl.torch"]} if "io.unifl.torch" in labels else {}),
    }


def _version() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def _read(digests: Path) -> dict[str, Any]:
    entries: dict[str, Any] = json.loads(digests.read_text(encoding="utf-8"))
    return entries


def _write(digests: Path, entries: dict[str, Any]) -> None:
    digests.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(digests, json.dumps(entries, indent=2) + "\n")
