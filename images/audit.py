"""Security updates of Debian that an image lacks: what the distribution has fixed since the image's base was made.

Asks Debian's own archive of security updates from inside the image, so it knows the image's release and packages. The
Python packages are another matter: `make audit` hands their locks to pip-audit.
"""

import re
from dataclasses import dataclass

from images.base import SECURITY_MIRROR
from images.engine import docker

_LISTING = r"""
set -e
. /etc/os-release
mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial
rm -rf /etc/apt/sources.list.d/*
echo "deb $SECURITY_MIRROR $VERSION_CODENAME-security main" > /etc/apt/sources.list
# Without the mode, apt-get calls an archive that does not answer a success.
apt-get -qq -o APT::Update::Error-Mode=any update
apt list --upgradable 2>/dev/null
"""
_LINE = re.compile(r"^(?P<package>\S+?)/\S+ (?P<fixed>\S+) \S+ \[upgradable from: (?P<installed>\S+)\]$", re.MULTILINE)


@dataclass(frozen=True)
class Pending:
    """A package of Debian that has a security update which the image lacks."""

    package: str
    installed: str
    fixed: str

    def __str__(self) -> str:
        return f"{self.package} {self.installed}, fixed in {self.fixed}"


def pending_updates(image: str) -> list[Pending]:
    """The security updates that the image reference `image` lacks, sorted by package.

    Raises UniflError when the container can't run, or can't reach the archive.
    """
    archive = f"SECURITY_MIRROR={SECURITY_MIRROR}"
    listed = docker("run", "--rm", "--user", "0", "--network", "host", "--env", archive, image, "sh", "-c", _LISTING)
    return sorted((Pending(**found.groupdict()) for found in _LINE.finditer(listed)), key=lambda one: one.package)
