"""A released folder: complete, checkable by sha256sum and by lineage anywhere, refused when something is missing."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tests.unit.lineage.family import publish, write_unet
from unifl.core.digest import dvc_md5
from unifl.core.errors import LineageError, ModelLoadError
from unifl.lineage.verify import print_checks, verify_model

RUNS = Path("runs", "dvc")


@pytest.fixture
def release(checkout: Path, tmp_path: Path) -> Path:
    """A release far from its checkout, alone in its folder."""
    made = publish(checkout, tmp_path / "made" / "release", name="Tiny", licence="apache-2.0", description="A test.")
    return Path(shutil.copytree(made, tmp_path / "downloads" / "here" / "release"))


def test_the_release_is_the_base_with_the_tuned_unet(checkout: Path, release: Path) -> None:
    weights = Path("unet", "diffusion_pytorch_model.safetensors")
    tuned, base = checkout / RUNS / "adversarial_feedback" / "tuned_model", checkout / "data" / "base_model"
    assert (release / weights).read_bytes() == (tuned / weights).read_bytes()
    assert (release / weights).read_bytes() != (base / weights).read_bytes()
    for name in ("model_index.json", "vae/config.json"):
        assert (release / name).read_bytes() == (base / name).read_bytes()


def test_sha256sum_checks_the_whole_release(release: Path) -> None:
    answer = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=release, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout
    listed = {line.split(": ")[0] for line in answer.stdout.splitlines()}
    files = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()}
    assert listed == files - {"SHA256SUMS"}


def test_the_model_card_has_metadata_figures_and_origin(checkout: Path, release: Path) -> None:
    card = ModelCard.load(release / "README.md")
    assert card.data.to_dict()["license"] == "apache-2.0"
    assert card.data.to_dict()["pipeline_tag"] == "text-to-image"
    assert "| stage2 | 4 | 5 [4, 6] |" in card.text
    assert dvc_md5(checkout / "data" / "images") in card.text
    assert "| adversarial_feedback |" in card.text


def test_a_release_verifies_anywhere_without_the_run(
    checkout: Path, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(checkout)
    monkeypatch.chdir(release.parent)
    print_checks(verify_model(release))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "the file has changed"),
        ("README.md", "the file has changed"),
        ("vae/config.json", "the file has changed"),
    ],
)
def test_a_changed_file_of_a_release_is_named(release: Path, file: str, words: str) -> None:
    with open(release / file, "ab") as stream:
        stream.write(b" ")
    with pytest.raises(LineageError, match=f"SHA256SUMS lists {file}: {words}"):
        print_checks(verify_model(release))


def test_other_weights_with_matching_checksums_are_still_found(release: Path) -> None:
    write_unet(release, 5.0)
    command = "find . -type f ! -name SHA256SUMS -printf '%P\\0' | xargs -0 sha256sum > SHA256SUMS"
    subprocess.run(command, shell=True, cwd=release, check=True)
    with pytest.raises(LineageError, match=r"release holds unet/.*: the file is not the recorded one"):
        print_checks(verify_model(release))


def test_an_added_file_of_a_release_is_named(release: Path) -> None:
    (release / "run_me.py").write_text("print()")
    with pytest.raises(LineageError, match=r"run_me\.py: the file was added"):
        print_checks(verify_model(release))


def test_a_model_without_a_passed_gate_is_not_published(checkout: Path, tmp_path: Path) -> None:
    record = checkout / RUNS / "quality_gate" / "record.json"
    statement = json.loads(record.read_text())
    statement["predicate"]["runDetails"]["outcome"] = "GateFailed"
    record.write_text(json.dumps(statement))
    with pytest.raises(LineageError, match="no quality gate has passed"):
        publish(checkout, tmp_path / "release")
    assert not (tmp_path / "release").exists()
    publish(checkout, tmp_path / "release", require_gate=False)


def test_a_model_with_a_lost_record_is_not_published(checkout: Path, tmp_path: Path) -> None:
    (checkout / RUNS / "perceptual_feedback" / "record.json").unlink()
    with pytest.raises(LineageError, match="has a record"):
        publish(checkout, tmp_path / "release")


def test_a_model_of_another_base_is_not_published(checkout: Path, tmp_path: Path) -> None:
    write_unet(checkout / "data" / "base_model", 7.0)
    with pytest.raises(ModelLoadError, match="another base"):
        publish(checkout, tmp_path / "release")


def test_a_folder_that_is_no_tuned_model_is_not_published(checkout: Path, tmp_path: Path) -> None:
    (checkout / RUNS / "adversarial_feedback" / "tuned_model" / "base.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="not a tuned model"):
        publish(checkout, tmp_path / "release")
