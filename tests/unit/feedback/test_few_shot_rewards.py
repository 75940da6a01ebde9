"""A start for reward heads: learned over axes that share what they look at, it makes a new axis quick to learn."""

import copy
from pathlib import Path

import pytest
import torch

from unifl.core.errors import DataContractError, SettingsError
from unifl.feedback.few_shot_rewards import FewPairsSettings, axis_start, fresh_head, learn_pairs, some_pairs
from unifl.rewards.losses import pair_accuracy
from unifl.rewards.settings import HeadSettings
from unifl.rewards.training import PairTensors

SETTINGS = FewPairsSettings(
    pairs=40, updates=8, batch_size=10, rounds=25, learning_rate=3e-3, head=HeadSettings(hidden=16, dropout=0.0)
)
WIDTH = 64


def axis(number: int, pairs: int = 120) -> PairTensors:
    """Preferred images have more of feature 0, which all axes share, and of one of its own; the rest is noise."""
    generator = torch.Generator().manual_seed(number)
    features = torch.randn(2 * pairs, WIDTH, generator=generator)
    wanted = features[:, 0] + 0.5 * features[:, 1 + number]
    first, second = torch.arange(pairs), torch.arange(pairs, 2 * pairs)
    better = wanted[first] > wanted[second]
    return PairTensors(
        features, torch.where(better, first, second), torch.where(better, second, first), None, torch.ones(pairs)
    )


def test_a_new_axis_is_learned_in_fewer_updates_from_the_start(tmp_path: Path) -> None:
    start = axis_start({name: axis(n) for n, name in enumerate(("a", "b", "c"))}, SETTINGS, tmp_path)
    few, unseen = some_pairs(axis(3), 40, seed=0), axis(3, 400)

    def accuracy_after_five(head: object) -> float:
        learn_pairs(head, few, SETTINGS, updates=5, seed=0)  # type: ignore[arg-type]
        return pair_accuracy(*unseen.scores(head))  # type: ignore[arg-type]

    plain = accuracy_after_five(fresh_head(few.features, False, SETTINGS.head, 0))
    learned = accuracy_after_five(copy.deepcopy(start))
    assert learned > plain + 0.05


def test_a_start_goes_on_from_its_checkpoint_and_is_the_same_again(tmp_path: Path) -> None:
    axes = {"a": axis(0), "b": axis(1)}
    settings = SETTINGS.model_copy(update={"rounds": 3})
    first = axis_start(axes, settings, tmp_path / "one").state_dict()
    for folder in ("one", "two"):
        again = axis_start(axes, settings, tmp_path / folder).state_dict()
        assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_one_axis_alone_makes_no_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="over several axes"):
        axis_start({"a": axis(0)}, SETTINGS, tmp_path)


def test_more_pairs_than_there_are_is_refused() -> None:
    with pytest.raises(DataContractError, match=r"121 pairs are asked for, and there are 120.*pairs=120"):
        some_pairs(axis(0), 121, seed=0)
