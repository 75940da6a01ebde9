"""resolve_data on a real DVC repository with an embedded remote: right bytes, right commit, no silent change."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from unifl.core.digest import dvc_md5, sha256_path
from unifl.core.errors import DataContractError, SettingsError
from unifl.core.step import Metrics, execute
from unifl.data.resolve import resolve
from unifl.steps.resolve_data import OUTPUTS, ResolveDataSettings

PATHS = ResolveDataSettings().paths


def git(repository: Path, *arguments: str) -> str:
    name = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
    answer = subprocess.run(
        ["git", "-C", str(repository), *name, *arguments], capture_output=True, text=True, check=True
    )
    return answer.stdout.strip()


def write_data(repository: Path, word: str) -> None:
    for name, path in PATHS.items():
        target = repository / path
        if target.suffix:
            target.write_text(f"{name} {word}")
        else:
            (target / "inner").mkdir(parents=True, exist_ok=True)
            (target / "inner" / "file.txt").write_text(f"{name} {word}")


def track(repository: Path, message: str) -> str:
    from dvc.repo import Repo

    with Repo(str(repository)) as repo:
        repo.add([str(repository / path) for path in PATHS.values()])
        repo.push()
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", message)
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A repository with two versions of the data, both in its embedded remote, and none in its cache."""
    from dvc.repo import Repo

    repository = tmp_path_factory.mktemp("repository")
    git(repository, "init", "-q")
    with Repo.init(str(repository)):
        pass
    (repository / ".dvc" / "config").write_text(
        "[core]\n    remote = seed\n    analytics = false\n['remote \"seed\"']\n    url = ../data/seed\n"
    )
    (repository / "data").mkdir()
    write_data(repository, "first")
    first = track(repository, "First data")
    write_data(repository, "second")
    second = track(repository, "Second data")
    shutil.rmtree(repository / ".dvc" / "cache")
    return repository, first, second


@pytest.fixture
def fresh(origin: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone: pointers and the embedded remote, no data and no cache."""
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(origin[0]), str(clone)], check=True)
    assert not (clone / "data" / "images").exists()
    return clone


def resolve_data(repository: Path, out: Path, **settings: Any) -> Metrics:
    outputs = {name: out / name for name in OUTPUTS}
    return execute("resolve_data", {}, outputs, {"repository": str(repository), **settings}, record=out / "record.json")


def test_a_fresh_clone_resolves_from_its_embedded_remote(
    fresh: Path, origin: tuple[Path, str, str], tmp_path: Path
) -> None:
    metrics = resolve_data(fresh, tmp_path / "out")
    assert (tmp_path / "out" / "images" / "inner" / "file.txt").read_text() == "images second"
    assert (tmp_path / "out" / "prompts").read_text() == "prompts second"
    assert metrics["images_sha256"] == sha256_path(tmp_path / "out" / "images")


def test_the_record_names_repository_commit_path_and_dvc_digest(
    fresh: Path, origin: tuple[Path, str, str], tmp_path: Path
) -> None:
    resolve_data(fresh, tmp_path / "out", revision=origin[1])
    assert (tmp_path / "out" / "images" / "inner" / "file.txt").read_text() == "images first"
    statement = json.loads((tmp_path / "out" / "record.json").read_text())
    materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    images = next(material for material in materials if material["name"] == "images")
    assert images["uri"] == f"dvc+{fresh}@{origin[1]}#data/images"
    assert images["annotations"]["dvc"]["md5"] == dvc_md5(tmp_path / "out" / "images")
    assert images["digest"]["sha256"] == sha256_path(tmp_path / "out" / "images")


def test_an_address_without_a_checkout_resolves_from_the_remote_that_the_commit_holds(
    origin: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a pod has: no checkout. The bare repository has no folder data/seed either, only commits that hold it.
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    bare = tmp_path / "repository.git"
    subprocess.run(["git", "clone", "-q", "--bare", str(origin[0]), str(bare)], check=True)
    monkeypatch.chdir(tmp_path)
    address = f"file://{bare}"
    for revision, word in ((origin[1], "first"), (origin[2], "second")):
        out = tmp_path / word
        outputs = {name: out / name for name in OUTPUTS}
        execute("resolve_data", {}, outputs, {"repository": address, "revision": revision}, record=out / "record.json")
        assert (out / "images" / "inner" / "file.txt").read_text() == f"images {word}"
        assert (out / "prompts").read_text() == f"prompts {word}"


def test_digests_are_known_before_anything_is_fetched(fresh: Path, origin: tuple[Path, str, str]) -> None:
    resolved = resolve(str(fresh), None, PATHS)
    assert resolved.commit == origin[2]
    assert resolved.md5["images"] == dvc_md5(origin[0] / "data" / "images")
    assert resolved.md5["prompts"] == dvc_md5(origin[0] / "data" / "prompts.parquet")
    assert not (fresh / "data" / "images").exists()


def test_pointers_that_no_commit_holds_are_named_as_such(fresh: Path, origin: tuple[Path, str, str]) -> None:
    pointer = fresh / "data" / "images.dvc"
    pointer.write_text(git(fresh, "show", f"{origin[1]}:data/images.dvc") + "\n")
    assert resolve(str(fresh), None, PATHS).commit == f"{origin[2]}-uncommitted"
    assert resolve(str(fresh), origin[1], PATHS).commit == origin[1]


def test_expected_digests_are_checked_as_sha256_and_as_dvc_md5(
    fresh: Path, origin: tuple[Path, str, str], tmp_path: Path
) -> None:
    images, prompts = origin[0] / "data" / "images", origin[0] / "data" / "prompts.parquet"
    resolve_data(fresh, tmp_path / "out", expected={"images": dvc_md5(images), "prompts": sha256_path(prompts)})
    with pytest.raises(DataContractError, match=r"images has another digest .*data/images"):
        resolve_data(fresh, tmp_path / "other", revision=origin[1], expected={"images": dvc_md5(images)})
    assert not list((tmp_path / "other").iterdir())


def test_a_changed_working_folder_is_not_taken_for_the_tracked_data(
    fresh: Path, origin: tuple[Path, str, str], tmp_path: Path
) -> None:
    write_data(fresh, "changed by hand")
    with pytest.raises(DataContractError, match=r"not what DVC's pointer says .*dvc checkout"):
        resolve_data(fresh, tmp_path / "out")


def test_a_folder_without_git_resolves_its_working_folder(fresh: Path, tmp_path: Path) -> None:
    shutil.rmtree(fresh / ".git")
    resolve_data(fresh, tmp_path / "out")
    assert (tmp_path / "out" / "scorer" / "inner" / "file.txt").read_text() == "scorer second"
    with pytest.raises(SettingsError, match=r"without \.git"):
        resolve_data(fresh, tmp_path / "out", revision="main")


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"revision": "no-such-tag"}, SettingsError, "no-such-tag"),
        ({"repository": "/no/such/place"}, SettingsError, "can't be opened"),
        ({"paths": {**PATHS, "images": "data/none"}}, DataContractError, "data/none"),
        ({"paths": {"images": "data/images"}}, SettingsError, "prompts has no path"),
        ({"expected": {"images": "abc"}}, SettingsError, "neither a SHA-256 nor"),
        ({"expected": {"pictures": "0" * 64}}, SettingsError, "pictures is not an output"),
    ],
)
def test_what_cannot_be_resolved_is_one_line_with_a_reason(
    fresh: Path, tmp_path: Path, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        resolve_data(Path(settings.pop("repository", fresh)), tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)


def test_data_missing_from_the_remote_is_named(fresh: Path, tmp_path: Path) -> None:
    shutil.rmtree(fresh / "data" / "seed")
    with pytest.raises(DataContractError, match="remedy"):
        resolve_data(fresh, tmp_path / "out")
