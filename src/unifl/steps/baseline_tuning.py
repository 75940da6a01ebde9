"""Base model -> a model tuned by a method that UniFL is compared with (arXiv 2404.05595 §4); not part of the DAG.

Plain fine-tuning, ReFL, Diffusion-DPO, latent consistency distillation and adversarial distillation with a teacher are
objectives of the one engine, so that base, data, budget and all that surrounds the loss are the same for all of them.
Settings that were tried on the embedded base: `benchmarks/presets/baseline_<method>.yaml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from unifl.core.errors import SettingsError
from unifl.core.step import Metrics, Paths, StepContext, StepDefinition
from unifl.feedback.settings import EngineSettings

if TYPE_CHECKING:
    from unifl.data.contracts import ImageTable
    from unifl.diffusion.adapter import DiffusionAdapter
    from unifl.feedback.engine import Term

Method = Literal["diffusion", "refl", "dpo", "lcm", "teacher_adversarial"]

NEEDED_INPUTS: dict[Method, tuple[str, ...]] = {
    "diffusion": (),
    "refl": ("reward_global", "selected_prompts"),
    "dpo": ("preferences",),
    "lcm": (),
    "teacher_adversarial": ("reward_detail",),
}
"""What a method can't do without, beside base model and images."""


class BaselineTuningSettings(EngineSettings):
    """The method, its own settings (each with the method's name before it), and those of the engine.

    `guidance_scale` is that of the walk for refl, and of the teacher for lcm and teacher_adversarial, whose students
    learn to do without guidance: their pictures take 1.
    """

    method: Method = Field(
        description="diffusion: the diffusion loss alone; refl: ImageReward's ReFL (arXiv 2304.05977); dpo: Diffusion-"
        "DPO (arXiv 2311.12908); lcm: latent consistency distillation (arXiv 2310.04378); teacher_adversarial: "
        "adversarial diffusion distillation (SDXL-Turbo's, arXiv 2311.17042)."
    )
    diffusion_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of the diffusion loss for the methods diffusion and refl (ReFL's lambda is on the reward); "
        "the others have none.",
    )
    refl_weight: float = Field(1e-3, gt=0, description="Weight of the hinge; ReFL's grad_scale (arXiv 2304.05977).")
    refl_alpha: float = Field(
        2.0,
        description="Reward at which the hinge lets go, in standard deviations of the reward model's training scores: "
        "ReFL's ReLU(2 - r), whose scores are standardised alike.",
    )
    refl_last_stop: int = Field(
        5, ge=0, description="The optimised step is drawn from 0 to this index; a quarter, as ReFL's last 10 of 40."
    )
    dpo_beta: float = Field(
        2500.0,
        gt=0,
        description="Factor of the difference of mean squared errors, timestep count and weighting included: half of "
        "the 5,000 that the authors' code takes, as it halves beta (arXiv 2311.12908: 2,000 to 5,000).",
    )
    lcm_solver_steps: int = Field(
        50,
        ge=2,
        le=50,
        description="DDIM steps of the walk that is distilled: skipping step k = 1000 / 50 = 20 (arXiv 2310.04378 §5).",
    )
    lcm_target_decay: float = Field(
        0.95, ge=0, lt=1, description="Decay of the target network, as diffusers' script of LCM; 0.999943 in the paper."
    )
    lcm_huber: float = Field(
        1e-3, ge=0, description="c of the pseudo-Huber distance, as diffusers' script of LCM; 0 takes squares."
    )
    teacher_adversarial_weight: float = Field(
        2.5,
        ge=0,
        description="lambda of the distillation loss beside the adversarial one (arXiv 2311.17042 §3.2), whose "
        "distance is a mean over elements here: the embedded base needs more (docs/feedback.md).",
    )
    teacher_adversarial_space: Literal["pixel", "latent"] = Field(
        "pixel", description="Where student and teacher are compared; pixels gave the authors stabler gradients."
    )
    teacher_adversarial_r1: float = Field(
        1e-5, ge=0, description="gamma of R1 at the discriminator's head (arXiv 2311.17042, ablation); 0 for none."
    )
    teacher_adversarial_learning_rate: float = Field(
        1e-4, gt=0, description="AdamW of the discriminator, as adversarial_feedback's."
    )
    teacher_adversarial_blocks: int = Field(
        2, ge=0, le=16, description="Trunk blocks that learn beside its head, as adversarial_feedback's."
    )
    teacher_adversarial_real_images: Literal["autoencoder", "raw"] = Field(
        "autoencoder", description="What real images it sees, as adversarial_feedback's."
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> BaselineTuningSettings:
        if self.method == "diffusion" and not self.diffusion_weight > 0:
            raise ValueError("method diffusion with diffusion_weight 0: there is nothing to learn")
        if self.method == "refl" and self.refl_last_stop >= self.steps:
            raise ValueError(f"refl_last_stop {self.refl_last_stop} is not below steps {self.steps}")
        return self


STEP = StepDefinition(
    name="baseline_tuning",
    summary="Tune by a method to compare with: diffusion loss, ReFL, DPO, LCM or ADD; not in the DAG.",
    inputs={
        "base_model": "folder of the base model (diffusers layout)",
        "images": "folder of image shards",
        "preferences": "Parquet of preference pairs; for dpo",
        "reward_global": "reward model folder of the axis global; for refl",
        "reward_detail": "reward model folder of the axis detail; teacher_adversarial's discriminator starts from it",
        "selected_prompts": "Parquet of prompts that prompt_curation has kept; for refl",
        "judges": "folder of judges; for the guard, where it is on",
        "scorer": "folder of the image-text scorer; for the guard, where it is on",
    },
    optional_inputs=frozenset(
        {"preferences", "reward_global", "reward_detail", "selected_prompts", "judges", "scorer"}
    ),
    outputs={"tuned_model": "folder with the tuned UNet, base.json and training.jsonl"},
    settings=BaselineTuningSettings,
)


def run(inputs: Paths, outputs: Paths, settings: BaselineTuningSettings, context: StepContext) -> Metrics:
    """Train the UNet by the method; the metric `teacher_parameters` counts the networks held beside it for that."""
    check_inputs(settings.method, inputs)
    from unifl.data.contracts import open_images
    from unifl.feedback import assembly

    adapter = assembly.open_model(inputs["base_model"], mixed_precision=settings.mixed_precision)
    images = open_images(inputs["images"])
    terms = _terms(adapter, images, inputs, settings)
    metrics = assembly.tune(
        adapter,
        terms,
        settings,
        base=inputs["base_model"],
        output=outputs["tuned_model"],
        stage=f"baseline_{settings.method}",
        context=context,
        guard=assembly.open_guard(settings, inputs, images, context, "lcm" if settings.method == "lcm" else "ddim"),
    )
    teachers = [getattr(term.objective, "teacher_parameters", 0) for term in terms]
    return metrics | {"teacher_parameters": sum(teachers)}


def check_inputs(method: Method, inputs: Paths) -> None:
    """Raises SettingsError when the method lacks an input that it learns from."""
    missing = [name for name in NEEDED_INPUTS[method] if name not in inputs]
    if missing:
        raise SettingsError(
            f"the method {method} has no {' and no '.join(missing)}",
            expected=f"the inputs {' and '.join(NEEDED_INPUTS[method])}",
            remedy=f"give {' and '.join('--' + name.replace('_', '-') for name in missing)}, or take another method",
        )


def _terms(
    adapter: DiffusionAdapter, images: ImageTable, inputs: Paths, settings: BaselineTuningSettings
) -> list[Term]:
    """What the method sums."""
    from unifl.feedback import assembly
    from unifl.feedback.batches import ImageBatches
    from unifl.feedback.engine import Term

    if settings.method == "diffusion":
        return [assembly.diffusion_term(settings, images)]
    if settings.method == "refl":
        return [_global_reward_term(inputs, settings), assembly.diffusion_term(settings, images)]
    if settings.method == "dpo":
        from unifl.feedback.objectives.preference import PreferenceObjective
        from unifl.feedback.preference_batches import PreferenceBatches

        pairs = PreferenceBatches(inputs["preferences"], images, settings.batch_size, settings.seed)
        return [Term(PreferenceObjective(adapter, settings.dpo_beta), pairs)]
    batches = ImageBatches(images, settings.batch_size, settings.seed)
    if settings.method == "lcm":
        from unifl.feedback.objectives.consistency import ConsistencyObjective

        distillation = ConsistencyObjective(
            adapter,
            guidance_scale=settings.guidance_scale,
            solver_steps=settings.lcm_solver_steps,
            target_decay=settings.lcm_target_decay,
            huber=settings.lcm_huber,
        )
        return [Term(distillation, batches)]
    from unifl.feedback.objectives.teacher_adversarial import TeacherAdversarialObjective

    reward = assembly.open_reward(inputs, "detail")
    adversarial = TeacherAdversarialObjective(
        adapter,
        reward.discriminator(settings.teacher_adversarial_blocks),
        assembly.trajectory(settings, settings.steps - 1),
        assembly.sentence_features(),
        learning_rate=settings.teacher_adversarial_learning_rate,
        distillation_weight=settings.teacher_adversarial_weight,
        r1_weight=settings.teacher_adversarial_r1,
        space=settings.teacher_adversarial_space,
        real_images=settings.teacher_adversarial_real_images,
        views=assembly.multi_view(settings),
    )
    return [Term(adversarial, batches)]


def _global_reward_term(inputs: Paths, settings: BaselineTuningSettings) -> Term:
    """ReFL's hinge: decoupled feedback with one reward, and alpha as a number instead of the reward model's own."""
    from unifl.data.contracts import read_prompts
    from unifl.feedback import assembly
    from unifl.feedback.batches import PromptBatches
    from unifl.feedback.engine import Term
    from unifl.feedback.objectives.decoupled import DecoupledObjective

    reward = assembly.open_reward(inputs, "global")
    objective = DecoupledObjective(
        {"global": reward},
        {"global": 1.0},
        {"global": settings.refl_alpha - reward.config.alpha},
        assembly.trajectory(settings, settings.refl_last_stop),
        assembly.sentence_features(),
        views=assembly.multi_view(settings),
    )
    prompts = [str(text) for text in read_prompts(inputs["selected_prompts"])["text"]]
    return Term(objective, PromptBatches(prompts, settings.batch_size, settings.seed), settings.refl_weight)
