"""The simulation of the fleet: where it can be computed by hand it must agree, and chance may not break its books."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fleet_inputs import Inputs, Preemption, dag_edges, price_per_hour, read_inputs
from benchmarks.fleet_simulation import Scenario, daly, simulate, young
from pipelines.settings import TASKS

INPUTS, EDGES = read_inputs(), dag_edges()
STAGE = "adversarial_feedback"
ALONE = INPUTS.model_copy(update={"steps": {STAGE: INPUTS.steps[STAGE]}})


def spot(hours: float | None, notice: float = 0.0, replacement: float = 0.0) -> Preemption:
    return Preemption(hours_between=hours, notice_seconds=notice, replacement_seconds=replacement, restart_seconds=90)


def test_edges_and_steps_are_those_of_the_pipeline() -> None:
    assert set(EDGES) == set(INPUTS.steps) == set(TASKS)
    assert EDGES["evaluation"] == {"resolve_data", "decoupled_feedback", STAGE}


def test_one_gpu_that_stays_takes_the_sum_of_all_work() -> None:
    scenario = Scenario(1, interval_seconds=3600, checkpoint_seconds=20)
    saves = sum(math.ceil(INPUTS.work_seconds(step, 1) / 3600) - 1 for step in INPUTS.steps.values() if step.tuning)
    # Prompt curation runs beside the first GPU steps; everything else is in turn.
    in_turn = sum(INPUTS.work_seconds(step, 1) for name, step in INPUTS.steps.items() if name != "prompt_curation")
    tally = simulate(INPUTS, EDGES, scenario)
    assert tally.hours * 3600 == pytest.approx(in_turn + 20 * saves)
    assert (tally.lost, tally.restarts, tally.preemptions) == (0, 0, 0)


def test_the_price_is_of_the_gpu_time_that_was_held() -> None:
    tally = simulate(INPUTS, EDGES, Scenario(1))
    gpu_hours = sum(step.gpu_hours for step in INPUTS.steps.values())
    assert tally.cost(price_per_hour(INPUTS.accelerator)) == pytest.approx(gpu_hours * 5.07)


def test_rewards_run_beside_perceptual_feedback_when_there_are_gpus_for_both() -> None:
    tally = simulate(INPUTS, EDGES, Scenario(16, width=8))
    starts = {tally.started[0, name] for name in INPUTS.steps if name.startswith("reward_model")}
    assert starts == {tally.started[0, "perceptual_feedback"]}


def test_rewards_queue_behind_a_step_that_took_every_gpu() -> None:
    tally = simulate(INPUTS, EDGES, Scenario(8))
    first = min(tally.started[0, name] for name in INPUTS.steps if name.startswith("reward_model"))
    assert first == tally.ended[0, "perceptual_feedback"]
    assert tally.queued_seconds > 0


def test_gradients_of_one_gpu_are_not_averaged_and_cost_grows_with_nodes() -> None:
    assert INPUTS.all_reduce_seconds(1) == 0
    costs = [INPUTS.all_reduce_seconds(gpus) for gpus in (2, 8, 16, 64)]
    assert costs == sorted(costs)
    # By hand: 3.44 GB, 7/8 twice at 230 GB/s, and 1/2 twice at 12.5 GB/s.
    assert INPUTS.all_reduce_seconds(16) == pytest.approx(2 * 7 / 8 * 3.44 / 230 + 3.44 / 12.5)


def test_work_lost_falls_with_the_interval() -> None:
    def lost(interval: float) -> float:
        scenario = Scenario(8, interval_seconds=interval, checkpoint_seconds=5, preemption=spot(2.0), notice_used=False)
        return float(np.mean([simulate(ALONE, {STAGE: set()}, scenario, seed).lost for seed in range(40)]))

    losses = [lost(interval) for interval in (60, 600, 3600)]
    assert losses == sorted(losses)
    assert losses[0] * 10 < losses[2]


def test_a_notice_that_fits_a_checkpoint_loses_nothing_but_restarts() -> None:
    scenario = Scenario(8, interval_seconds=3600, checkpoint_seconds=20, preemption=spot(2.0, notice=30))
    tally = simulate(ALONE, {STAGE: set()}, scenario)
    assert tally.preemptions > 0
    assert tally.worst_loss_seconds == 0


def test_the_best_interval_is_where_young_and_daly_say() -> None:
    hours, cost = 2.0, 15.0
    mean = hours * 3600
    assert young(cost, mean) == pytest.approx(math.sqrt(2 * cost * mean))
    assert daly(cost, mean) == pytest.approx(young(cost, mean), rel=0.05)

    def took(interval: float) -> float:
        scenario = Scenario(
            8, interval_seconds=interval, checkpoint_seconds=cost, preemption=spot(hours), notice_used=False
        )
        return float(np.mean([simulate(ALONE, {STAGE: set()}, scenario, seed).hours for seed in range(100)]))

    best = took(daly(cost, mean))
    assert best < took(daly(cost, mean) / 6)
    assert best < took(daly(cost, mean) * 6)


def test_a_seed_gives_the_same_run() -> None:
    scenario = Scenario(8, runs=2, width=4, preemption=spot(3.0, 30, 600), checkpoint_seconds=10)
    assert simulate(INPUTS, EDGES, scenario, 1) == simulate(INPUTS, EDGES, scenario, 1)
    assert simulate(INPUTS, EDGES, scenario, 1).hours != simulate(INPUTS, EDGES, scenario, 2).hours


def test_another_dag_than_the_figures_is_refused() -> None:
    with pytest.raises(ValueError, match=r"name different steps.*publish"):
        simulate(INPUTS, {**EDGES, "publish": {"quality_gate"}}, Scenario(1))


@settings(max_examples=40, deadline=None)
@given(
    gpus=st.integers(1, 24),
    runs=st.integers(1, 3),
    width=st.integers(1, 24),
    hours=st.one_of(st.none(), st.floats(1.0, 200.0)),
    interval=st.floats(30.0, 7200.0),
    cost=st.floats(0.0, 120.0),
    notice=st.booleans(),
    parts=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_books_balance_whatever_happens(
    gpus: int,
    runs: int,
    width: int,
    hours: float | None,
    interval: float,
    cost: float,
    notice: bool,
    parts: int,
    seed: int,
) -> None:
    scenario = Scenario(
        gpus, runs, width, interval, cost, spot(hours, 30, 300), notice_used=notice, evaluation_parts=parts
    )
    tally = simulate(INPUTS, EDGES, scenario, seed)
    assert set(tally.ended) == {(run, name) for run in range(runs) for name in EDGES}
    for (run, name), began in tally.started.items():
        assert all(tally.ended[run, other] <= began for other in EDGES[name])
    assert tally.most_gpus <= gpus
    assert tally.work == pytest.approx(runs * work_of(INPUTS, min(gpus, width), parts), rel=1e-9)
    for seconds in (tally.checkpoints, tally.lost, tally.restarts, tally.idle, tally.queued_seconds):
        assert seconds >= 0
    whole_portion = max(INPUTS.work_seconds(s, 1) for s in INPUTS.steps.values() if s.gpu_hours and not s.tuning)
    assert tally.worst_loss_seconds <= max(interval, whole_portion) + 1e-6
    assert tally.paid <= gpus * tally.hours * 3600 * (1 + 1e-9)
    if hours is None:
        assert (tally.preemptions, tally.lost) == (0, 0)


def work_of(inputs: Inputs, gpus: int, parts: int) -> float:
    """GPU seconds of work in one run, step by step."""
    total = 0.0
    for name, given_step in inputs.steps.items():
        step = given_step.model_copy(update={"processes": parts}) if name == "evaluation" else given_step
        width = inputs.width(step, gpus)
        total += inputs.work_seconds(step, width) * width if width else 0.0
    return total
