"""Suppression keeps the best of what overlaps, within each class."""

from __future__ import annotations

import numpy as np
import pytest

from detrkit.errors import ConfigurationError
from detrkit.prediction.suppression import check_nms, kept_by_nms

# Of boxes 100 wide, one that is shifted by 10 has an IoU of 90 / 110 = 0.82 with the first, one that is shifted by 20 of 0.67.
SHIFTS = [0, 10, 20, 300]


def kept(shifts: list[int], classes: list[int], iou: float) -> list[bool]:
    boxes = np.array([[shift, 0, shift + 100, 50] for shift in shifts], dtype=np.float32).reshape(-1, 4)
    return kept_by_nms(boxes, np.array(classes, dtype=np.int64), iou).tolist()


def test_what_repeats_a_better_one_goes() -> None:
    assert kept(SHIFTS, [1, 1, 1, 1], 0.7) == [True, False, True, True]  # the third overlaps only what goes that much
    assert kept(SHIFTS, [1, 1, 1, 1], 0.6) == [True, False, False, True]
    assert kept(SHIFTS, [1, 1, 1, 1], 0.9) == [True] * 4


def test_other_classes_do_not_matter() -> None:
    assert kept(SHIFTS, [1, 2, 1, 1], 0.7) == [True, True, True, True]
    assert kept([0, 0, 0], [1, 2, 1], 0.7) == [True, True, False]


def test_an_iou_of_1_keeps_equal_boxes_as_well() -> None:
    assert kept([5, 5, 5], [1, 1, 1], 1.0) == [True] * 3
    assert kept([5, 5, 5], [1, 1, 1], 0.999) == [True, False, False]


def test_nothing_and_one_box() -> None:
    assert kept([], [], 0.7) == []
    assert kept([5], [1], 0.7) == [True]


@pytest.mark.parametrize("iou", [0, -0.1, 1.01, float("nan")])
def test_what_is_no_iou(iou: float) -> None:
    with pytest.raises(ConfigurationError, match=r"is no IoU for suppression: choose one above 0, such as 0\.7"):
        check_nms(iou)


def test_what_is_one() -> None:
    assert [check_nms(iou) for iou in (None, 0.001, 1)] == [None, 0.001, 1]
