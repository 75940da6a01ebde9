"""A release goes to a bucket through the store: named by content, loadable by address, one published name."""

from pathlib import Path

import pytest

from tests.storage.front import Front
from tests.unit.lineage.family import make_run, publish
from unifl.core.digest import sha256_path
from unifl.core.errors import StorageError
from unifl.data.store import pull, verify
from unifl.data.store_bucket import READING


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a finished run, and the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    (tmp_path / ".git").mkdir()
    make_run(tmp_path)
    return tmp_path


def test_a_release_is_published_under_its_name(bucket: str, checkout: Path, tmp_path: Path) -> None:
    release = publish(checkout, tmp_path / "release", destination=f"gs://{bucket}/unifl")
    assert verify(f"gs://{bucket}/unifl/names/latest").sha256 == sha256_path(release)
    pull(f"gs://{bucket}/unifl/names/latest", tmp_path / "fetched")
    assert sha256_path(tmp_path / "fetched") == sha256_path(release)


def test_without_rights_there_is_no_release_at_all(front: Front, bucket: str, checkout: Path, tmp_path: Path) -> None:
    front.granted = list(READING)
    with pytest.raises(StorageError, match=r"publish: no right to storage\.objects\.create"):
        publish(checkout, tmp_path / "release", destination=f"gs://{bucket}/unifl")
    assert not (tmp_path / "release").exists()
    assert not front.writes()
