"""Outputs appear whole or not at all, whatever was there before and however the writer ends."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unifl.core.errors import StorageError
from unifl.core.files import atomic_path, write_json_atomic


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "model.safetensors"
    with atomic_path(final) as partial:
        assert partial.name.endswith("model.safetensors")
        partial.write_text("half")
        assert not final.exists()
    assert final.read_text() == "half"
    assert os.listdir(final.parent) == ["model.safetensors"]


def test_an_error_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    final = tmp_path / "x"
    final.write_text("old")

    def write() -> None:
        with atomic_path(final) as partial:
            partial.write_text("new, half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write()
    assert final.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("before", ["nothing", "file", "folder", "link"])
@pytest.mark.parametrize("after", ["file", "folder"])
def test_whatever_was_there_is_replaced(tmp_path: Path, before: str, after: str) -> None:
    final, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("kept")
    if before == "file":
        final.write_text("old")
    elif before == "folder":
        final.mkdir()
        (final / "old").write_text("old")
    elif before == "link":
        final.symlink_to(elsewhere)
    with atomic_path(final) as partial:
        if after == "folder":
            partial.mkdir()
            (partial / "new").write_text("new")
        else:
            partial.write_text("new")
    assert (final / "new" if after == "folder" else final).read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "out"]
    assert (elsewhere / "kept").read_text() == "kept"


def test_rests_of_a_killed_writer_are_swept_away_and_a_living_one_s_are_not(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from unifl.core.files import PartialPath; "
        f"PartialPath(pathlib.Path({str(tmp_path / 'x')!r})).path.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(os.listdir(tmp_path)) == 1
    with atomic_path(tmp_path / "x") as first, atomic_path(tmp_path / "x") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "x").read_text() == "first"
    assert os.listdir(tmp_path) == ["x"]


def test_a_full_disk_is_a_storage_error_with_a_remedy(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "x"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="free some space"):
        write()


def test_a_really_full_device_is_a_storage_error(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "x") as partial:
            partial.write_text("a little")
            with open("/dev/full", "w") as full:
                full.write("more")

    with pytest.raises(StorageError, match="no space left"):
        write()
    assert os.listdir(tmp_path) == []


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    write_json_atomic(file, {"b": 1, "a": "é"})
    assert file.read_text() == '{\n  "b": 1,\n  "a": "é"\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(file, {"loss": float("nan")})
    assert json.loads(file.read_text()) == {"b": 1, "a": "é"}
