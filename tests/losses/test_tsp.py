"""TSP's class losses, element by element in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detrkit.losses import tsp_fcos, tsp_rcnn

# Two images with three rows each, two classes. The object of class 1 belongs to rows 0 and 1 of the first image, and row 1 is matched.
IMAGES, ROWS, OBJECTS = torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([0, 0])
MATCHED, LABELS = torch.tensor([False, True]), torch.tensor([1])


def focal(score: float, wanted: int) -> float:
    """Focal loss of one score with alpha 0.25 and gamma 2."""
    probability = 1 / (1 + math.exp(-score))
    right, share = (probability, 0.25) if wanted else (1 - probability, 0.75)
    return -share * (1 - right) ** 2 * math.log(right)


def test_features_that_are_not_matched_count_a_tenth_for_the_class_of_their_object() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 2, dtype=torch.float64)
    positives = tsp_fcos._Positives(IMAGES, ROWS, OBJECTS, MATCHED, Tensor(), Tensor(), Tensor())
    criterion = tsp_fcos.FeatureCriterion(class_count=2, class_weight=1.0, giou_weight=1.0, centerness_weight=1.0)
    wanted = 0.0
    for image in range(2):
        for row in range(3):
            for label in range(2):
                is_its_class = image == 0 and row < 2 and label == 1
                weight = 0.1 if is_its_class and row == 0 else 1.0
                wanted += weight * focal(logits[image, row, label].item(), int(is_its_class and row == 1))
    assert criterion._class_loss(logits, LABELS, positives).item() == pytest.approx(wanted, rel=1e-7)


def test_regions_without_an_object_count_a_tenth_and_less_the_surer_they_are() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 3, dtype=torch.float64)  # the last one is background
    padding = torch.tensor([[False, False, False], [False, False, True]])
    positives = tsp_rcnn._Positives(IMAGES, ROWS, OBJECTS, LABELS[OBJECTS], MATCHED, Tensor(), Tensor())
    total = weights = 0.0
    for image in range(2):
        for row in range(3):
            if padding[image, row]:
                continue
            probabilities = logits[image, row].softmax(-1).tolist()
            is_matched = (image, row) == (0, 1)
            weight = 1.0 if is_matched else 0.1
            unsure = 1.0 if is_matched else 2 * (1 - probabilities[2]) ** 2
            total -= weight * unsure * math.log(probabilities[1 if is_matched else 2])
            weights += weight
    assert tsp_rcnn._class_loss(logits, padding, positives).item() == pytest.approx(total / (weights + 1e-6), rel=1e-7)
    none = tsp_rcnn._Positives(
        IMAGES, ROWS, OBJECTS, LABELS[OBJECTS], torch.zeros(2, dtype=torch.bool), Tensor(), Tensor()
    )
    assert tsp_rcnn._class_loss(logits, padding, none) == 0
