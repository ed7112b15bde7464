"""Precision, recall and F1 against the threshold of scores, and the best thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detrkit.evaluation.outcomes import Outcomes

# A threshold is as noisy as the few objects that it rests on. Chosen on one half of COCO's photos and judged on the other half, for two
# detectors and 200 divisions, thresholds of their own cost classes with 3 or 4 objects 0.03 to 0.05 of their F1, and those with 1 or 2
# up to 0.11; from about 20 objects on they cost nothing on average.
LEAST_OBJECTS = 20
# Where no detection is correct there is no best threshold; this one only decides which detections count as errors.
WITHOUT_CORRECT = 0.5
_CURVE_POINTS = 101


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


@dataclass(frozen=True)
class BestThresholds:
    """The scores to keep detections from, at IoU 0.50.

    Attributes:
        overall: the one with the best mean of the F1 of all classes that have objects, the lowest of equally good ones; None if no detection
            is correct.
        own: the one with the best F1 of each class, by place of the class; only classes with at least `LEAST_OBJECTS` objects and a correct
            detection have one.
    """

    overall: float | None
    own: dict[int, float]


def best_thresholds(outcomes: Outcomes) -> BestThresholds:
    """The thresholds that give the best F1, out of the scores of correct detections.

    Args:
        outcomes: at one IoU threshold.
    """
    candidates = np.unique(outcomes.scores[outcomes.correct[0]])
    if not candidates.size:
        return BestThresholds(None, {})
    objects = outcomes.object_counts()
    sums = np.zeros(len(candidates))
    own = {}
    for place in np.flatnonzero(objects).tolist():
        f1 = _f1(*_counts(outcomes, outcomes.slices()[place], candidates), objects[place])
        sums += f1
        if objects[place] >= LEAST_OBJECTS and f1.any():
            own[place] = float(candidates[f1.argmax()])
    return BestThresholds(float(candidates[sums.argmax()]), own)


def operating_thresholds(outcomes: Outcomes, best: BestThresholds) -> NDArray[np.float64]:
    """(K,) the score from which detections of each class count: its own threshold, or else the overall one."""
    overall = WITHOUT_CORRECT if best.overall is None else best.overall
    return np.array([best.own.get(place, overall) for place in range(outcomes.shape[1])], dtype=np.float64)


def _counts(
    outcomes: Outcomes, rows: slice, thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of correct detections of one class, and of all that are not ignored, from each threshold on."""
    last = np.searchsorted(-outcomes.scores[rows], -thresholds, side="right")
    correct = np.append(0, np.cumsum(outcomes.correct[0, rows]))[last]
    return correct, np.append(0, np.cumsum(~outcomes.ignored[0, rows]))[last]


def _f1(correct: NDArray[np.int64], detections: NDArray[np.int64], objects: int) -> NDArray[np.float64]:
    f1: NDArray[np.float64] = 2 * correct / np.maximum(detections + objects, 1)
    return f1


def class_operations(
    outcomes: Outcomes, best: BestThresholds, ids: Sequence[int], names: Sequence[str]
) -> tuple[ClassOperation, ...]:
    """What the operating thresholds give.

    Args:
        outcomes: at one IoU threshold.
        best: as `best_thresholds` found them.
        ids: (K,) category ids.
        names: (K,) of the categories.
    """
    thresholds = operating_thresholds(outcomes, best)
    objects = outcomes.object_counts().tolist()
    operations = []
    for place, rows in enumerate(outcomes.slices()):
        correct, detections = (int(count[0]) for count in _counts(outcomes, rows, thresholds[place : place + 1]))
        there = objects[place] > 0
        operations.append(
            ClassOperation(
                id=int(ids[place]),
                name=names[place],
                threshold=float(thresholds[place]),
                own=place in best.own,
                objects=objects[place],
                detections=detections,
                correct=correct,
                precision=correct / detections if detections else None,
                recall=correct / objects[place] if there else None,
                f1=2 * correct / (detections + objects[place]) if there else None,
            )
        )
    return tuple(operations)


@dataclass(frozen=True)
class Curves:
    """Curves against one threshold for all classes.

    Attributes:
        overall: of all classes' detections together.
        of_classes: of each class that has objects, by its place.
        mean_f1: (T,) the mean of the F1 of the classes that have objects; empty if none has.
    """

    overall: Curve
    of_classes: dict[int, Curve]
    mean_f1: tuple[float, ...]


def threshold_curves(outcomes: Outcomes) -> Curves:
    """Precision, recall and F1 at 101 thresholds.

    Args:
        outcomes: at one IoU threshold.
    """
    low, high = min(0.0, outcomes.scores.min(initial=0.0)), max(1.0, outcomes.scores.max(initial=1.0))
    thresholds = np.linspace(low, high, _CURVE_POINTS)
    objects = outcomes.object_counts()
    counts = np.array([_counts(outcomes, rows, thresholds) for rows in outcomes.slices()])  # (K, 2, T)
    present = np.flatnonzero(objects).tolist()
    of_classes = {
        place: _curve(thresholds, counts[place, 0], counts[place, 1], int(objects[place])) for place in present
    }
    mean = np.mean([curve.f1 for curve in of_classes.values()], axis=0) if present else np.zeros(0)
    correct, detections = counts.sum(0)
    overall = _curve(thresholds, correct, detections, int(objects.sum()))
    return Curves(overall, of_classes, tuple(mean.tolist()))


def _curve(
    thresholds: NDArray[np.float64], correct: NDArray[np.int64], detections: NDArray[np.int64], objects: int
) -> Curve:
    pairs = zip(correct.tolist(), detections.tolist(), strict=True)
    return Curve(
        thresholds=tuple(thresholds.tolist()),
        precision=tuple(right / number if number else None for right, number in pairs),
        recall=tuple((correct / objects).tolist()) if objects else (),
        f1=tuple(_f1(correct, detections, objects).tolist()) if objects else (),
    )
