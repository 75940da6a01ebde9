"""A small real run in a folder: base and data, two tuning steps, evaluation and gate, through the true hook."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from unifl.core.digest import dvc_md5, sha256_path
from unifl.core.settings import StepSettings
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition, StepFunction, execute, run_step

METRICS = {"kid": {"title": "KID x1000", "better": "lower"}}


def write_unet(folder: Path, value: float) -> None:
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "unet" / "config.json").write_text("{}")
    save_file({"weight": np.full((2, 3), value, np.float32)}, folder / "unet" / "diffusion_pytorch_model.safetensors")


def write_base(folder: Path) -> Path:
    write_unet(folder, 0.0)
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text("{}")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


class TuneSettings(StepSettings):
    seed: int = 0
    value: float = 1.0


def tuning(unet: Callable[[Path, float], None]) -> StepFunction:
    """A tuning step whose UNet is what `unet` writes."""

    def tune(inputs: Paths, outputs: Paths, settings: TuneSettings, context: StepContext) -> Metrics:
        unet(outputs["tuned_model"], settings.value)
        about = {"base_sha256": sha256_path(inputs["base_model"]), "stage": context.step}
        (outputs["tuned_model"] / "base.json").write_text(json.dumps(about))
        (outputs["tuned_model"] / "training.jsonl").write_text('{"update": 1, "loss": 0.5}\n')
        return {"loss": 0.5}

    return tune


def evaluate(inputs: Paths, outputs: Paths, settings: StepSettings, context: StepContext) -> Metrics:
    figures = {"base": 9.0, "stage1": 6.0, "stage2": 5.0}
    rows = [
        {"model": model, "steps": steps, "metrics": {"kid": {"value": kid, "low": kid - 1, "high": kid + 1}}}
        for model, kid in figures.items()
        for steps in (4, 20)
    ]
    content = {"few_steps": 4, "full_steps": 20, "metric_info": METRICS, "results": rows}
    outputs["evaluation"].write_text(json.dumps(content))
    return {}


def definition(name: str, inputs: tuple[str, ...], output: str, settings: type[StepSettings]) -> StepDefinition:
    return StepDefinition(name, name, {each: each for each in inputs}, {output: output}, settings)


def make_run(
    root: Path,
    write_base: Callable[[Path], Path] = write_base,
    write_unet: Callable[[Path, float], None] = write_unet,
) -> Path:
    """Write `root/data` and `root/runs/dvc/<step>/...`; gives the folder of stage 2's model."""
    base = write_base(root / "data" / "base_model")
    tune = tuning(write_unet)
    images = root / "data" / "images"
    images.mkdir()
    (images / "images-00000.parquet").write_bytes(b"pixels")
    (root / "data" / "images.dvc").write_text(f"outs:\n- md5: {dvc_md5(images)}\n  path: images\n")
    runs = root / "runs" / "dvc"
    first, second = (runs / step / "tuned_model" for step in ("perceptual_feedback", "adversarial_feedback"))
    run_step(
        definition("perceptual_feedback", ("base_model", "images"), "tuned_model", TuneSettings),
        tune,
        {"base_model": base, "images": images},
        {"tuned_model": first},
        {"value": 1.0},
        record=first.parent / "record.json",
    )
    run_step(
        definition("adversarial_feedback", ("base_model", "model", "images"), "tuned_model", TuneSettings),
        tune,
        {"base_model": base, "model": first, "images": images},
        {"tuned_model": second},
        {"value": 2.0},
        record=second.parent / "record.json",
    )
    evaluation = runs / "evaluation" / "evaluation.json"
    run_step(
        definition("evaluation", ("base_model", "stage1", "stage2"), "evaluation", StepSettings),
        evaluate,
        {"base_model": base, "stage1": first, "stage2": second},
        {"evaluation": evaluation},
        None,
        record=evaluation.parent / "record.json",
    )
    gate = runs / "quality_gate" / "verdict.json"
    execute("quality_gate", {"evaluation": evaluation}, {"verdict": gate}, None, record=gate.parent / "record.json")
    return second


def publishing(root: Path) -> dict[str, Path]:
    """What publishing stage 2 of the run in `root` takes."""
    runs = root / "runs" / "dvc"
    return {
        "base_model": root / "data" / "base_model",
        "model": runs / "adversarial_feedback" / "tuned_model",
        "evaluation": runs / "evaluation" / "evaluation.json",
        "records": runs,
    }


def publish(root: Path, release: Path, **settings: object) -> Path:
    """Publish stage 2 of the run in `root`."""
    execute("publish", publishing(root), {"release": release}, settings)
    return release
