"""The examiners: their losses by hand, that heads learn, and that a folder gives back the same examiner."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from tests.tiny_examiners import CELLS, POOLED
from unifl.core.errors import DivergenceError, ModelLoadError
from unifl.evaluation import examiner_training as training
from unifl.evaluation.heads import ConceptHead, ImageTextHead, PooledHead, load_head, save_head
from unifl.evaluation.judge_pairs import JudgePairs
from unifl.evaluation.panel import Findings, Panel, clip_like
from unifl.evaluation.trunk import EMBEDDING_WIDTH, Trunk, Views, as_tensor


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Noise around a random color each, uint8 [N, 64, 64, 3]."""
    rng = np.random.default_rng(seed)
    colors = rng.integers(40, 216, (count, 1, 1, 3))
    return (colors + rng.integers(-40, 40, (count, 64, 64, 3))).clip(0, 255).astype(np.uint8)


def random_views(count: int, seed: int = 0) -> Views:
    draw = torch.Generator().manual_seed(seed)
    shapes = ((count, 40), (count, 4, 6, 6), (count, 8, 6, 6), (count, 12, 3, 3))
    return Views(*(torch.randn(shape, generator=draw) for shape in shapes))


def test_bradley_terry_by_hand() -> None:
    """σ(2) = 0.8808: -log 0.8808 when all vote for the first, -log 0.1192 when none does."""
    a, b = torch.tensor([3.0]), torch.tensor([1.0])
    assert float(training.bradley_terry(a, b, torch.ones(1))) == pytest.approx(-np.log(0.880797), rel=1e-5)
    assert float(training.bradley_terry(a, b, torch.zeros(1))) == pytest.approx(-np.log(0.119203), rel=1e-5)


def test_bradley_terry_sees_only_differences() -> None:
    a, b, votes = torch.randn(5), torch.randn(5), torch.rand(5)
    raised = training.bradley_terry(a + 7, b + 7, votes)
    assert float(raised) == pytest.approx(float(training.bradley_terry(a, b, votes)), rel=1e-4)


def test_spread_cross_entropy_of_one_class_is_cross_entropy() -> None:
    logits = torch.randn(4, 6)
    wanted = torch.zeros(4, 6, dtype=torch.bool)
    wanted[torch.arange(4), torch.tensor([0, 3, 5, 3])] = True
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3, 5, 3]))
    assert float(training.spread_cross_entropy(logits, wanted)) == pytest.approx(float(expected))


def test_spread_cross_entropy_of_two_classes_is_lowest_at_one_half_each() -> None:
    wanted = torch.tensor([[True, True, False]])
    even = training.spread_cross_entropy(torch.tensor([[9.0, 9.0, -9.0]]), wanted)
    uneven = training.spread_cross_entropy(torch.tensor([[9.0, 5.0, -9.0]]), wanted)
    assert float(even) == pytest.approx(np.log(2), rel=1e-4)
    assert uneven > even


def test_contrastive_loss_of_indistinguishable_rows_is_log_of_their_number() -> None:
    same = torch.nn.functional.normalize(torch.ones(5, 3), dim=1)
    assert float(training.contrastive(same, same, torch.tensor(1.0))) == pytest.approx(np.log(5), rel=1e-5)


def test_contrastive_loss_is_the_mean_of_two_cross_entropies_by_scipy() -> None:
    rng = np.random.default_rng(0)
    images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, 6, 4)))
    logits = images @ texts.T * np.exp(1.5)
    expected = -(np.diagonal(log_softmax(logits, 1)).mean() + np.diagonal(log_softmax(logits, 0)).mean()) / 2
    found = training.contrastive(torch.from_numpy(images), torch.from_numpy(texts), torch.tensor(1.5))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_contrastive_scale_stops_at_a_hundred() -> None:
    images = torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    texts = images.flip(0)
    assert training.contrastive(images, texts, torch.tensor(9.0)) == training.contrastive(
        images, texts, torch.tensor(4.6)
    )


def test_a_judge_learns_which_feature_is_preferred() -> None:
    pooled = torch.randn(300, 12, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 300, 400), rng.integers(0, 300, 400)
    truth = (pooled[:, 3].numpy()[a] > pooled[:, 3].numpy()[b]) & (a != b)
    pairs = JudgePairs(np.zeros((300, 1, 1, 3), np.uint8), a, b, truth.astype(float), truth, np.zeros(400, np.int64))
    judge = training.train_judge(pooled, pairs, passes=20, seed=0, axis="color")
    fresh = torch.randn(200, 12, generator=torch.Generator().manual_seed(1))
    scores = judge(fresh)[:, 0].detach()
    assert np.corrcoef(scores, fresh[:, 3])[0, 1] > 0.8


def test_a_concept_head_finds_an_object_wherever_it_is() -> None:
    """Concept k is a bright channel k of one cell; a mean over cells would hardly see it."""
    views, rng = random_views(512), np.random.default_rng(0)
    classes = rng.integers(0, 4, 512)
    for row, (k, y, x) in enumerate(zip(classes, rng.integers(0, 6, 512), rng.integers(0, 6, 512), strict=True)):
        views.fine[row, k, y, x] += 8
    wanted = torch.nn.functional.one_hot(torch.from_numpy(classes), 4).bool()
    head = training.train_concept(views[slice(0, 384)], wanted[:384], passes=80, seed=0, hidden=16)
    right = head(views[slice(384, 512)]).argmax(1).numpy() == classes[384:]
    assert right.mean() > 0.85


def test_a_scorer_brings_images_and_their_texts_together() -> None:
    views = random_views(512)
    texts = torch.nn.functional.normalize(views.pooled[:, :10], dim=1)
    head = training.train_scorer(views[slice(0, 448)], texts[:448], passes=150, seed=0, hidden=8, joint=8)
    held = slice(448, 512)
    similarity = head.images(views[held]).detach() @ head.texts(texts[held]).detach().T
    assert similarity.diagonal().mean() > similarity.mean() + 0.1


def test_a_style_head_sees_both_the_whole_image_and_its_cells() -> None:
    """Style 0 shows in a statistic of the whole image, style 1 in one cell, style 2 in neither."""
    views, rng = random_views(384), np.random.default_rng(0)
    styles = rng.integers(0, 3, 384)
    views.pooled[styles == 0, 5] += 6
    for row in np.flatnonzero(styles == 1):
        views.fine[row, 2, rng.integers(6), rng.integers(6)] += 8
    head = training.train_style(views[slice(0, 256)], torch.from_numpy(styles[:256]), 3, passes=60, seed=0, hidden=8)
    right = head(views[slice(256, 384)]).argmax(1).numpy() == styles[256:]
    assert right.mean() > 0.75


def test_a_loss_that_is_not_a_number_stops_training() -> None:
    head = PooledHead(4, 2, 1)
    with pytest.raises(DivergenceError, match="the loss is nan"):
        training.fit(head, lambda rows: head(torch.full((1, 4), torch.nan)).sum(), 10, passes=1, learning_rate=1e-3,
                     description="judge", seed=0)  # fmt: skip


def test_multi_hot_marks_each_word() -> None:
    assert training.multi_hot([["b"], ["a", "c"]], ("a", "b", "c")).tolist() == [
        [False, True, False],
        [True, False, True],
    ]


def test_views_end_with_the_embedding_and_have_the_widths_that_heads_expect(trunk: Trunk) -> None:
    images = as_tensor(pictures(2))
    views = trunk.look(images)
    assert views.pooled.shape == (2, POOLED)
    assert views.cells.shape == (2, CELLS, 6, 6)
    assert (trunk.pooled_width, trunk.cell_width) == (POOLED, CELLS)
    direct = trunk._network.embedding(images, 96)
    assert views.embedding.shape == (2, EMBEDDING_WIDTH)
    assert torch.allclose(views.embedding, direct, rtol=1e-2, atol=1e-3)


def test_the_panel_says_the_same_of_an_image_in_any_company(panel: Panel) -> None:
    images = pictures(6)
    together, alone = panel.examine(images, batch_size=4), panel.examine(images[3:4])
    for name, array in alone.arrays().items():
        assert together.arrays()[name][3] == pytest.approx(array[0], rel=0.02, abs=0.02)
    assert np.linalg.norm(together.vectors, axis=1) == pytest.approx(np.ones(6), rel=1e-3)


def test_hits_compare_with_what_the_prompt_wants(panel: Panel) -> None:
    concepts = np.full((3, len(panel.concept_names)), -9.0, np.float32)
    concepts[0, 2], concepts[1, 5], concepts[2, [1, 7]] = 3, 3, 3
    nothing = np.zeros((3, 1), np.float32)
    styles = np.eye(len(panel.style_names), dtype=np.float32)[:3]
    found = Findings(nothing, nothing, styles, concepts, nothing)
    names = panel.concept_names
    wanted = [[names[2]], [names[4]], [names[1], names[3]]]
    assert panel.concept_hits(found, wanted).tolist() == [True, False, True]
    assert panel.concept_recall(found, wanted).tolist() == [1, 0, 0.5]
    assert panel.style_hits(found, [panel.style_names[0], panel.style_names[0], panel.style_names[2]]).tolist() == [
        True,
        False,
        True,
    ]


def test_clip_like_is_the_cosine_row_by_row() -> None:
    images = np.array([[1, 0], [0.6, 0.8]], np.float32)
    assert clip_like(images, np.array([[1, 0], [0.8, 0.6]], np.float32)) == pytest.approx([1, 0.96])


def test_a_saved_head_comes_back(tmp_path: Path) -> None:
    head = ConceptHead(24, 8, 3).eval()
    save_head(head, tmp_path / "concept", "concept classifier", {"labels": ["a", "b", "c"]})
    back, config = load_head("concept classifier", ConceptHead, tmp_path / "concept")
    views = random_views(2)
    assert torch.allclose(back(views), head(views), atol=0.02)
    assert config["labels"] == ["a", "b", "c"]


def test_a_head_of_another_trunk_or_kind_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "style"
    save_head(PooledHead(8, 2, 3), folder, "style classifier", {})
    with pytest.raises(ModelLoadError, match="holds a style classifier"):
        load_head("judge", PooledHead, folder)
    config = json.loads((folder / "config.json").read_text())
    config["trunk"]["sha256"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="belongs to the trunk"):
        load_head("style classifier", PooledHead, folder)


def test_a_missing_head_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="judge_models"):
        load_head("image-text scorer", ImageTextHead, tmp_path)
