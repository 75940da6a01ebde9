"""Base model + a few images of one style -> a model that draws it: LoRA, from a learned start or from nothing.

`few_shot_start` makes the start (Reptile, arXiv 1803.02999); without it LoRA starts fresh, which takes more updates.
"""

from __future__ import annotations

from unifl.core.errors import SettingsError
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition
from unifl.feedback.few_shot_settings import StyleAdaptationSettings

STEP = StepDefinition(
    name="style_adaptation",
    summary="Learn one style from at most some twenty images, by LoRA, from a start if there is one.",
    inputs={
        "base_model": "folder of the base model (diffusers layout)",
        "images": "folder of image shards with captions and styles, split train",
        "start": "folder of few_shot_start, made for this base; without it LoRA starts fresh",
    },
    optional_inputs=frozenset({"start"}),
    outputs={"tuned_model": "folder with the tuned UNet, lora/, base.json and training.jsonl"},
    settings=StyleAdaptationSettings,
)


def run(inputs: Paths, outputs: Paths, settings: StyleAdaptationSettings, context: StepContext) -> Metrics:
    """Adapt. Raises SettingsError for a style that there is not, ModelLoadError for a start that does not fit."""
    from unifl.data.contracts import open_images
    from unifl.feedback import assembly
    from unifl.feedback.few_shot import FewImages, diffusion_on, read_start, start_facts, style_images

    table = open_images(inputs["images"])
    if settings.style is None:
        styles = sorted(set(table.split("train")["style"]))
        raise SettingsError("the style is missing", expected=f"style={'|'.join(styles)}", remedy="give --set style=...")
    start = inputs.get("start")
    phrase = settings.phrase
    if start is not None:
        phrase = phrase or str(start_facts(start, inputs["base_model"], settings.lora_rank)["phrase"])
    ids, captions = style_images(table, settings.style, settings.images, settings.seed, phrase)
    images = FewImages(table, ids, captions, settings.batch_size, settings.seed)
    adapter = assembly.open_model(inputs["base_model"], mixed_precision=settings.mixed_precision)
    return assembly.tune(
        adapter,
        [diffusion_on(images, settings)],
        settings,
        base=inputs["base_model"],
        output=outputs["tuned_model"],
        stage=STEP.name,
        context=context,
        guard=None,
        start=None if start is None else lambda parameters: read_start(parameters, start),
    )
