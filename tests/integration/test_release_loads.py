"""A published folder is a plain diffusers pipeline: it loads without this project and draws with the tuned weights."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.tiny_base import build_tiny_base
from tests.unit.lineage.family import make_run, publish
from unifl.lineage.verify import verify_model

pytestmark = pytest.mark.integration

DRAW = """
import sys
import numpy as np, torch
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None)
pipeline.set_progress_bar_config(disable=True)
noise = torch.Generator().manual_seed(0)
picture = pipeline("a red fox", num_inference_steps=2, generator=noise, output_type="np").images[0]
np.save(sys.argv[2], picture)
assert "unifl" not in sys.modules
"""


def scaled_unet(base: Path, folder: Path, value: float) -> None:
    """The base's UNet with every weight scaled, in place of a tuned one."""
    shutil.copytree(base / "unet", folder / "unet")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor * (1 + value / 10) for name, tensor in load_file(weights).items()}, weights)


def drawn(folder: Path, file: Path) -> np.ndarray:
    subprocess.run([sys.executable, "-c", DRAW, str(folder), str(file)], check=True, cwd=file.parent)
    picture: np.ndarray = np.load(file)
    return picture


def test_plain_diffusers_loads_a_release_and_draws_with_the_tuned_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "checkout"
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("UNIFL_CHECKPOINTS", str(tmp_path / "checkpoints"))
    base = root / "data" / "base_model"
    make_run(root, build_tiny_base, lambda folder, value: scaled_unet(base, folder, value))
    release = publish(root, tmp_path / "release", name="Tiny")
    assert json.loads((release / "release.json").read_text())["name"] == "Tiny"
    assert not any(check.broken for check in verify_model(release))
    picture = drawn(release, tmp_path / "release.npy")
    assert picture.shape == (64, 64, 3)
    assert np.isfinite(picture).all()
    assert not np.array_equal(picture, drawn(base, tmp_path / "base.npy"))
