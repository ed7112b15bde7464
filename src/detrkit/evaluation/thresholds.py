"""Precision, recall and F1 against the threshold of scores, and the best thresholds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """Precision, recall and F1 at IoU 0.50 of the detections from a score on.

    Attributes:
        thresholds: (T,) scores, rising evenly from 0 to 1 (or further, if scores do).
        precision: (T,) in [0, 1]; None where no detection has such a score.
        recall: (T,) in [0, 1]; empty if there are no objects.
        f1: (T,) in [0, 1]; empty if there are no objects.
    """

    thresholds: tuple[float, ...]
    precision: tuple[float | None, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]


@dataclass(frozen=True)
class ClassOperation:
    """What a class's operating threshold gives, at IoU 0.50.

    Attributes:
        id: the category id.
        name: of the category.
        threshold: the score from which detections of this class count.
        own: whether this is the best threshold of the class; False if it has too few objects to tell, and the overall one is used.
        objects: number of objects, without crowd regions.
        detections: number of detections from the threshold on, without ignored ones.
        correct: how many of them are correct.
        precision: `correct` / `detections`; None without detections.
        recall: `correct` / `objects`; None without objects.
        f1: of precision and recall; None without objects.
    """

    id: int
    name: str
    threshold: float
    own: bool
    objects: int
    detections: int
    correct: int
    precision: float | None
    recall: float | None
    f1: float | None
