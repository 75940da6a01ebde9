"""Which commit an image says it was built from."""

from pathlib import Path

import pytest

from images.build import revision
from unifl.core.record import git


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository with one commit of the files that matter here."""
    for name in ("src/module.py", "images/digests.json", "images/data/Dockerfile", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("first\n", encoding="utf-8")
    author = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    for command in (("init", "--quiet"), ("add", "."), (*author, "commit", "--quiet", "--message", "First")):
        assert git(tmp_path, *command) is not None
    return tmp_path


def test_a_clean_checkout_is_named_by_its_commit(checkout: Path) -> None:
    assert revision(checkout) == git(checkout, "rev-parse", "HEAD")


def test_the_file_that_a_build_writes_does_not_make_the_next_image_dirty(checkout: Path) -> None:
    (checkout / "images" / "digests.json").write_text("built\n", encoding="utf-8")
    assert revision(checkout) == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize("changed", ["src/module.py", "images/data/Dockerfile", "src/new.py"])
def test_a_change_of_what_the_image_holds_is_told(checkout: Path, changed: str) -> None:
    (checkout / changed).write_text("changed\n", encoding="utf-8")
    assert revision(checkout) == f"{git(checkout, 'rev-parse', 'HEAD')}-dirty"


def test_without_git_the_commit_is_unknown(tmp_path: Path) -> None:
    assert revision(tmp_path) == ""
