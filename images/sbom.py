"""The bill of materials of an image, CycloneDX 1.6: every Python distribution and Debian package that is really in it.

Read from inside the image, so it says what was installed, not what a lock asked for.
"""

import json
from pathlib import Path
from typing import Any

from images.engine import docker
from unifl.core.files import write_text_atomic

_LISTING = r"""
import glob, importlib.metadata as metadata, json, platform, sys
paths = [*sys.path, *glob.glob(sys.prefix + "/share/unifl/*")]
python = [
    {"name": d.name, "version": d.version, "licence": d.metadata["License-Expression"] or ""}
    for d in metadata.distributions(path=paths)
]
debian = []
for block in open("/var/lib/dpkg/status", encoding="utf-8").read().split("\n\n"):
    fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" "))
    if fields.get("Status") == "install ok installed":
        debian.append({"name": fields["Package"], "version": fields["Version"], "architecture": fields["Architecture"]})
print(json.dumps({"python": python, "debian": debian, "interpreter": platform.python_version()}))
"""


def write_sbom(image: str, name: str, version: str, image_id: str, file: Path) -> int:
    """Write the bill of materials of the image reference `image`; returns how many components it lists."""
    listed = json.loads(docker("run", "--rm", "--network", "none", "--read-only", image, "python3", "-c", _LISTING))
    components = [*python_components(listed["python"]), *_debian(listed["debian"])]
    bom = _document(name, version, image_id, listed["interpreter"], components)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(file, bom)
    return len(components)


def python_components(distributions: list[dict[str, str]]) -> list[Any]:
    """CycloneDX components of distributions (`name`, `version`, `licence`: SPDX, another name, or empty)."""
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL
    from packaging.utils import canonicalize_name

    licences = LicenseFactory()
    found = {}
    for one in distributions:
        package = str(canonicalize_name(one["name"]))
        purl = PackageURL("pypi", None, package, one["version"])
        found[purl] = Component(
            type=ComponentType.LIBRARY,
            name=package,
            version=one["version"],
            purl=purl,
            bom_ref=purl.to_string(),
            # What SPDX does not list (LicenseRef-..., as NVIDIA's libraries have) stays as a name.
            licenses=[licences.make_from_string(one["licence"])] if one["licence"] else [],
        )
    return list(found.values())


def _debian(packages: list[dict[str, str]]) -> list[Any]:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    return [
        Component(
            type=ComponentType.LIBRARY,
            name=one["name"],
            version=one["version"],
            purl=(purl := PackageURL("deb", "debian", one["name"], one["version"], {"arch": one["architecture"]})),
            bom_ref=purl.to_string(),
        )
        for one in packages
    ]


def _document(name: str, version: str, image_id: str, interpreter: str, components: list[Any]) -> str:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    subject = Component(
        type=ComponentType.CONTAINER,
        name=name,
        version=version,
        bom_ref=f"{name}@{image_id}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=image_id.removeprefix("sha256:"))],
        properties=[Property(name="io.unifl.python", value=interpreter)],
    )
    bom = Bom(components=components)
    bom.metadata.component = subject
    bom.register_dependency(subject, components)
    return JsonV1Dot6(bom).output_as_string(indent=2)
