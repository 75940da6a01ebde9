import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from tests.tiny_base import CAPTIONS
from unifl.core.errors import DivergenceError, ModelLoadError, SettingsError
from unifl.diffusion.adapter import DiffusionAdapter
from unifl.feedback.batches import Batch, PromptBatches
from unifl.feedback.engine import FeedbackEngine, Term
from unifl.feedback.objectives import Logs, Objective
from unifl.feedback.parameters import check_tuned_on, save_tuned_model
from unifl.feedback.settings import EngineSettings
from unifl.feedback.trajectory import Trajectory, denoise_with_gradient, start_from_noise

SETTINGS = EngineSettings(updates=6, batch_size=2, learning_rate=1e-3, warmup_updates=3, checkpoint_every=2, steps=4)


class Redness(Objective):
    """Pull the red channel up: a feedback whose success is plain to see, with a learned part (a running mean)."""

    name = "redness"

    def __init__(self) -> None:
        self.seen = torch.zeros(1)

    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Logs]:
        trajectory = Trajectory(4, 0, 2)
        start = start_from_noise(adapter, len(batch), 4, generator)
        stops = trajectory.draw_stops(len(batch), generator)
        images = adapter.decode(
            denoise_with_gradient(adapter, start, stops, adapter.encode_text(batch.captions), trajectory)
        )
        red = images[:, 0].mean()
        self.seen = self.seen * 0.9 + red.detach()
        return 1 - red + 0.01 * self.seen.sum(), {"red": float(red.detach())}

    def after_update(self) -> Logs:
        return {"seen": float(self.seen)}

    def state(self) -> dict[str, Tensor]:
        return {"seen": self.seen}

    def restore(self, state: dict[str, Tensor]) -> None:  # type: ignore[override]
        self.seen = state["seen"]


class Killed(Exception):
    """Stands for a SIGKILL: nothing after it runs."""


class KilledAt(Redness):
    def __init__(self, update: int) -> None:
        super().__init__()
        self.left = update

    def after_update(self) -> Logs:
        self.left -= 1
        if self.left == 0:
            raise Killed
        return super().after_update()


class NotANumber(Redness):
    def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Logs]:
        loss, logs = super().__call__(adapter, batch, generator)
        return loss * float("nan"), logs


def engine_for(
    base: Path, checkpoints: Path, settings: EngineSettings = SETTINGS, objective: Objective | None = None
) -> FeedbackEngine:
    adapter = DiffusionAdapter.load(base)
    terms = [Term(objective or Redness(), PromptBatches(CAPTIONS, settings.batch_size, settings.seed))]
    return FeedbackEngine(adapter, terms, settings, checkpoints)


@pytest.fixture(scope="module", params=[0, 2], ids=["all weights", "LoRA"])
def undisturbed(
    request: pytest.FixtureRequest, base_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FeedbackEngine, list[dict[str, float]]]:
    settings = SETTINGS.model_copy(update={"lora_rank": request.param, "accumulate": 2, "updates": 5})
    engine = engine_for(base_folder, tmp_path_factory.mktemp("whole"), settings)
    return engine, engine.run()


@pytest.mark.parametrize("killed_in_update", [1, 3, 4])
def test_a_killed_run_resumes_with_the_same_losses_step_by_step(
    base_folder: Path,
    tmp_path: Path,
    undisturbed: tuple[FeedbackEngine, list[dict[str, float]]],
    killed_in_update: int,
) -> None:
    whole, expected = undisturbed
    with pytest.raises(Killed):
        engine_for(base_folder, tmp_path, whole.settings, KilledAt(killed_in_update)).run()
    resumed = engine_for(base_folder, tmp_path, whole.settings)
    assert resumed.run() == expected
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert lines == expected
    for name, value in whole.parameters.state().items():
        assert torch.equal(value, resumed.parameters.state()[name]), name


def test_feedback_moves_the_model_where_it_points(base_folder: Path, tmp_path: Path) -> None:
    log = engine_for(base_folder, tmp_path, SETTINGS.model_copy(update={"updates": 15})).run()
    assert sum(line["red"] for line in log[-3:]) > sum(line["red"] for line in log[:3])


def test_a_line_an_update_is_logged(base_folder: Path, tmp_path: Path) -> None:
    log = engine_for(base_folder, tmp_path).run()
    assert [line["update"] for line in log] == [1, 2, 3, 4, 5, 6]
    assert set(log[0]) == {"update", "loss", "redness", "red", "seen", "grad_norm", "lr"}
    assert [line["lr"] for line in log[:4]] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3])


def test_a_loss_that_is_not_a_number_names_update_and_remedy(base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"loss of redness is nan at update 1 of 6.*lower learning_rate"):
        engine_for(base_folder, tmp_path, objective=NotANumber()).run()


def test_a_checkpoint_of_other_settings_is_refused(base_folder: Path, tmp_path: Path) -> None:
    engine_for(base_folder, tmp_path).run()
    before = (tmp_path / "training.jsonl").read_text()
    for change in ({"learning_rate": 2e-3}, {"views": 2}, {"lora_rank": 2}, {"updates": 9}, {"collapse_share": 0.0}):
        (name,) = change
        with pytest.raises(SettingsError, match=rf"checkpoint is of a run with other {name}.*remove the folder"):
            engine_for(base_folder, tmp_path, SETTINGS.model_copy(update=change)).run()
    terms = [Term(Redness(), PromptBatches(CAPTIONS, 2, 0), weight=0.5)]
    with pytest.raises(SettingsError, match="with other objectives"):
        FeedbackEngine(DiffusionAdapter.load(base_folder), terms, SETTINGS, tmp_path).run()
    assert (tmp_path / "training.jsonl").read_text() == before, "nothing of the other run is touched"


def test_weights_that_sum_to_zero_are_refused(base_folder: Path, tmp_path: Path) -> None:
    adapter = DiffusionAdapter.load(base_folder)
    term = Term(Redness(), PromptBatches(CAPTIONS, 2, 0), weight=0.0)
    for terms, given in (([term], "redness"), ([], "none given")):
        with pytest.raises(SettingsError, match=rf"nothing to learn.*\({given}\).*at least one objective above 0"):
            FeedbackEngine(adapter, terms, SETTINGS, tmp_path)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_number_from_0_on_is_refused(base_folder: Path, tmp_path: Path, weight: float) -> None:
    terms = [Term(Redness(), PromptBatches(CAPTIONS, 2, 0), weight)]
    with pytest.raises(SettingsError, match=r"the weight of redness is .*set it to 0 to leave the objective out"):
        FeedbackEngine(DiffusionAdapter.load(base_folder), terms, SETTINGS, tmp_path)


def test_accumulating_two_halves_equals_one_batch(base_folder: Path, tmp_path: Path) -> None:
    class FixedNoise(Objective):
        name = "fixed"

        def __call__(self, adapter: DiffusionAdapter, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Logs]:
            noise = torch.stack([torch.full(adapter.latent_shape, len(text) / 40) for text in batch.captions])
            timesteps = torch.full((len(batch),), 300)
            predicted = adapter.predict_noise(noise, timesteps, adapter.encode_text(batch.captions))
            return predicted.square().mean(), {}

    whole = engine_for(base_folder, tmp_path / "a", SETTINGS.model_copy(update={"batch_size": 4}), FixedNoise()).run()
    halves = engine_for(
        base_folder, tmp_path / "b", SETTINGS.model_copy(update={"batch_size": 2, "accumulate": 2}), FixedNoise()
    ).run()
    assert [line["loss"] for line in halves] == pytest.approx([line["loss"] for line in whole], rel=1e-4)
    assert [line["grad_norm"] for line in halves] == pytest.approx([line["grad_norm"] for line in whole], rel=1e-3)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_tuned_model_loads_in_plain_diffusers(base_folder: Path, tmp_path: Path, lora_rank: int) -> None:
    settings = SETTINGS.model_copy(update={"updates": 2, "lora_rank": lora_rank, "learning_rate": 1e-2})
    engine = engine_for(base_folder, tmp_path / "checkpoints", settings)
    engine.run()
    latents = torch.randn(2, *engine.adapter.latent_shape, generator=torch.Generator().manual_seed(0))
    timesteps, condition = torch.tensor([900, 100]), engine.adapter.encode_text(CAPTIONS[:2])
    with engine.parameters.averaged(), torch.no_grad():
        expected = engine.adapter.predict_noise(latents, timesteps, condition)
    tuned = tmp_path / "tuned"
    save_tuned_model(engine.parameters, tuned, base_folder=base_folder, stage="test", log_file=engine.log_file)

    pipeline = StableDiffusionPipeline.from_pretrained(
        base_folder, unet=UNet2DConditionModel.from_pretrained(tuned, subfolder="unet"), local_files_only=True
    )
    with torch.no_grad():
        found = pipeline.unet(latents, timesteps, condition).sample
        base = DiffusionAdapter.load(base_folder).predict_noise(latents, timesteps, condition)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float((found - base).abs().max()) > 1e-3
    if lora_rank:
        plain = StableDiffusionPipeline.from_pretrained(base_folder, local_files_only=True)
        plain.load_lora_weights(tuned / "lora")
        with torch.no_grad():
            torch.testing.assert_close(plain.unet(latents, timesteps, condition).sample, expected, rtol=1e-4, atol=1e-4)
    check_tuned_on(base_folder, tuned)
    reloaded = DiffusionAdapter.load(base_folder, tuned)
    with torch.no_grad():
        torch.testing.assert_close(reloaded.predict_noise(latents, timesteps, condition), found)


def test_a_model_tuned_on_another_base_is_refused(base_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text('{"base_sha256": "0000", "stage": "test"}')
    with pytest.raises(ModelLoadError, match="another base"):
        check_tuned_on(base_folder, tmp_path)


def test_average_zero_saves_the_last_weights(base_folder: Path, tmp_path: Path) -> None:
    engine = engine_for(base_folder, tmp_path, SETTINGS.model_copy(update={"updates": 2, "ema_decay": 0.0}))
    engine.run()
    before = engine.adapter.unet.conv_in.weight.detach().clone()
    with engine.parameters.averaged():
        assert torch.equal(before, engine.adapter.unet.conv_in.weight)
