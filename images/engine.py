"""A Docker engine to build and test with: the one that answers, or Debian's, installed and started where there is none.

Meant for a plain Debian machine or container as root (continuous integration). Where Docker runs already, this changes
nothing.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from unifl.core.errors import UniflError
from unifl.core.files import write_json_atomic

FOLDER = Path(".cache", "docker")
PID_FILE = Path("/run/unifl-docker.pid")
PACKAGES = ("docker.io", "containerd", "runc")
START_SECONDS = 60
STOP_SECONDS = 30

CONFIGURATION = {
    # Containers share the host's network here, so the engine needs no bridge and no rules of a firewall.
    "bridge": "none",
    "iptables": False,
    "ip6tables": False,
    "storage-driver": "overlay2",
    # Without a limit, programs that close every possible descriptor (apt, for one) take minutes.
    "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 1024}},
    "pidfile": str(PID_FILE),
}


def answers() -> bool:
    """Whether `docker` reaches an engine."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def ensure() -> str:
    """Have an engine that answers; returns one line about it.

    Raises UniflError when there is none and this user or system can't have one installed.
    """
    if answers():
        return "Docker answers; nothing to do"
    if shutil.which("dockerd") is None:
        _install()
    _start()
    return f"dockerd runs (log: {FOLDER / 'dockerd.log'}); `python -m images engine --stop` ends it"


def stop() -> str:
    """End the engine that `ensure` started; images stay. Returns one line about it."""
    try:
        pid = int(PID_FILE.read_text(encoding="utf-8"))
        os.kill(pid, signal.SIGTERM)
    except (FileNotFoundError, ProcessLookupError):
        return "no engine of ours runs"
    deadline = time.monotonic() + STOP_SECONDS
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            raise UniflError(f"dockerd (process {pid}) does not end", remedy="end it by hand")
        time.sleep(0.2)
    return "dockerd has ended"


def _install() -> None:
    debian = platform.freedesktop_os_release().get("ID") == "debian"
    if not debian or os.geteuid() != 0:
        raise UniflError(
            "no Docker engine answers",
            expected="Docker, or root on Debian, where this command installs it",
            remedy="start Docker, or name its address in DOCKER_HOST",
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        if subprocess.run(["apt-get", "--quiet", *arguments], env=environment, check=False).returncode != 0:
            raise UniflError(f"apt-get {arguments[0]} failed", remedy="its lines above say why")


def _start() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    configuration, log = FOLDER / "daemon.json", FOLDER / "dockerd.log"
    write_json_atomic(configuration, CONFIGURATION)
    with open(log, "ab") as stream:
        process = subprocess.Popen(
            ["dockerd", "--config-file", str(configuration.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise UniflError(
                "dockerd did not start", file=log, remedy="its last lines say why; it needs root and overlayfs"
            )
        time.sleep(0.5)


def docker(*arguments: str) -> str:
    """The standard output of a docker command. Raises UniflError with Docker's own last line when it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise UniflError(f"docker {arguments[0]} failed: {lines[-1]}")
    return done.stdout


def inspected(image: str) -> dict[str, Any]:
    """What `docker image inspect` says of one image."""
    answer: list[dict[str, Any]] = json.loads(docker("image", "inspect", image))
    return answer[0]
