"""Every input of the three tuning steps, tiny but real: rewards on the packaged trunk, a segmenter, images, prompts."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tests.tiny_base import CAPTIONS
from tests.tiny_examiners import write_tiny_examiners
from tests.tiny_images import NAMES, write_tiny_images
from unifl.data.contracts import PROMPTS
from unifl.data.vocabulary import AXES
from unifl.perception import segmenter
from unifl.rewards.features import feature_width
from unifl.rewards.model import RewardConfig, RewardHead, RewardModel, shared_trunk


def write_reward(folder: Path, axis: str) -> Path:
    trunk = shared_trunk("lite0")
    torch.manual_seed(len(axis))
    config = RewardConfig(
        axis=axis, trunk="lite0", trunk_sha256=trunk.sha256, text=axis == "layout", text_sha256=None,
        text_width=8 if axis == "layout" else 0, hidden=8, alpha=1.0, alpha_low=0.9, alpha_high=1.1, alpha_offset=0.0,
        validation_accuracy=0.8, validation_accuracy_low=0.7, validation_accuracy_high=0.9, training_pairs=1,
        validation_pairs=1, logit_scale=1.0, synthetic_preferences=True,
    )  # fmt: skip
    RewardModel(config, RewardHead(feature_width(trunk), 8, config.text_width), trunk).save(folder)
    return folder


def build_world(home: Path, base: Path) -> dict[str, Path]:
    """Write the inputs below `home`; input name -> path."""
    torch.manual_seed(0)
    segmenter.save(segmenter.Segmenter(NAMES, width=8), home / "segmenter", {})
    rows = [{"prompt_id": str(n), "text": text, "source": "", "licence": ""} for n, text in enumerate(CAPTIONS)]
    pq.write_table(pa.Table.from_pylist(rows, schema=PROMPTS), home / "prompts.parquet")
    judges, scorer = write_tiny_examiners(home)
    return {
        "base_model": base,
        "images": write_tiny_images(home / "images", count=12, validation=2),
        "judges": judges,
        "scorer": scorer,
        "segmenter": home / "segmenter",
        "selected_prompts": home / "prompts.parquet",
        **{f"reward_{axis}": write_reward(home / axis, axis) for axis in AXES},
    }
