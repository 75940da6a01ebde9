"""What the three tuning steps share: opening models, the aesthetic term, running the engine, writing the result.

Stage 1 is perceptual and decoupled feedback, stage 2 adversarial feedback with the aesthetic term kept (arXiv
2404.05595 §3). Steps say which terms they sum; everything else is here once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from unifl.core.errors import ModelLoadError, SettingsError
from unifl.core.files import write_json_atomic
from unifl.core.step import Metrics, Paths, StepContext
from unifl.data.contracts import ImageTable, read_prompts
from unifl.data.vocabulary import AXES
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.diffusion.sampling import Sampler
from unifl.feedback.batches import ImageBatches, PromptBatches
from unifl.feedback.engine import FeedbackEngine, Term
from unifl.feedback.guard import SUMMARY_NAME, Guard
from unifl.feedback.objectives.decoupled import DecoupledObjective, SentenceFeatures
from unifl.feedback.objectives.diffusion import DiffusionObjective
from unifl.feedback.objectives.perceptual import PerceptualObjective, perceptual_feedbacks
from unifl.feedback.parameters import TrainableParameters, check_tuned_on, save_tuned_model, save_untuned_model
from unifl.feedback.ranks import current_ranks
from unifl.feedback.settings import AestheticSettings, EngineSettings, PerceptualSettings
from unifl.feedback.trajectory import Trajectory
from unifl.feedback.views import MultiView
from unifl.rewards.model import RewardModel, sentence_encoder
from unifl.rewards.pairs import GLOBAL


def device() -> torch.device:
    """This process's accelerator if there is one, else the CPU."""
    return current_ranks().device


def open_model(base: Path, tuned: Path | None = None, *, mixed_precision: bool) -> DiffusionAdapter:
    """The base model, with the UNet of ``tuned`` if given. Raises ModelLoadError when that belongs to another base."""
    if tuned is not None:
        check_tuned_on(base, tuned)
    return DiffusionAdapter.load(base, tuned, device(), fast_unet=mixed_precision)


def open_rewards(inputs: Paths) -> dict[str, RewardModel]:
    """The reward model of each axis from the inputs ``reward_<axis>``, or the one of ``reward_global``, on one trunk.

    Raises SettingsError for both kinds or for neither, ModelLoadError when one is of another axis than its input says.
    """
    axes = (GLOBAL,) if f"reward_{GLOBAL}" in inputs else AXES
    missing = [f"reward_{axis}" for axis in axes if f"reward_{axis}" not in inputs]
    unused = [f"reward_{axis}" for axis in AXES if axis not in axes and f"reward_{axis}" in inputs]
    if missing or unused:
        raise SettingsError(
            f"no {', no '.join(missing)}" if missing else f"{', '.join(unused)} beside reward_{GLOBAL}",
            expected=f"reward_{', reward_'.join(AXES)}; or reward_{GLOBAL} alone, in the place of all four",
            remedy="give the folders that `unifl reward_model` wrote" if missing else "leave out the one or the others",
        )
    return {axis: open_reward(inputs, axis) for axis in axes}


def open_reward(inputs: Paths, axis: str) -> RewardModel:
    """The reward model from the input ``reward_<axis>``; "global" is one reward for all axes.

    Raises ModelLoadError when it is of another axis.
    """
    folder = inputs[f"reward_{axis}"]
    reward = RewardModel.load(folder, device())
    if reward.config.axis != axis:
        raise ModelLoadError(
            f"this reward model is of the axis {reward.config.axis}",
            file=folder,
            expected=f"a reward model of the axis {axis}",
            remedy=f"give reward_{axis} the folder that `unifl reward_model` wrote for it",
        )
    return reward


def trajectory(settings: EngineSettings, last_stop: int) -> Trajectory:
    """The walk of an objective whose optimised step is drawn from 0 (the last of sampling) to ``last_stop``."""
    return Trajectory(
        settings.steps,
        0,
        last_stop,
        settings.gradient_steps,
        settings.guidance_scale,
        settings.spacing,
        settings.balance_steps,
    )


def multi_view(settings: EngineSettings) -> MultiView:
    """How an objective of these settings draws its views."""
    return MultiView(settings.views, settings.view_crop_min, settings.view_crop_max, settings.view_flips)


def aesthetic_term(
    settings: AestheticSettings, rewards: Mapping[str, RewardModel], prompts_file: Path, features: SentenceFeatures
) -> Term:
    """L_aes of the rewards over the selected prompts. Raises DataContractError when the prompts cannot be read."""
    prompts = [str(text) for text in read_prompts(prompts_file)["text"]]
    objective = DecoupledObjective(
        rewards,
        settings.axis_weights(rewards),
        settings.alpha_offsets(rewards),
        trajectory(settings, settings.aesthetic_last_stop),
        features,
        multi_view(settings),
    )
    return Term(objective, PromptBatches(prompts, settings.batch_size, settings.seed), settings.lambda_aesthetic)


def perceptual_term(settings: PerceptualSettings, images: ImageTable, segmenter: Path, weight: float = 1.0) -> Term:
    """L_pefl over the training images. Raises DataContractError for a concept that the segmenter does not know."""
    feedbacks = perceptual_feedbacks(
        images,
        segmenter,
        device(),
        structure=settings.lambda_structure,
        semantic=settings.lambda_semantic,
        style=settings.lambda_style,
        content=settings.lambda_content,
        edges=settings.lambda_edges,
        style_layer_weights=settings.style_layer_weights,
    )
    objective = PerceptualObjective(
        feedbacks, trajectory(settings, settings.grad_t_max), settings.noise_to, multi_view(settings)
    )
    batches = ImageBatches(images, settings.batch_size, settings.seed, with_masks=settings.needs_masks())
    return Term(objective, batches, weight)


def diffusion_term(settings: EngineSettings, images: ImageTable) -> Term:
    """The diffusion loss over the training images, with the weight the settings give it (0 by default)."""
    batches = ImageBatches(images, settings.batch_size, settings.seed)
    return Term(DiffusionObjective(settings.diffusion_min_snr), batches, settings.diffusion_weight)


def sentence_features() -> SentenceFeatures:
    """Cached sentence features, on the encoder that the process shares."""
    return SentenceFeatures(sentence_encoder())


def tune(
    adapter: DiffusionAdapter,
    terms: Sequence[Term],
    settings: EngineSettings,
    *,
    base: Path,
    output: Path,
    stage: str,
    context: StepContext,
    guard: Guard | None,
    start: Callable[[TrainableParameters], Mapping[str, Tensor]] | None = None,
) -> Metrics:
    """Run the engine over the terms, write the tuned model folder to ``output``, and give the step's metrics.

    ``start`` gives the values that the trainable tensors begin with, where not the usual ones.
    """
    engine = FeedbackEngine(adapter, terms, settings, context.checkpoints, stage.replace("_", " "), guard)
    if start is not None:
        engine.parameters.start_from(start(engine.parameters))
    log = engine.run()
    if engine.ranks.is_first:
        save_tuned_model(engine.parameters, output, base_folder=base, stage=stage, log_file=engine.log_file)
    metrics = training_metrics(log, settings)
    if guard is not None:
        found = guard.summary()
        if engine.ranks.is_first:
            write_json_atomic(output / SUMMARY_NAME, found)
        metrics |= {"guard_stopped": found["stopped_at"] is not None, "guard_kept_update": found["kept_update"]}
    engine.ranks.wait()
    return metrics


def open_guard(
    settings: EngineSettings, inputs: Paths, images: ImageTable, context: StepContext, sampler: Sampler = "ddim"
) -> Guard | None:
    """The over-optimization guard on the inputs ``judges`` and ``scorer``; None where ``guard_every`` is 0.

    Its pictures are drawn with ``sampler``. Raises SettingsError without these inputs, and what `panel_examiner`
    raises.
    """
    if not settings.guard_every:
        return None
    missing = [name for name in ("judges", "scorer") if name not in inputs]
    if missing:
        raise SettingsError(
            f"the guard has no {' and no '.join(missing)}",
            expected=f"the inputs {' and '.join(missing)}, as guard_every is {settings.guard_every}",
            remedy="give them, or set guard_every to 0",
        )
    from unifl.feedback.guard_panel import panel_examiner

    examine = panel_examiner(inputs["judges"], inputs["scorer"], images, settings, sampler)
    return Guard(examine, settings.guard_every, context.checkpoints / "guard")


def pass_on(base: Path, output: Path, *, stage: str) -> Metrics:
    """Write the base as a tuned model folder that nothing has tuned."""
    if current_ranks().is_first:
        save_untuned_model(output, base_folder=base, stage=stage)
    return {"updates": 0, "images": 0}


def training_metrics(log: Sequence[Mapping[str, float]], settings: EngineSettings) -> Metrics:
    """Updates, images an objective has seen, and each logged number averaged over the first and the last tenth."""
    tenth = max(1, len(log) // 10)
    metrics: Metrics = {"updates": len(log), "images": len(log) * settings.batch_size * settings.accumulate}
    for key in log[-1]:
        if key in ("update", "lr"):
            continue
        metrics[f"{key}_first"] = sum(line[key] for line in log[:tenth]) / tenth
        metrics[f"{key}_last"] = sum(line[key] for line in log[-tenth:]) / tenth
    return metrics
