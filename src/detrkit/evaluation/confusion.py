"""Which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detrkit.evaluation.inputs import Inputs
from detrkit.evaluation.outcomes import Outcomes, Overlaps


@dataclass(frozen=True)
class ConfusionMatrix:
    """Objects and the detections that stand for them, counted by class.

    Detections from their operating thresholds on are paired with objects from IoU 0.50 on, whatever their classes are: first the correct
    ones as COCO pairs them, so that the diagonal holds the correct detections of each class, then what is left, greatest IoU first.

    Attributes:
        ids: (K,) category ids, sorted.
        names: (K,) of the categories.
        counts: (K + 1, K + 1) numbers. Rows are true classes and last "background"; columns are detected classes and last "missed". Rows of
            classes add up to their objects, columns of classes to their detections without ignored ones. The last cell is 0.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def confusion_matrix(inputs: Inputs, found: Outcomes, shown: NDArray[np.bool_], near: Overlaps) -> ConfusionMatrix:
    """Counts which classes are taken for which.

    Args:
        inputs: what is compared.
        found: outcomes at IoU 0.50.
        shown: (M,) which of their detections count.
        near: pairs of detections and objects of all classes that overlap.
    """
    classes = len(inputs.class_ids)
    detected = inputs.detections.classes
    object_of = np.full(len(inputs.detections), -1)
    correct = shown & found.correct[0]
    object_of[found.rows[correct]] = found.matched[0, correct]
    wrong = found.rows[shown & ~found.correct[0] & ~found.ignored[0]]
    _pair_rest(object_of, wrong, near, inputs.objects.crowd)
    rows = np.append(found.rows[correct], wrong)
    counts = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    truth = np.where(object_of[rows] >= 0, np.append(inputs.objects.classes, classes)[object_of[rows]], classes)
    np.add.at(counts, (truth, detected[rows]), 1)
    is_missed = ~inputs.objects.crowd
    is_missed[object_of[rows][object_of[rows] >= 0]] = False
    counts[:classes, classes] = np.bincount(inputs.objects.classes[is_missed], minlength=classes)
    return ConfusionMatrix(
        tuple(inputs.class_ids.tolist()), inputs.class_names, tuple(tuple(row) for row in counts.tolist())
    )


def _pair_rest(
    object_of: NDArray[np.int64], wrong: NDArray[np.int64], near: Overlaps, crowd: NDArray[np.bool_]
) -> None:
    """Pairs detections that are wrong as COCO sees them with objects that none stands for, greatest IoU first; writes into `object_of`."""
    is_free = ~crowd
    is_free[object_of[object_of >= 0]] = False
    is_wrong = np.zeros(len(object_of), dtype=np.bool_)
    is_wrong[wrong] = True
    pairs = near.only((near.ious >= 0.5) & is_wrong[near.detections] & is_free[near.objects])
    for place in np.argsort(-pairs.ious, kind="stable").tolist():
        row, other = pairs.detections[place], pairs.objects[place]
        if object_of[row] < 0 and is_free[other]:
            object_of[row] = other
            is_free[other] = False
