"""The table of steps, one file each in this folder, imported only when one is asked for.

A step's module exports `STEP` (a StepDefinition) and `run(inputs, outputs, settings, context) -> Metrics`; the command
line, the Kubeflow components and DVC all run it through `unifl.core.step.execute`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from unifl.core.errors import SettingsError

STEPS: dict[str, str] = {
    "preflight": "On a cluster: check settings, data, secrets, images, quota and disk before the first GPU starts.",
    "resolve_data": "Fetch the run's inputs from a DVC repository at a revision and check their SHA-256.",
    "validate_data": "Check images, prompts and preferences against their expectations; block the run on an error.",
    "prompt_curation": "Select rich and diverse prompts (active prompt selection).",
    "reward_model": "Train the reward model of one axis on its preferences (Bradley-Terry).",
    "perceptual_feedback": "Tune with structure and style feedback (PeFL, stage 1a).",
    "decoupled_feedback": "Tune with the four rewards as hinges (stage 1).",
    "adversarial_feedback": "Tune for few steps with a reward model as discriminator (stage 2).",
    "baseline_tuning": "Tune by a method to compare with: diffusion loss, ReFL, DPO, LCM or ADD; not in the DAG.",
    "few_shot_start": "Learn a start for LoRA over known styles, for new ones from a few images (Reptile).",
    "style_adaptation": "Learn one style from at most some twenty images, by LoRA, from a start if there is one.",
    "evaluation": "Measure base, stage 1 and stage 2: KID, FID, image-text score, four judges; write the report.",
    "quality_gate": "Let a model pass, or fail, by thresholds on its evaluation.",
    "publish": "Make the released folder: loadable model, model card, record bundle, checksums.",
    "run_summary": "On a cluster: the run's summary, a webhook told, old leftovers removed.",
    "embedded_icons": "Maintainers: collect the icon sets for the embedded data.",
    "embedded_images": "Maintainers: draw the embedded images with captions and exact masks.",
    "embedded_prompts": "Maintainers: make the embedded prompt database.",
    "embedded_preferences": "Maintainers: make the embedded preference pairs, voted by simulated annotators.",
    "autoencoder": "Maintainers: train the embedded autoencoder (images to latents and back).",
    "base_model": "Maintainers: train the embedded latent diffusion model.",
    "segmentation_model": "Maintainers: train the instance segmenter of structure feedback.",
    "judge_models": "Maintainers: train the judges, the style classifier and the image-text scorer.",
}
"""Step name -> one line about it, in the order of the flow; the last eight make what the DAG takes as given."""


def load_step(name: str) -> ModuleType:
    """The module of the step `name`, with `STEP` and `run`. Raises SettingsError for a name that isn't in the table."""
    if name not in STEPS:
        raise SettingsError(f"no step is called {name!r}", expected=f"one of {', '.join(STEPS)}")
    return importlib.import_module(f"unifl.steps.{name}")


def step_of(task: str) -> str:
    """The step that a task of the DAG runs: its own name, or that name without an axis behind it."""
    return task if task in STEPS else task.rpartition("_")[0]
