"""Which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass


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
