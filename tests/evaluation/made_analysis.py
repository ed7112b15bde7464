"""An analysis with invented but consistent numbers, for tests of what is made of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detrkit.evaluation.analysis import Analysis
from detrkit.evaluation.bootstrap import Interval, Intervals
from detrkit.evaluation.confusion import ConfusionMatrix
from detrkit.evaluation.errors import KINDS, ErrorCounts, ImageErrors, Mark
from detrkit.evaluation.figures import MEANINGS, ClassFigures, Evaluation
from detrkit.evaluation.groups import Group
from detrkit.evaluation.thresholds import ClassOperation, Curve

THRESHOLDS = tuple(np.linspace(0, 1, 101).tolist())


def curve(best: float) -> Curve:
    """Precision rises with the threshold and recall falls; above 0.9 there are no detections."""
    scores = np.array(THRESHOLDS)
    precision, recall = np.minimum(1, 0.3 + scores), np.maximum(0, best - 0.8 * scores)
    f1 = 2 * precision * recall / (precision + recall)
    shown = [None if score > 0.9 else value for score, value in zip(THRESHOLDS, precision.tolist(), strict=True)]
    return Curve(THRESHOLDS, tuple(shown), tuple(recall.tolist()), tuple(f1.tolist()))


def made_evaluation(names: Sequence[str] = ("cat", "dog", "cow")) -> Evaluation:
    """The last class has no objects; the others have ten, twenty and so on, and AP 0.2 and more."""
    figures: dict[str, float | None] = dict.fromkeys(MEANINGS, 0.25) | {"AP": 0.4321, "AP_large": None}
    classes = []
    for number, name in enumerate(names):
        if number == len(names) - 1:
            classes.append(ClassFigures(number + 5, name, None, None, 0))
        else:
            ap = 0.2 + 0.6 * number / len(names)
            precisions = tuple(np.linspace(1, ap, 101).tolist())
            classes.append(ClassFigures(number + 5, name, ap, ap + 0.1, 10 * (number + 1), precisions))
    objects = sum(entry.objects for entry in classes)
    return Evaluation("pets val", figures, tuple(classes), 20, objects, 0, 800, 0.4321, ("A note & a half.",))


def made_analysis(
    names: Sequence[str] = ("cat", "dog", "cow"), images: Sequence[ImageErrors] | None = None
) -> Analysis:
    """Goes with `made_evaluation`. The first class is often taken for the second."""
    evaluation = made_evaluation(names)
    operations = tuple(
        ClassOperation(entry.id, entry.name, 0.3, entry.objects > 10, entry.objects, 8, 6, 0.75, 0.6, 0.667)
        if entry.objects
        else ClassOperation(entry.id, entry.name, 0.4, False, 0, 0, 0, None, None, None)
        for entry in evaluation.classes
    )
    size = len(names)
    counts = np.zeros((size + 1, size + 1), dtype=int)
    for index in range(size - 1):
        counts[index, index] = 6
        counts[index, -1] = 10 * (index + 1) - 6
        counts[-1, index] = 1
    if size > 2:
        counts[0, 1] += 3
        counts[0, -1] -= 3
    numbers = dict(zip(KINDS, (3, 2, 1, 4, 5, 7), strict=True))
    costs = dict(zip(KINDS, (0.03, 0.02, 0.01, 0.004, 0.05, 0.17), strict=True))
    intervals = {entry.id: Interval(entry.ap - 0.1, entry.ap + 0.1) for entry in evaluation.classes if entry.ap}
    return Analysis(
        name="pets val",
        threshold=0.4321,
        classes=operations,
        curve=curve(0.9),
        class_curves={entry.id: curve(0.5 + 0.4 / entry.id) for entry in evaluation.classes if entry.objects},
        mean_f1=curve(0.8).f1,
        intervals=Intervals(0.95, 500, {"AP": Interval(0.4, 0.47), "AP50": Interval(0.2, 0.3)}, intervals, intervals),
        confusion=ConfusionMatrix(
            tuple(range(5, 5 + size)), tuple(names), tuple(tuple(row) for row in counts.tolist())
        ),
        errors=ErrorCounts(numbers, costs, 12, 27, 2, 30, 11, 4 / 27),
        sizes=(
            Group("small", "up to 32 × 32 pixels", 10, 12, 0.1, 0.2),
            Group("medium", "32 × 32 to 96 × 96 pixels", 15, 18, 0.5, 0.7),
            Group("large", "from 96 × 96 pixels", 0, 0, None, None),
        ),
        crowdedness=(
            Group("1 object", "images with 1 object", 10, 10, 0.6, 0.8),
            Group("2 to 3 objects", "images with 2 to 3 objects", 10, 20, 0.3, 0.4),
        ),
        images=made_images() if images is None else tuple(images),
        notes=("A note & a half.", "Another note."),
    )


def made_images() -> tuple[ImageErrors, ...]:
    """Two images with errors, of which the first has one of each kind."""
    boxes = [(4.0 + 12 * place, 6.0, 10.0, 12.0) for place in range(len(KINDS))]
    marks = [
        Mark(kind, box, 5, None if kind == "missed" else 0.5 + 0.05 * place)
        for place, (kind, box) in enumerate(zip(KINDS, boxes, strict=True))
    ]
    marks += [Mark("correct", (4.0, 30.0, 20.0, 20.0), 6, 0.9), Mark("mistaken", (30.0, 30.0, 20.0, 20.0), 6, None)]
    once = dict.fromkeys(KINDS, 1)
    return (
        ImageErrors(1, "<one>.png", 4, 1, once, 6, tuple(marks)),
        ImageErrors(2, "", 2, 1, dict.fromkeys(KINDS, 0) | {"missed": 1}, 1, (Mark("missed", boxes[0], 5, None),)),
    )
