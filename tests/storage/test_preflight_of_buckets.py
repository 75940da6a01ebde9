"""Preflight looks for what a run takes from buckets: it is there and may be read, or one line names the role."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.storage.front import Front
from unifl.core.errors import StorageError, UniflError
from unifl.core.step import execute
from unifl.data.store import push


def preflight(tmp_path: Path, *addresses: str) -> dict[str, Any]:
    settings = {"data": False, "readable": addresses}
    execute("preflight", {}, {"report": tmp_path / "report.json"}, settings)
    return json.loads((tmp_path / "report.json").read_text())


def refused(tmp_path: Path, *addresses: str, kind: type[UniflError] = StorageError) -> list[str]:
    with pytest.raises(kind):
        preflight(tmp_path, *addresses)
    return json.loads((tmp_path / "report.json").read_text())["problems"]


@pytest.fixture
def stored(bucket: str, model: Path) -> str:
    """The address of a model in the bucket."""
    return push(model, f"gs://{bucket}/run-1/stage1").address


def test_what_is_there_and_may_be_read_passes(front: Front, stored: str, tmp_path: Path) -> None:
    front.asked.clear()
    assert preflight(tmp_path, stored, f"{stored}/", f"{stored}/vae.bin")["passed"]
    assert not [each for each in front.asked if each.query.get("alt") == "media"]


def test_what_lies_beside_is_not_taken_for_it(stored: str, tmp_path: Path) -> None:
    (problem,) = refused(tmp_path, stored[:-1])
    assert problem == f"nothing lies there (file {stored[:-1]}); remedy: check the address"


@pytest.mark.parametrize(
    ("answer", "words", "remedy"),
    [
        ((403, "pod does not have storage.objects.get access"), "storage.objects.get", "roles/storage.objectViewer on"),
        ((401, "Invalid Credentials"), "does not accept the credentials", "(Workload Identity, docs/gke.md)"),
    ],
)
def test_a_bucket_that_refuses_is_one_line_with_the_remedy(
    front: Front, stored: str, tmp_path: Path, answer: tuple[int, str], words: str, remedy: str
) -> None:
    front.refusal = answer
    (problem,) = refused(tmp_path, stored)
    assert words in problem
    assert remedy in problem
    assert "\n" not in problem


def test_every_address_that_is_wrong_is_named(stored: str, tmp_path: Path) -> None:
    told = refused(tmp_path, f"{stored}/none", "gs://no-such-bucket/stage2", stored)
    assert len(told) == 2
    assert "/none" in told[0]
    assert "no-such-bucket" in told[1]


def test_an_address_in_no_bucket_is_refused(tmp_path: Path) -> None:
    from unifl.core.errors import SettingsError

    (problem,) = refused(tmp_path, "gs://bucket", kind=SettingsError)
    assert "is no address in a bucket; expected gs://BUCKET/PATH" in problem
