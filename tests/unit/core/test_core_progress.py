"""Progress: nothing lost on the way, a right rate after a resume, silence for what is short."""

import pytest

from unifl.core import progress as module
from unifl.core.progress import duration, progress, progress_line


def test_progress_hands_every_item_through() -> None:
    assert list(progress("abc", "letters")) == ["a", "b", "c"]
    assert list(progress(5, "updates", start=2)) == [2, 3, 4]
    assert list(progress(iter([1, 2]), "unknown length")) == [1, 2]


def test_short_work_says_nothing_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress(3, "updates"))
    assert capsys.readouterr() == ("", "")


def test_a_log_gets_lines_on_stderr_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_INTERVAL_SECONDS", 0.0)
    list(progress(2, "reward model color", "updates"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0].startswith("reward model color: 1/2 updates")
    assert "left" in err.splitlines()[0]


def test_rate_and_time_left_count_from_the_resume() -> None:
    assert (
        progress_line("tuning", "updates", 60, 100, 50, 20.0) == "tuning: 60/100 updates, 2.0 s/update, 1 min 20 s left"
    )
    assert (
        progress_line("tuning", "updates", 100, 100, 50, 25.0)
        == "tuning: 100/100 updates, 2.0 updates/s, done after 25 s"
    )
    assert progress_line("reading", "rows", 7, None, 0, 7.0) == "reading: 7 rows, 1.0 rows/s"


def test_durations_read_as_a_person_says_them() -> None:
    assert [duration(s) for s in (0, 59.4, 61, 3661, 7620)] == ["0 s", "59 s", "1 min 01 s", "1 h 01 min", "2 h 07 min"]
