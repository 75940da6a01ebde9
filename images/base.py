"""A base for test builds where no registry of images is in reach: Debian's own packages, cut down as slim bases are.

An image on this base is for tests: it says so in its labels, and `push` refuses it.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from images.engine import docker
from unifl.core.errors import UniflError

TEST_BASE = "unifl-test-base:bookworm"
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
SECURITY_MIRROR = "http://deb.debian.org/debian-security"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
UNWANTED = (
    "usr/share/locale",
    "usr/share/man",
    "usr/share/info",
    "usr/share/lintian",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
)


def ensure_test_base(renew: bool = False) -> str:
    """Make `TEST_BASE` unless the engine has it (2 minutes, root on Debian); returns one line about it.

    Args:
        renew: make it anew, with today's security updates, although the engine has one.

    Raises UniflError when this user or system can't.
    """
    if not renew and docker("image", "ls", "--quiet", TEST_BASE).strip():
        return f"{TEST_BASE} is there"
    if os.geteuid() != 0:
        raise UniflError("the base for tests is made by debootstrap, which needs root", remedy="run as root")
    if shutil.which("debootstrap") is None:
        _run("apt-get", "--quiet", "update")
        _run("apt-get", "--quiet", "install", "--yes", "--no-install-recommends", "debootstrap")
    with tempfile.TemporaryDirectory(prefix="unifl-base-") as scratch:
        root = Path(scratch, "root")
        try:
            _run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root), MIRROR)
            # debootstrap knows one archive only, and Debian keeps its security updates in another.
            sources = root / "etc/apt/sources.list"
            sources.write_text(f"deb {MIRROR} {SUITE} main\ndeb {SECURITY_MIRROR} {SUITE}-security main\n")
            for command in (["update"], ["upgrade", "--yes", "--no-install-recommends"], ["clean"]):
                _run("chroot", str(root), "apt-get", "--quiet", "-o", "APT::Update::Error-Mode=any", *command)
        finally:
            # debootstrap leaves it mounted when it runs in a container, and sometimes elsewhere.
            while os.path.ismount(root / "proc"):
                _run("umount", str(root / "proc"))
        for folder in UNWANTED:
            shutil.rmtree(root / folder, ignore_errors=True)
        for file in (root / "usr/share/doc").rglob("*"):
            if file.is_file() and file.name != "copyright":
                file.unlink()
        archive = Path(scratch, "root.tar")
        mounted = [f"--exclude=./{folder}/*" for folder in ("proc", "sys", "dev")]
        _run("tar", "--create", "--file", str(archive), "--directory", str(root), "--one-file-system", *mounted, ".")
        docker("import", "--change", 'CMD ["python3"]', str(archive), TEST_BASE)
    return f"made {TEST_BASE}"


def _run(*command: str) -> None:
    if subprocess.run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=False).returncode != 0:
        raise UniflError(f"{command[0]} failed", remedy="its lines above say why")
