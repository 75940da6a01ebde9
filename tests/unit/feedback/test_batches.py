from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_images import write_tiny_images
from unifl.core.errors import DataContractError
from unifl.data.contracts import open_images
from unifl.feedback.batches import ImageBatches, PromptBatches, ShuffledRows


@given(st.integers(1, 30), st.integers(0, 5), st.integers(0, 3))
def test_every_row_comes_once_an_epoch(size: int, seed: int, epoch: int) -> None:
    assert sorted(ShuffledRows(size, seed).rows(epoch * size, size)) == list(range(size))


@given(st.integers(0, 50), st.integers(1, 10))
def test_rows_at_a_position_do_not_depend_on_what_was_asked_before(first: int, count: int) -> None:
    used = ShuffledRows(7, 3)
    used.rows(0, 40)
    assert used.rows(first, count) == ShuffledRows(7, 3).rows(first, count)


def test_another_seed_gives_another_order() -> None:
    assert ShuffledRows(50, 0).rows(0, 50) != ShuffledRows(50, 1).rows(0, 50)


def test_image_batches_hold_pixels_captions_masks_and_concepts_of_the_training_split(tmp_path: Path) -> None:
    table = open_images(write_tiny_images(tmp_path / "images"))
    batch = ImageBatches(table, 8, seed=0, with_masks=True).batch(0)
    assert batch.real_images().shape == (8, 3, 64, 64)
    assert 0 <= float(batch.real_images().min()) <= float(batch.real_images().max()) <= 1
    assert batch.masks is not None
    assert batch.concepts is not None
    assert [len(masks) for masks in batch.masks] == [len(names) for names in batch.concepts]
    held_out = set(table.split("test")["caption"]) - set(table.split("train")["caption"])
    assert not held_out & set(batch.captions)
    first = batch.masks[0][0]
    inside = batch.real_images()[0].numpy()[:, first]
    assert np.ptp(inside, axis=1).max() == 0


def test_styles_choose_the_images(tmp_path: Path) -> None:
    table = open_images(write_tiny_images(tmp_path / "images"))
    with pytest.raises(DataContractError, match="no image to train on"):
        ImageBatches(table, 2, seed=0, styles=["watercolor"])


def test_an_empty_prompt_list_is_refused() -> None:
    with pytest.raises(DataContractError, match="no prompt"):
        PromptBatches([], 2, 0)
