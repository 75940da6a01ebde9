"""The examiners' own figures against a second count over the same scores, image by image."""

from __future__ import annotations

import numpy as np
import torch

from unifl.evaluation import metrics
from unifl.evaluation.heads import ConceptHead, ImageTextHead, PooledHead, StyleHead
from unifl.evaluation.held_out import GALLERY, concept_figures, judge_figures, scorer_figures, style_figures
from unifl.evaluation.judge_pairs import KINDS, JudgePairs
from unifl.evaluation.trunk import Views

WIDTH, POOLED = 24, 40


def random_views(count: int) -> Views:
    draw = torch.Generator().manual_seed(0)
    shapes = ((count, POOLED), (count, 4, 6, 6), (count, 8, 6, 6), (count, 12, 3, 3))
    return Views(*(torch.randn(shape, generator=draw) for shape in shapes))


def test_a_judges_agreement_and_accuracy_are_counted_pair_by_pair() -> None:
    torch.manual_seed(0)
    judge = PooledHead(POOLED, 8, 1).eval()
    pooled, rng = random_views(50).pooled, np.random.default_rng(0)
    a, b = rng.integers(0, 25, 120), rng.integers(25, 50, 120)
    votes, truth, kind = rng.integers(0, 6, 120) / 5, rng.random(120) < 0.5, rng.integers(0, 2, 120)
    figures = judge_figures(judge, pooled, JudgePairs(np.zeros((50, 1, 1, 3), np.uint8), a, b, votes, truth, kind))
    with torch.no_grad():
        scores = [float(judge(pooled[row : row + 1])) for row in range(50)]
    chosen = [scores[one] > scores[other] for one, other in zip(a, b, strict=True)]
    agree = sum((side and vote > 0.5) or (not side and vote <= 0.5) for side, vote in zip(chosen, votes, strict=True))
    right = [side == bool(answer) for side, answer in zip(chosen, truth, strict=True)]
    assert figures["agreement_with_majority"] == metrics.share([True] * agree + [False] * (120 - agree)).as_dict()
    assert figures["accuracy"]["value"] == sum(right) / 120
    for number in (0, 1):
        mine = [hit for hit, one in zip(right, kind, strict=True) if one == number]
        assert figures[f"accuracy_{KINDS[number].replace(' ', '_')}"]["value"] == sum(mine) / len(mine)
    assert f"accuracy_{KINDS[2].replace(' ', '_')}" not in figures


def test_style_accuracy_is_counted_apart_for_painted_and_drawn_styles() -> None:
    torch.manual_seed(1)
    head, views = StyleHead(WIDTH, 8, POOLED, 5).eval(), random_views(300)
    rng = np.random.default_rng(1)
    labels, painted = rng.integers(0, 5, 300), rng.random(300) < 0.4
    figures = style_figures(head, views, torch.from_numpy(labels), painted)
    with torch.no_grad():
        hits = np.array([int(head(views[slice(n, n + 1)])[0].argmax()) == labels[n] for n in range(300)])
    assert figures["accuracy"]["value"] == hits.mean()
    assert figures["accuracy_painted"]["value"] == hits[painted].sum() / painted.sum()
    assert figures["accuracy_drawn"]["value"] == hits[~painted].sum() / (~painted).sum()


def test_concept_accuracy_is_that_of_images_with_one_object() -> None:
    torch.manual_seed(2)
    names = ("cat", "dog", "fox", "owl")
    head, views = ConceptHead(WIDTH, 8, 4).eval(), random_views(200)
    rng = np.random.default_rng(2)
    concepts = [list(rng.permutation(names)[: rng.integers(1, 3)]) for _ in range(200)]
    unseen = rng.random(200) < 0.3
    figures = concept_figures(head, views, concepts, names, unseen)
    with torch.no_grad():
        best = [names[int(head(views[slice(n, n + 1)])[0].argmax())] for n in range(200)]
    one = [n for n in range(200) if len(concepts[n]) == 1]
    new = [n for n in one if unseen[n]]
    assert figures["accuracy"]["value"] == sum(best[n] == concepts[n][0] for n in one) / len(one)
    assert figures["accuracy"]["images"] == len(one)
    assert figures["accuracy_unseen_drawing"]["value"] == sum(best[n] == concepts[n][0] for n in new) / len(new)
    assert figures["accuracy_any_of_several"]["value"] == sum(best[n] in concepts[n] for n in range(200)) / 200


def test_recall_is_that_of_ranking_each_gallery_and_a_repeated_caption_counts_once() -> None:
    torch.manual_seed(3)
    count = 2 * GALLERY + 30
    head, views = ImageTextHead(WIDTH, 8, POOLED, 10, 6).eval(), random_views(count)
    texts = torch.randn(count, 10)
    captions = [f"caption {number}" for number in range(count)]
    captions[5] = captions[2]
    figures = scorer_figures(head, views, texts, captions)
    rows = [number for number in range(count) if number != 5]
    with torch.no_grad():
        images, sentences = head.images(views).double().numpy(), head.texts(texts).double().numpy()
    found = {1: 0, 5: 0, 10: 0}
    for gallery in (rows[:GALLERY], rows[GALLERY : 2 * GALLERY]):
        for own in gallery:
            ranked = sorted(gallery, key=lambda other, own=own: -float(images[own] @ sentences[other]))
            for k in found:
                found[k] += own in ranked[:k]
    assert (figures["gallery"], figures["images"]) == (GALLERY, 2 * GALLERY)
    assert {k: figures[f"recall_at_{k}"]["value"] for k in found} == {k: n / (2 * GALLERY) for k, n in found.items()}
