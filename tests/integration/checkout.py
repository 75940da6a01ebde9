"""A copy of this checkout in a folder of its own, so that runs and DVC leave nothing behind in the working tree."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TINY = "tests/integration/tiny.yaml"


@dataclass(frozen=True)
class Checkout:
    """A checkout with one commit, as a fresh clone has it: tracked files only, no data but the embedded remote."""

    folder: Path

    @classmethod
    def copied(cls, folder: Path) -> "Checkout":
        """Copy what git knows, or would take in, of the working tree, and commit it."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout.decode()
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, target)
        checkout = cls(folder)
        for arguments in (
            ["init", "--quiet"],
            ["config", "user.name", "test"],
            ["config", "user.email", "test@example.org"],
            ["add", "--all"],
            ["commit", "--quiet", "--message", "A copy"],
        ):
            subprocess.run(["git", *arguments], cwd=folder, check=True)
        return checkout

    def python(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run this environment's Python in the checkout, on the checkout's own source."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def dvc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "dvc", *arguments)

    def run(self, *overrides: str, preset: str = TINY) -> subprocess.CompletedProcess[str]:
        """`python -m pipelines run` with a preset of a few updates."""
        options = [option for override in overrides for option in ("--set", override)]
        return self.python("-m", "pipelines", "run", "--preset", preset, *options)

    def environment(self) -> dict[str, str]:
        bin_folder = str(Path(sys.executable).parent)
        return {
            **os.environ,
            "PYTHONPATH": str(self.folder / "src"),
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
        }
