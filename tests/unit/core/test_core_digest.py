"""Digests equal what an auditor computes in a shell, and change with every byte and name."""

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import unifl.core.digest
from unifl.core.digest import code_version, folder_files, sha256_file, sha256_manifest, sha256_path
from unifl.core.errors import LineageError

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0\n\r\\"), min_size=1, max_size=12).filter(
    lambda name: name not in {".", ".."} and len(name.encode()) < 200
)


def in_a_shell(folder: Path) -> str:
    """Run the very command that the module's documentation gives."""
    (command,) = re.findall(r"^    cd FOLDER && (.*)$", str(unifl.core.digest.__doc__), re.MULTILINE)
    answer = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=True)
    return answer.stdout.split()[0]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(NAMES, st.binary(max_size=20), max_size=5), inner=NAMES)
def test_a_folder_s_digest_equals_the_documented_shell_command(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], inner: str
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    (folder / "sub" / inner).mkdir(parents=True)
    for name, content in files.items():
        (folder / "sub" / name / "file" if name == inner else folder / "sub" / name).write_bytes(content)
    assert sha256_path(folder) == in_a_shell(folder)


def test_links_count_as_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("same")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").symlink_to(tmp_path / "a" / "x")
    assert sha256_path(tmp_path / "a") == sha256_path(tmp_path / "b") == in_a_shell(tmp_path / "b")


def test_a_renamed_file_changes_the_folder_s_digest(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("same")
    before = sha256_path(tmp_path)
    (tmp_path / "x").rename(tmp_path / "y")
    assert sha256_path(tmp_path) != before


def test_a_folder_s_digest_follows_from_its_manifest_alone(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text(name)
    files = folder_files(tmp_path)
    assert list(files) == ["a", "b"]
    assert files["a"] == sha256_file(tmp_path / "a")
    assert sha256_manifest(files) == sha256_path(tmp_path)


def test_a_name_that_sha256sum_would_escape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a\nb").write_text("x")
    with pytest.raises(LineageError, match="line break"):
        sha256_path(tmp_path)


def test_the_code_version_is_a_digest_over_all_sources() -> None:
    package = Path(unifl.core.digest.__file__).parents[1]
    sources = {path.relative_to(package).as_posix(): sha256_file(path) for path in package.rglob("*.py")}
    code_version.cache_clear()
    assert code_version() == sha256_manifest(sources)
