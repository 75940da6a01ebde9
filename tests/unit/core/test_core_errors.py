"""The error family: one line, a code each, a full disk recognised whoever reports it."""

import errno
import pickle

import pytest

from unifl.core import errors
from unifl.core.errors import DataContractError, UniflError, is_disk_full


def test_an_error_is_one_line_with_step_file_row_expectation_and_remedy() -> None:
    error = DataContractError(
        "a\nbad axis", step="reward_model", file="p.parquet", row=7, expected="color", remedy="mend it"
    )
    assert str(error) == "reward_model: a bad axis (file p.parquet, row 7); expected color; remedy: mend it"


def test_every_exit_code_belongs_to_one_error_and_is_documented() -> None:
    family = UniflError.__subclasses__()
    codes = {error.exit_code for error in family}
    assert codes == set(range(2, 14))
    assert len(family) == len(codes)
    for error in family:
        assert f"{error.__name__}" in str(errors.__doc__)


def test_an_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(DataContractError("bad", file="x", row=1, remedy="mend")))
    assert str(error) == "bad (file x, row 1); remedy: mend"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_recognised_in_any_library_s_words(error: Exception) -> None:
    outer = RuntimeError("writing failed")
    outer.__cause__ = error
    assert is_disk_full(error)
    assert is_disk_full(outer)
    assert not is_disk_full(OSError(errno.ENOENT, "No such file"))
