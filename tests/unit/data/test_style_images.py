"""The maintainers' stage embedded_images, asked for the images of one style alone."""

from pathlib import Path

import pytest

from tests.tiny_icons import write_tiny_icons
from unifl.core.errors import SettingsError
from unifl.core.step import execute
from unifl.data.contracts import open_images
from unifl.data.vocabulary import HELD_OUT_STYLE


def draw(tmp_path: Path, style: str | None) -> Path:
    icons = write_tiny_icons(tmp_path / "icons")
    settings = {"train": 3, "validation": 1, "test": 2, "processes": 1, "style": style}
    execute("embedded_images", {"icons": icons}, {"images": tmp_path / "images"}, settings)
    return tmp_path / "images"


@pytest.fixture(autouse=True)
def checkpoints_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))


def test_the_held_out_style_is_drawn_when_it_is_asked_for(tmp_path: Path) -> None:
    frame = open_images(draw(tmp_path, HELD_OUT_STYLE)).frame
    assert set(frame["style"]) == {HELD_OUT_STYLE}
    assert frame["split"].value_counts().to_dict() == {"train": 3, "test": 2, "validation": 1}
    assert frame["image_id"].str.startswith(f"{HELD_OUT_STYLE}-").all()


def test_a_style_that_there_is_not_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no style is called 'indgo' \(did you mean indigo\?\)"):
        draw(tmp_path, "indgo")
