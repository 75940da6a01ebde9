"""Base model + images of known styles -> a start for LoRA from which a new style is learned in a few updates.

Few-shot adaptation by a first-order start (Reptile, arXiv 1803.02999); `style_adaptation` takes it from here. Not
part of the DAG: a start is made once for a base.
"""

from __future__ import annotations

from unifl.core.step import Metrics, Paths, StepContext, StepDefinition
from unifl.feedback.few_shot_settings import FewShotStartSettings

STEP = StepDefinition(
    name="few_shot_start",
    summary="Learn a start for LoRA over known styles, for new ones from a few images (Reptile).",
    inputs={
        "base_model": "folder of the base model (diffusers layout)",
        "images": "folder of image shards with captions and styles; a task is a style of the split train",
    },
    outputs={"start": "folder with lora/, base.json, start.json and training.jsonl"},
    settings=FewShotStartSettings,
)


def run(inputs: Paths, outputs: Paths, settings: FewShotStartSettings, context: StepContext) -> Metrics:
    """Run the outer loop. Raises SettingsError for styles that there are not or that have too few images."""
    import torch

    from unifl.data.contracts import open_images
    from unifl.feedback import assembly
    from unifl.feedback.few_shot import StyleTasks, save_start
    from unifl.feedback.parameters import TrainableParameters
    from unifl.feedback.reptile import LoraTasks, OuterLoop, Reptile

    tasks = StyleTasks(open_images(inputs["images"]), settings)
    adapter = assembly.open_model(inputs["base_model"], mixed_precision=settings.mixed_precision)
    torch.manual_seed(settings.seed)
    parameters = TrainableParameters(adapter, settings.lora_rank, ema_decay=0)
    reptile = Reptile(
        parameters.current(),
        LoraTasks(adapter, parameters, tasks, settings, context.checkpoints),
        OuterLoop(settings.rounds, settings.tasks_a_round, settings.outer_rate),
        context.checkpoints,
        settings.model_dump(mode="json"),
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    log = reptile.run()
    parameters.start_from(reptile.start)
    facts = {"phrase": settings.phrase, "styles": tasks.styles, "lora_rank": settings.lora_rank}
    facts |= {"images": settings.images, "updates": settings.updates, "learning_rate": settings.learning_rate}
    save_start(parameters, outputs["start"], base_folder=inputs["base_model"], log_file=reptile.log_file, facts=facts)
    tenth = max(1, len(log) // 10)
    gains = [float(line["loss_first"]) - float(line["loss_last"]) for line in log]
    return {
        "tasks": len(log),
        "updates": len(log) * settings.updates,
        "styles": len(tasks.styles),
        "gain_first": sum(gains[:tenth]) / tenth,
        "gain_last": sum(gains[-tenth:]) / tenth,
    }
