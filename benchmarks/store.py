"""How fast the store moves a model, against the storage emulator's own rate: the table of docs/data_on_the_cluster.md.

    python benchmarks/store.py                # 104 MB in twelve files, as a small model's folder
    python benchmarks/store.py --large 400    # and one file of 400 MB, which goes in parts

The raw rate is that of plain requests, one after the other, by the resumable protocol that large objects need: bytes
from disk to the emulator, and back to disk. Raw and store take turns in one run, so that both see the same machine. The
store reads everything once more for its digests, and the emulator digests again what a real bucket joins for nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import requests

from unifl.data.store import pull, push

BUCKET = "benchmark"
MODEL = {"unet/weights.bin": 44, "vae/weights.bin": 34, "text_encoder/weights.bin": 17, "segmenter.bin": 8}
"""Files of a small model's folder, in MB; eight of 0.1 MB come on top."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the median counts")
    parser.add_argument("--workers", type=int, default=4, help="transfers at once (the emulator serves one)")
    parser.add_argument("--large", type=int, default=0, help="measure one file of this many MB instead")
    arguments = parser.parse_args()
    files = (
        {"weights.bin": float(arguments.large)}
        if arguments.large
        else {**MODEL, **{f"{i}.json": 0.1 for i in range(8)}}
    )
    with tempfile.TemporaryDirectory() as scratch, emulator() as host:
        os.environ["STORAGE_EMULATOR_HOST"] = host
        folder = Path(scratch, "model")
        rows = measure(host, folder, files, arguments.repeats, arguments.workers)
    print(f"| {sum(files.values()):.0f} MB, {len(files)} files | emulator, MB/s | store, MB/s | store : emulator |")
    print("|---|---|---|---|")
    for name, raw, ours in rows:
        ratio = statistics.median(o / r for o, r in zip(ours, raw, strict=True))
        print(f"| {name} | {statistics.median(raw):.1f} | {statistics.median(ours):.1f} | {ratio:.2f} |")


def measure(
    host: str, folder: Path, files: dict[str, float], repeats: int, workers: int
) -> list[tuple[str, list[float], list[float]]]:
    """(direction, raw rates, store's rates) in MB/s, a pair a round."""
    size = sum(files.values())
    rates: dict[str, list[float]] = {"raw up": [], "up": [], "raw down": [], "down": []}
    for number in range(repeats + 1):
        shutil.rmtree(folder, ignore_errors=True)
        for name, megabytes in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(os.urandom(int(megabytes * 1e6)))
        fetched = [folder.with_name(f"fetched-{kind}") for kind in ("raw", "store")]
        addresses: list[str] = []

        def send() -> None:
            addresses.append(push(folder, f"gs://{BUCKET}/store", workers=workers).address)  # noqa: B023

        def fetch() -> None:
            pull(addresses[0], fetched[1], workers=workers)  # noqa: B023

        turns: list[tuple[str, Callable[[], None]]] = [
            ("raw up", lambda: send_plainly(host, folder, files)),
            ("up", send),
            ("raw down", lambda: fetch_plainly(host, fetched[0], files)),  # noqa: B023
            ("down", fetch),
        ]
        if number % 2:  # each goes first as often as second
            turns = [turns[1], turns[0], turns[3], turns[2]]
        for name, turn in turns:
            began = time.perf_counter()
            turn()
            if number:  # the first round warms up
                rates[name].append(size / (time.perf_counter() - began))
        for copy in fetched:
            shutil.rmtree(copy)
        requests.get(f"{host}/wipe?keep-buckets=true", timeout=60).raise_for_status()
    return [("upload", rates["raw up"], rates["up"]), ("download", rates["raw down"], rates["down"])]


def send_plainly(host: str, folder: Path, files: dict[str, float]) -> None:
    session = requests.Session()
    for name in files:
        address = f"{host}/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable&name=raw/{quote(name)}"
        begun = session.post(address, json={}, timeout=60)
        content = (folder / name).read_bytes()
        whole = {"Content-Range": f"bytes 0-{len(content) - 1}/{len(content)}"}
        session.put(begun.headers["Location"], data=content, headers=whole, timeout=600).raise_for_status()


def fetch_plainly(host: str, target: Path, files: dict[str, float]) -> None:
    session = requests.Session()
    for name in files:
        address = f"{host}/download/storage/v1/b/{BUCKET}/o/{quote(f'raw/{name}', safe='')}?alt=media"
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with session.get(address, stream=True, timeout=600) as answer, open(target / name, "wb") as stream:
            answer.raise_for_status()
            shutil.copyfileobj(answer.raw, stream, 2**20)


@contextmanager
def emulator() -> Iterator[str]:
    """The address of a storage emulator that keeps its objects in memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--in-memory", "--quiet", "--default-bucket", BUCKET], stderr=subprocess.DEVNULL
    )
    try:
        host = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                requests.get(host, timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        yield host
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    main()
