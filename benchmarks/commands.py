"""What the commands of `python -m pipelines` cost besides the network: the figures of docs/performance.md.

    python benchmarks/commands.py               # five rounds, in turns, against an emulated server on this machine

CPU seconds of whole processes, so that what else the machine does hardly counts, and their ratio to importing kfp,
which no submission can do without.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "import kfp": ["-c", "import kfp"],
    "--help": ["-m", "pipelines", "--help"],
    "compile": ["-m", "pipelines", "compile", "--out", "compiled"],
    "submit": ["-m", "pipelines", "submit", "--allow-dirty"],
    "schedule create": ["-m", "pipelines", "schedule", "create", "--allow-dirty", "--cron", "0 3 * * 1"],
}


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    sys.path.insert(0, str(ROOT))
    from tests.cluster.conftest import copy_of_this_checkout
    from tests.cluster.fake_server import FakeServer

    server = FakeServer()
    spent: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as scratch:
        checkout = copy_of_this_checkout(Path(scratch))
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = {**os.environ, "KF_PIPELINES_ENDPOINT": server.host, "PYTHONPATH": paths}
        for _ in range(arguments.repeats):
            for name, command in COMMANDS.items():
                spent[name].append(cpu_seconds(command, checkout, environment))
    server.close()
    base = statistics.median(spent["import kfp"])
    print("| command | CPU s | : importing kfp |\n|---|---|---|")
    for name, seconds in spent.items():
        median = statistics.median(seconds)
        print(f"| {name} | {median:.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {median / base:.1f} |")


def cpu_seconds(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """CPU seconds of one Python process. Raises CalledProcessError when it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
