"""Average precision and overlaps of masks against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from unifl.evaluation.instances import average_precision, best_overlap, coco_average_precision, overlaps


def test_overlap_of_two_rectangles_that_share_a_third() -> None:
    a, b = np.zeros((2, 1, 4, 4), bool)
    a[0, :, :2] = True
    b[0, :, 1:3] = True
    assert overlaps(a, b)[0, 0] == pytest.approx(1 / 3)


def test_overlap_of_nothing_found_has_no_rows() -> None:
    assert overlaps(np.zeros((0, 4, 4), bool), np.ones((2, 4, 4), bool)).shape == (0, 2)


def test_perfect_detections_have_precision_one() -> None:
    assert coco_average_precision([np.eye(2)], [np.array([0.9, 0.8])]) == 1


def test_average_precision_by_hand() -> None:
    """Right, wrong, right of two objects: precision 1 up to recall 1/2, then 2/3; read at 101 recalls."""
    iou = [np.array([[0.9, 0.0], [0.1, 0.2], [0.0, 0.8]])]
    scores = [np.array([0.9, 0.8, 0.7])]
    assert average_precision(iou, scores, 0.5) == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_a_second_detection_of_one_object_is_wrong() -> None:
    iou = [np.array([[0.9], [0.95]])]
    assert average_precision(iou, [np.array([0.9, 0.8])], 0.5) == 1
    assert average_precision([np.array([[0.3], [0.95]])], [np.array([0.9, 0.8])], 0.5) == pytest.approx(0.5)


def test_detections_are_ranked_across_images() -> None:
    iou = [np.array([[0.0]]), np.array([[0.9]])]
    worst_first = average_precision(iou, [np.array([0.9]), np.array([0.1])], 0.5)
    best_first = average_precision(iou, [np.array([0.1]), np.array([0.9])], 0.5)
    assert worst_first < best_first == pytest.approx(51 / 101)


def test_missed_objects_count_as_no_overlap() -> None:
    assert best_overlap([np.zeros((0, 1)), np.array([[0.6], [0.2]])]) == pytest.approx(0.3)
