"""The store on the real emulator and on a folder: what is sent comes back, once, whole, and never mixed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.storage.front import Front
from unifl.core.digest import sha256_path
from unifl.core.errors import DataContractError, SettingsError, StorageError
from unifl.data.store import Publication, open_place, pull, push, verify

SMALL_PARTS = {"whole": 300_000, "part": 100_000}
"""The file of 1 MB goes in ten parts."""


@pytest.fixture(params=["bucket", "folder"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "store")
    return f"gs://{request.getfixturevalue('bucket')}/some/where"


def start(front: Front, call: str) -> subprocess.Popen[bytes]:
    """A process of its own that can be killed."""
    code = f"from pathlib import Path; from unifl.data.store import push, pull; {call}"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


def test_a_folder_comes_back_as_it_was_sent(root: str, model: Path, tmp_path: Path) -> None:
    stored = push(model, root, **SMALL_PARTS)
    assert stored.address == f"{root}/sets/{sha256_path(model)}"
    assert verify(stored.address).size == 1_120_013
    fetched = pull(stored.address, tmp_path / "fetched", part=300_000)
    assert fetched.sha256 == sha256_path(tmp_path / "fetched") == sha256_path(model)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_bucket_holds_the_files_under_their_names_and_no_parts(bucket: str, model: Path) -> None:
    stored = push(model, f"gs://{bucket}", **SMALL_PARTS)
    place = open_place(f"gs://{bucket}")
    names = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    assert set(place.objects(f"sets/{stored.sha256}")) == {f"sets/{stored.sha256}/{name}" for name in names}
    assert not place.objects("parts/")
    weights = place.objects(f"sets/{stored.sha256}/unet/weights.bin")
    assert next(iter(weights.values())).sha256 == sha256_path(model / "unet" / "weights.bin")


def test_what_is_there_is_not_sent_again(front: Front, bucket: str, model: Path) -> None:
    first = push(model, f"gs://{bucket}/a", **SMALL_PARTS)
    front.asked.clear()
    assert push(model, f"gs://{bucket}/a", name="latest", **SMALL_PARTS).address == first.address
    assert [each.name for each in front.uploads()] == ["a/names/latest.json"]


def test_every_write_says_which_generation_it_replaces(front: Front, bucket: str, model: Path) -> None:
    push(model, f"gs://{bucket}", name="latest", **SMALL_PARTS)
    assert len(front.writes()) > 14
    assert {each.query.get("ifGenerationMatch") for each in front.writes()} == {"0"}
    front.asked.clear()
    (model / "more.txt").write_text("more")
    push(model, f"gs://{bucket}", name="latest", **SMALL_PARTS)
    moved = [each for each in front.writes() if each.query["ifGenerationMatch"] != "0"]
    assert [each.name for each in moved] == ["names/latest.json"]


def test_an_upload_cut_in_the_middle_sends_no_finished_part_again(front: Front, bucket: str, model: Path) -> None:
    finished, enough = [], threading.Event()

    def stall_after_four(method: str, path: str, query: dict[str, str], body: bytes) -> None:
        if method == "PUT" and len([each for each in front.uploads() if each.method == "PUT"]) >= 4:
            enough.set()
            threading.Event().wait()

    front.before = stall_after_four
    process = start(front, f"push(Path({str(model)!r}), 'gs://{bucket}/x', workers=2, whole=300_000, part=100_000)")
    assert enough.wait(120)
    process.kill()
    process.wait(30)
    assert "x/manifests" not in json.dumps(list(open_place(f"gs://{bucket}/x").objects("")))
    finished = sorted(open_place(f"gs://{bucket}/x").objects("parts/"))
    assert 3 <= len(finished) <= 5
    with pytest.raises(DataContractError, match="its upload has not ended"):
        verify(f"gs://{bucket}/x/sets/{sha256_path(model)}")

    front.before = lambda *_: None
    front.asked.clear()
    stored = push(model, f"gs://{bucket}/x", **SMALL_PARTS)
    sent = [each.name.removeprefix("x/") for each in front.uploads() if each.name.startswith("x/parts/")]
    assert sorted({*sent, *finished}) == sorted(finished + list(dict.fromkeys(sent)))
    assert len({*sent, *finished}) == 10
    assert verify(stored.address).sha256 == sha256_path(model)


def test_a_connection_that_breaks_once_is_taken_up_again(front: Front, bucket: str, model: Path) -> None:
    cut: list[str] = []

    def cut_once(method: str, path: str, query: dict[str, str], body: bytes) -> None:
        if method == "PUT" and not cut:
            cut.append(path)
            raise ConnectionResetError

    front.before = cut_once
    stored = push(model, f"gs://{bucket}", **SMALL_PARTS)
    assert cut
    assert verify(stored.address).sha256 == sha256_path(model)


def test_a_download_cut_in_the_middle_fetches_no_finished_range_again(
    front: Front, bucket: str, model: Path, tmp_path: Path
) -> None:
    stored = push(model, f"gs://{bucket}")
    enough, ranges = threading.Event(), [0]

    def stall_after_five(method: str, path: str, query: dict[str, str], body: bytes) -> None:
        if method == "GET" and query.get("alt") == "media" and "/sets" in path.replace("%2F", "/"):
            ranges[0] += 1
            if ranges[0] > 5:
                enough.set()
                threading.Event().wait()

    front.before = stall_after_five
    target = tmp_path / "fetched"
    process = start(front, f"pull({stored.address!r}, Path({str(target)!r}), workers=1, part=100_000)")
    assert enough.wait(120)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert not target.exists()

    ranges[0] = -1000
    pull(stored.address, target, part=100_000)
    # 10 ranges of the weights, 2 of the autoencoder, 1 of the configuration: 5 were there.
    assert ranges[0] + 1000 == 13 - 5
    assert sha256_path(target) == stored.sha256


def overwrite(front: Front, bucket: str, key: str, content: bytes) -> None:
    """What no writer of ours does: replace an object, keeping what its metadata says."""
    about = requests.get(f"{front.host}/storage/v1/b/{bucket}/o/{key.replace('/', '%2F')}", timeout=30).json()
    body = b"\r\n".join(
        [
            b"--x\r\nContent-Type: application/json\r\n",
            json.dumps({"name": key, "metadata": about["metadata"]}).encode(),
            b"--x\r\nContent-Type: application/octet-stream\r\n",
            content,
            b"--x--",
        ]
    )
    requests.post(
        f"{front.host}/upload/storage/v1/b/{bucket}/o?uploadType=multipart",
        data=body,
        headers={"Content-Type": "multipart/related; boundary=x"},
        timeout=30,
    ).raise_for_status()


def test_a_corrupted_object_is_refused(front: Front, bucket: str, model: Path, tmp_path: Path) -> None:
    stored = push(model, f"gs://{bucket}", **SMALL_PARTS)
    overwrite(front, bucket, f"sets/{stored.sha256}/vae.bin", b"x" * 120_000)
    for refuse in (
        lambda: pull(stored.address, tmp_path / "fetched"),
        lambda: verify(stored.address),
        lambda: push(model, f"gs://{bucket}"),
    ):
        with pytest.raises(DataContractError, match=r"corrupted.*vae\.bin.*remedy") as caught:
            refuse()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "fetched").exists()


def test_a_corrupted_file_of_a_folder_is_refused(model: Path, tmp_path: Path) -> None:
    stored = push(model, str(tmp_path / "store"))
    (Path(stored.address) / "vae.bin").write_bytes(b"x" * 120_000)
    with pytest.raises(DataContractError, match=r"corrupted.*vae\.bin"):
        pull(stored.address, tmp_path / "fetched")
    with pytest.raises(DataContractError, match=r"corrupted.*vae\.bin"):
        verify(stored.address)


def test_a_corrupted_object_is_fetched_anew_once_it_is_mended(
    front: Front, bucket: str, model: Path, tmp_path: Path
) -> None:
    stored = push(model, f"gs://{bucket}")
    overwrite(front, bucket, f"sets/{stored.sha256}/vae.bin", b"x" * 120_000)
    with pytest.raises(DataContractError, match="corrupted"):
        pull(stored.address, tmp_path / "fetched")
    overwrite(front, bucket, f"sets/{stored.sha256}/vae.bin", (model / "vae.bin").read_bytes())
    pull(stored.address, tmp_path / "fetched")
    assert sha256_path(tmp_path / "fetched") == stored.sha256


def flipped(content: bytes) -> bytes:
    return content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]


def test_bytes_damaged_on_the_way_up_are_refused_by_the_bucket(front: Front, bucket: str, model: Path) -> None:
    front.damage = lambda method, path, content: (
        flipped(content) if method == "PUT" and len(content) > 99_000 else content
    )
    with pytest.raises(StorageError, match="other bytes than were sent"):
        push(model, f"gs://{bucket}", **SMALL_PARTS)
    there = open_place(f"gs://{bucket}").objects("")
    assert not [key for key in there if key.startswith(("parts/", "manifests/")) or key.endswith("weights.bin")]


def test_bytes_damaged_on_the_way_down_are_refused(front: Front, bucket: str, model: Path, tmp_path: Path) -> None:
    stored = push(model, f"gs://{bucket}")
    front.damage = lambda method, path, content: flipped(content) if len(content) > 99_000 else content
    with pytest.raises(DataContractError, match="corrupted"):
        pull(stored.address, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_of_two_writers_of_a_name_the_second_to_end_is_refused(root: str, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (other / "vae.bin").write_bytes(b"another model")
    push(model, root, name="latest")

    slow = Publication(open_place(root), "latest")
    quick = push(other, root, name="latest")
    (model / "unet" / "config.json").write_text("{}")
    mine = push(model, root)
    with pytest.raises(StorageError, match="another writer has published latest meanwhile"):
        slow.move(mine)
    assert verify(f"{root}/names/latest").sha256 == quick.sha256
    assert verify(mine.address).sha256 == sha256_path(model)


def test_two_writers_at_once_never_mix(root: str, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (other / "vae.bin").write_bytes(os.urandom(120_000))
    both = threading.Barrier(4)

    def write(folder: Path) -> str:
        both.wait()
        try:
            return push(folder, root, name="latest", workers=2, **SMALL_PARTS).sha256
        except StorageError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(write, [model, other, model, other]))
    sets = {sha256_path(model), sha256_path(other)}
    assert all(each in sets or "another writer has published" in each for each in ended), ended
    for sha256 in sets:
        assert verify(f"{root}/sets/{sha256}").sha256 == sha256
    winner = verify(f"{root}/names/latest").sha256
    assert winner in sets
    pull(f"{root}/names/latest", tmp_path / "fetched")
    assert sha256_path(tmp_path / "fetched") == winner


def test_a_download_is_for_one_process_at_a_time(front: Front, bucket: str, model: Path, tmp_path: Path) -> None:
    stored = push(model, f"gs://{bucket}")
    refused: list[str] = []

    def again(method: str, path: str, query: dict[str, str], body: bytes) -> None:
        if query.get("alt") == "media" and "sets" in path and not refused:
            refused.append("")
            with pytest.raises(StorageError) as caught:
                pull(stored.address, tmp_path / "fetched")
            refused[0] = str(caught.value)

    front.before = again
    pull(stored.address, tmp_path / "fetched", workers=1)
    assert "another process fetches the same set" in refused[0]


@pytest.fixture
def manifest(model: Path, tmp_path: Path) -> Path:
    stored = push(model, str(tmp_path / "store"))
    return tmp_path / "store" / "manifests" / f"{stored.sha256}.json"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("vae.bin", "../vae.bin"), "the manifest is corrupted"),
        (lambda text: text.replace('"size"', '"length"'), "no manifest of a set"),
        (lambda text: text[:40], "no manifest of a set"),
    ],
)
def test_a_manifest_that_is_not_what_its_address_says_is_refused(
    manifest: Path, tmp_path: Path, change: object, words: str
) -> None:
    manifest.write_text(change(manifest.read_text()))  # type: ignore[operator]
    with pytest.raises(DataContractError, match=words):
        pull(f"{tmp_path}/store/sets/{manifest.stem}", tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


@pytest.mark.parametrize("path", ["../outside.txt", "/outside.txt"])
def test_a_set_can_not_write_outside_its_folder(tmp_path: Path, path: str) -> None:
    from unifl.data.store import Manifest, SetFile

    manifest = Manifest(files={path: SetFile(sha256="0" * 64, size=1, crc32c="AAAAAA==")})
    (tmp_path / "store" / "manifests").mkdir(parents=True)
    (tmp_path / "store" / "manifests" / f"{manifest.sha256}.json").write_text(manifest.model_dump_json())
    with pytest.raises(DataContractError, match="outside its folder"):
        pull(f"{tmp_path}/store/sets/{manifest.sha256}", tmp_path / "fetched")


def test_a_file_that_belongs_to_no_set_is_refused(bucket: str, front: Front, model: Path) -> None:
    stored = push(model, f"gs://{bucket}")
    open_place(f"gs://{bucket}").write(f"sets/{stored.sha256}/stray.txt", b"stray", "0")
    with pytest.raises(DataContractError, match=r"does not belong to the set.*stray\.txt"):
        verify(stored.address)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: push(model / "vae.bin", "/tmp/x"), "only folders"),
        (lambda model: push(model, "s3://bucket"), "no address of a store"),
        (lambda model: push(model, "gs://UPPER"), "no address of a store"),
        (lambda model: push(model, "/tmp/x", name="a/b"), "is no name"),
        (lambda model: pull("gs://bucket/model", model.parent / "new"), "no address of a set"),
        (lambda model: pull(f"/tmp/x/sets/{'0' * 64}", model), "exists already"),
    ],
)
def test_a_wrong_argument_is_named(model: Path, call: object, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        call(model)  # type: ignore[operator]
