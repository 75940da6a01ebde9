"""The objectives of the methods that UniFL is compared with, on a tiny base: values, what learns, and exact resume."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import Tensor

from tests.tiny_base import CAPTIONS
from tests.tiny_images import write_tiny_images
from tests.tiny_preferences import write_tiny_preferences
from tests.unit.feedback.test_objectives import no_features, reward
from unifl.core.errors import DataContractError
from unifl.data import degradations
from unifl.data.contracts import ImageTable, open_images
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.feedback.batches import Batch, BatchSource, ImageBatches
from unifl.feedback.engine import FeedbackEngine, Term
from unifl.feedback.objectives import Logs, Objective
from unifl.feedback.objectives.consistency import ConsistencyObjective
from unifl.feedback.objectives.preference import PreferenceObjective
from unifl.feedback.objectives.teacher_adversarial import TeacherAdversarialObjective
from unifl.feedback.preference_batches import PreferenceBatch, PreferenceBatches
from unifl.feedback.ranks import Part
from unifl.feedback.settings import EngineSettings
from unifl.feedback.trajectory import Trajectory

SETTINGS = EngineSettings(updates=5, batch_size=4, learning_rate=1e-3, warmup_updates=0, checkpoint_every=2, steps=4)
METHODS = ("consistency", "preference", "teacher_adversarial")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    return open_images(write_tiny_images(tmp_path_factory.mktemp("images") / "shards"))


@pytest.fixture(scope="module")
def preferences(images: ImageTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_preferences(tmp_path_factory.mktemp("votes") / "preferences.parquet", images)


@pytest.fixture
def adapter(base_folder: Path) -> DiffusionAdapter:
    return DiffusionAdapter.load(base_folder)


@pytest.fixture
def sources(images: ImageTable, preferences: Path) -> dict[str, BatchSource]:
    pictures = ImageBatches(images, 4, seed=0)
    pairs = PreferenceBatches(preferences, images, 4, seed=0)
    return {"consistency": pictures, "preference": pairs, "teacher_adversarial": pictures}


def objective_of(method: str, adapter: DiffusionAdapter, discriminator_rate: float = 1e-3) -> Objective:
    if method == "consistency":
        return ConsistencyObjective(adapter, guidance_scale=1.5, solver_steps=50, target_decay=0.9, huber=1e-3)
    if method == "preference":
        return PreferenceObjective(adapter, beta=100.0)
    return TeacherAdversarialObjective(
        adapter, reward().discriminator(1), Trajectory(4, 0, 3, guidance_scale=1.5), no_features,
        learning_rate=discriminator_rate, distillation_weight=20.0, r1_weight=1e-3,
    )  # fmt: skip


def disturb(adapter: DiffusionAdapter) -> None:
    """Move the model away from what was copied of it."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for value in adapter.unet.parameters():
            value.add_(0.02 * torch.randn(value.shape, generator=generator))


def loss_of(objective: Objective, adapter: DiffusionAdapter, batch: Batch, seed: int = 0) -> tuple[float, Logs]:
    loss, logs = objective(adapter, batch, torch.Generator().manual_seed(seed))
    return float(loss.detach()), logs


# ------------------------------------------------------------------------------------------------ preference pairs


def test_batches_hold_both_sides_as_their_derivations_describe(images: ImageTable, preferences: Path) -> None:
    source = PreferenceBatches(preferences, images, 6, seed=0)
    assert {pair.axis for pair in source.pairs} == {"color", "layout", "lighting", "detail"}
    batch = source.batch(3)
    rows = source._order.rows(3 * 6, 6)
    for place, pair in enumerate(source.pairs[row] for row in rows):
        assert batch.captions[place] == pair.prompt
        for side, found in ((pair.preferred, batch.real_images()), (pair.rejected, batch.rejected_images())):
            image_id, derivation = side
            expected = degradations.apply(derivation, images.pixels([image_id])[0], images.masks(image_id))
            np.testing.assert_allclose(found[place].permute(1, 2, 0) * 255, expected, atol=1e-3)
    assert not torch.equal(batch.real_images(), batch.rejected_images())


def test_two_parts_make_the_whole_batch(images: ImageTable, preferences: Path) -> None:
    source = PreferenceBatches(preferences, images, 4, seed=0)
    whole, parts = source.batch(1), [source.batch(1, Part(index, 2)) for index in range(2)]
    assert torch.equal(whole.rejected_images(), torch.cat([part.rejected_images() for part in parts]))
    assert whole.captions == parts[0].captions + parts[1].captions


def test_a_file_without_pairs_of_an_axis_is_refused(images: ImageTable, preferences: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(preferences)
    rows = [row for row in table.to_pylist() if row["axis"] != "layout"]
    pq.write_table(table.from_pylist(rows, schema=table.schema), tmp_path / "some.parquet")
    with pytest.raises(DataContractError, match="not one pair of the axis layout"):
        PreferenceBatches(tmp_path / "some.parquet", images, 4, seed=0)


def test_the_preference_objective_refuses_batches_without_pairs(adapter: DiffusionAdapter) -> None:
    with pytest.raises(ValueError, match="needs preference pairs"):
        loss_of(PreferenceObjective(adapter, 1.0), adapter, Batch(CAPTIONS[:2]))


# ------------------------------------------------------------------------------------- values, against brute force


def test_consistency_loss_equals_a_walk_by_hand(adapter: DiffusionAdapter, sources: dict[str, BatchSource]) -> None:
    """One sample at a time in float64, with the schedulers of diffusers; student, target and teacher all differ."""
    objective = objective_of("consistency", adapter)
    assert isinstance(objective, ConsistencyObjective)
    teacher = copy.deepcopy(adapter.unet)
    disturb(adapter)
    objective.after_update()  # the target moves a tenth of the way to the student
    target = copy.deepcopy(objective._target.unet)
    batch = sources["consistency"].batch(0)
    found, _ = loss_of(objective, adapter, batch, seed=3)

    generator = torch.Generator().manual_seed(3)
    latents = adapter.encode_image(batch.real_images())
    noise = torch.randn(latents.shape, generator=generator)
    indices = torch.randint(0, 50, (len(batch),), generator=generator)
    alphas = DDIMScheduler.from_config(adapter.scheduler.config).alphas_cumprod.double()
    scheduler = LCMScheduler.from_config(adapter.scheduler.config)
    empty = adapter.encode_text([""])

    def noise_of(unet: torch.nn.Module, x: Tensor, t: int, condition: Tensor) -> Tensor:
        with torch.no_grad():
            return unet(x.float(), torch.tensor([t]), encoder_hidden_states=condition).sample.double()

    def clean(unet: torch.nn.Module, x: Tensor, t: int, condition: Tensor) -> Tensor:
        c_skip, c_out = scheduler.get_scalings_for_boundary_condition_discrete(t)
        x0 = (x - (1 - alphas[t]).sqrt() * noise_of(unet, x, t, condition)) / alphas[t].sqrt()
        return c_skip * x + c_out * x0

    distances = []
    for row in range(len(batch)):
        t = (int(indices[row]) + 1) * 20 - 1
        before = max(t - 20, 0)
        x0, e = latents[row : row + 1].double(), noise[row : row + 1].double()
        condition = adapter.encode_text(batch.captions[row : row + 1])
        noisy = alphas[t].sqrt() * x0 + (1 - alphas[t]).sqrt() * e
        without, with_prompt = noise_of(teacher, noisy, t, empty), noise_of(teacher, noisy, t, condition)
        guided = with_prompt + 0.5 * (with_prompt - without)  # guidance 1.5 is w = 0.5 in the paper
        walked = (noisy - (1 - alphas[t]).sqrt() * guided) / alphas[t].sqrt()
        nearer = alphas[before].sqrt() * walked + (1 - alphas[before]).sqrt() * guided
        gap = clean(adapter.unet, noisy, t, condition) - clean(target, nearer, before, condition)
        distances.append(((gap**2 + 1e-6).sqrt() - 1e-3).mean())
    assert found == pytest.approx(float(torch.stack(distances).mean()), rel=1e-3)


def test_preference_loss_equals_a_sum_by_hand(adapter: DiffusionAdapter, sources: dict[str, BatchSource]) -> None:
    """Both sides have the same noise and timestep; beta_dpo of the authors' code is twice ours."""
    objective = objective_of("preference", adapter)
    reference = copy.deepcopy(adapter.unet)
    disturb(adapter)
    batch = sources["preference"].batch(0)
    assert isinstance(batch, PreferenceBatch)
    found, logs = loss_of(objective, adapter, batch, seed=4)

    generator = torch.Generator().manual_seed(4)
    sides = [adapter.encode_image(side) for side in (batch.real_images(), batch.rejected_images())]
    noise = torch.randn(sides[0].shape, generator=generator)
    timesteps = torch.randint(0, 1000, (len(batch),), generator=generator)
    losses, right = [], 0
    for row in range(len(batch)):
        error = {}
        for name, unet in (("model", adapter.unet), ("reference", reference)):
            for side, latents in enumerate(sides):
                noisy = adapter.scheduler.add_noise(latents[[row]], noise[[row]], timesteps[[row]])
                with torch.no_grad():
                    predicted = unet(noisy, timesteps[[row]], adapter.encode_text([batch.captions[row]])).sample
                error[name, side] = float((predicted - noise[[row]]).square().mean())
        inside = (
            -0.5 * 200.0 * ((error["model", 0] - error["model", 1]) - (error["reference", 0] - error["reference", 1]))
        )
        losses.append(math.log1p(math.exp(-inside)))
        right += inside > 0
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    assert logs["preference_accuracy"] == right / len(batch)


def test_the_distilled_distance_equals_a_sum_by_hand(
    adapter: DiffusionAdapter, sources: dict[str, BatchSource]
) -> None:
    objective = objective_of("teacher_adversarial", adapter)
    teacher = copy.deepcopy(adapter.unet)
    disturb(adapter)
    batch = sources["teacher_adversarial"].batch(0)
    found, logs = loss_of(objective, adapter, batch, seed=5)

    generator = torch.Generator().manual_seed(5)
    latents = adapter.encode_image(batch.real_images())
    stops = torch.randint(0, 4, (len(batch),), generator=generator)
    noise, again = (torch.randn(latents.shape, generator=generator) for _ in range(2))
    timesteps = torch.randint(1, 1000, (len(batch),), generator=generator)
    scheduler = DDIMScheduler.from_config(adapter.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    alphas, empty = scheduler.alphas_cumprod, adapter.encode_text([""])
    distances, scores = [], []
    for row in range(len(batch)):
        s, t = int(scheduler.timesteps.flip(0)[stops[row]]), int(timesteps[row])
        condition = adapter.encode_text([batch.captions[row]])
        noisy = alphas[s].sqrt() * latents[[row]] + (1 - alphas[s]).sqrt() * noise[[row]]
        with torch.no_grad():
            predicted = adapter.unet(noisy, s, condition).sample
            student = (noisy - (1 - alphas[s]).sqrt() * predicted) / alphas[s].sqrt()
            renoised = alphas[t].sqrt() * student + (1 - alphas[t]).sqrt() * again[[row]]
            without, with_prompt = teacher(renoised, t, empty).sample, teacher(renoised, t, condition).sample
            guided = without + 1.5 * (with_prompt - without)
            taught = (renoised - (1 - alphas[t]).sqrt() * guided) / alphas[t].sqrt()
            image = adapter.decode(student)
            distances.append(float(alphas[t].sqrt() * (image - adapter.decode(taught)).square().mean()))
            scores.append(float(reward().score(image)))
    assert logs["distillation"] == pytest.approx(np.mean(distances), rel=0.03)  # the autoencoder computes in bfloat16
    assert logs["generator"] == pytest.approx(-np.mean(scores), rel=0.03, abs=0.03)
    assert found == pytest.approx(logs["generator"] + 20 * logs["distillation"], rel=1e-4)


def test_the_discriminators_loss_is_hinge_and_penalty(
    adapter: DiffusionAdapter, sources: dict[str, BatchSource]
) -> None:
    losses = {}
    for weight in (0.0, 1.0, 3.0):
        objective = objective_of("teacher_adversarial", adapter)
        assert isinstance(objective, TeacherAdversarialObjective)
        objective.r1_weight = weight
        loss_of(objective, adapter, sources["teacher_adversarial"].batch(0))
        losses[weight] = objective.after_update()
    plain = losses[0.0]["discriminator"]
    assert plain >= (2 - losses[0.0]["score_real"] + losses[0.0]["score_fake"]) - 1e-4  # hinges never help by more
    assert losses[1.0]["discriminator"] > plain
    assert losses[3.0]["discriminator"] - plain == pytest.approx(3 * (losses[1.0]["discriminator"] - plain), rel=1e-3)


# ----------------------------------------------------------------------------------------------- what learns


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_reaches_the_unet_and_no_frozen_copy(
    adapter: DiffusionAdapter, sources: dict[str, BatchSource], method: str
) -> None:
    objective = objective_of(method, adapter)
    adapter.unet.requires_grad_(True)
    loss, _ = objective(adapter, sources[method].batch(0), torch.Generator().manual_seed(0))
    loss.backward()
    assert float(adapter.unet.conv_in.weight.grad.abs().sum()) > 0
    frozen = [value for value in vars(objective).values() if isinstance(value, DiffusionAdapter)]
    assert frozen
    for other in frozen:
        assert other.unet is not adapter.unet
        assert all(value.grad is None and not value.requires_grad for value in other.unet.parameters())


def test_memory_of_the_frozen_networks_is_counted(adapter: DiffusionAdapter) -> None:
    one = sum(value.numel() for value in adapter.unet.parameters())
    counted = {method: objective_of(method, adapter).teacher_parameters for method in METHODS}  # type: ignore[attr-defined]
    assert counted == {"consistency": 2 * one, "preference": one, "teacher_adversarial": one}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_lowers_its_own_loss(
    adapter: DiffusionAdapter, sources: dict[str, BatchSource], tmp_path: Path, method: str
) -> None:
    """The moving parts (target, discriminator) all but stand still, so that there is one loss to lower; students of a
    teacher start away from it."""
    objective = objective_of(method, adapter, discriminator_rate=1e-9)
    if isinstance(objective, ConsistencyObjective):
        objective.target_decay = 0.9999
        assert objective.state()  # the target is as the base from here on
        disturb(adapter)
    if isinstance(objective, TeacherAdversarialObjective):
        objective.distillation_weight = 1000.0

    def mean_loss() -> float:
        found = float(np.mean([loss_of(objective, adapter, sources[method].batch(n), n)[0] for n in range(4)]))
        if isinstance(objective, TeacherAdversarialObjective):
            objective._seen.clear()
        return found

    before = mean_loss()
    settings = SETTINGS.model_copy(update={"updates": 12, "ema_decay": 0.0})
    FeedbackEngine(adapter, [Term(objective, sources[method])], settings, tmp_path).run()
    assert mean_loss() < 0.95 * before


# ---------------------------------------------------------------------------------------------------- resume


class Killed(Exception):
    """Stands for a SIGKILL: nothing after it runs."""


class KilledAt(Objective):
    """An objective whose process ends after the n-th update of the UNet, before its own."""

    def __init__(self, inner: Objective, update: int) -> None:
        self.name = inner.name
        self.inner = inner
        self.left = update

    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Logs]:  # type: ignore[override]
        return self.inner(adapter, batch, generator)

    def after_update(self) -> Logs:
        self.left -= 1
        if self.left == 0:
            raise Killed
        return self.inner.after_update()

    def state(self) -> dict[str, Tensor]:
        return self.inner.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.inner.restore(state)


@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_resumes_with_the_same_log_to_the_last_digit(
    base_folder: Path, sources: dict[str, BatchSource], tmp_path: Path, method: str, lora_rank: int
) -> None:
    settings = SETTINGS.model_copy(update={"lora_rank": lora_rank})

    def engine(checkpoints: Path, killed_at: int = 0) -> FeedbackEngine:
        fresh = DiffusionAdapter.load(base_folder)
        objective = objective_of(method, fresh)
        if killed_at:
            objective = KilledAt(objective, killed_at)
        return FeedbackEngine(fresh, [Term(objective, sources[method])], settings, checkpoints)

    whole = engine(tmp_path / "whole")
    expected = whole.run()
    with pytest.raises(Killed):
        engine(tmp_path / "killed", killed_at=4).run()
    resumed = engine(tmp_path / "killed")
    assert resumed.run() == expected
    for name, value in whole.parameters.state().items():
        assert torch.equal(value, resumed.parameters.state()[name]), name
    for name, value in whole.terms[0].objective.state().items():
        assert torch.equal(value, resumed.terms[0].objective.state()[name]), name
