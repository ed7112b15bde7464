"""Which detections are correct: COCO's greedy matching, for all images at once.

The evaluator that computes COCO's figures keeps these outcomes to itself, and everything else about errors needs them. Tests hold both
against each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detrkit.coco_limits import ALL_AREAS
from detrkit.evaluation.inputs import Inputs

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
LEAST_IOU = 0.5
_PAIRS_AT_ONCE = 2_000_000  # bounds the memory where images have hundreds of objects


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Pairs of a detection and an object that overlap.

    Attributes:
        detections: (P,) rows of `Inputs.detections`.
        objects: (P,) rows of `Inputs.objects`.
        ious: (P,) intersection over union; for a crowd region the share of the detection that lies inside.
    """

    detections: NDArray[np.int64]
    objects: NDArray[np.int64]
    ious: NDArray[np.float64]

    def only(self, chosen: NDArray[np.bool_]) -> Overlaps:
        """Some of the pairs."""
        return Overlaps(self.detections[chosen], self.objects[chosen], self.ious[chosen])


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of the detections that count, for T IoU thresholds.

    Attributes:
        rows: (M,) rows of `Inputs.detections`: by class, then best first, in the order that average precision goes through them.
        images: (M,) places of their images.
        classes: (M,) places of their classes, rising.
        scores: (M,) falling within a class.
        matched: (T, M) rows of `Inputs.objects` that they stand for, crowd regions included; -1 for none.
        correct: (T, M) whether they stand for an object that counts.
        ignored: (T, M) whether they are neither correct nor wrong.
        object_images: (N,) places of the images of the objects that count.
        object_classes: (N,) places of their classes.
        shape: number of images and of classes.
    """

    rows: NDArray[np.int64]
    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]
    matched: NDArray[np.int64]
    correct: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    object_images: NDArray[np.int64]
    object_classes: NDArray[np.int64]
    shape: tuple[int, int]

    def slices(self) -> list[slice]:
        """The detections of each class."""
        ends = np.searchsorted(self.classes, np.arange(self.shape[1] + 1))
        return [slice(int(start), int(end)) for start, end in itertools.pairwise(ends)]

    def at(self, level: int) -> Outcomes:
        """The same at one of the IoU thresholds."""
        level_only = slice(level, level + 1)
        parts = {name: getattr(self, name)[level_only] for name in ("matched", "correct", "ignored")}
        return replace(self, **parts)

    def object_counts(self) -> NDArray[np.int64]:
        """(K,) number of objects of each class that count."""
        return np.bincount(self.object_classes, minlength=self.shape[1])


def kept_detections(inputs: Inputs, max_detections: int) -> NDArray[np.int64]:
    """Rows of the detections that count: of each image and class the `max_detections` best; by class, then by image, best first.

    Of equal scores the earlier entry is better, as for the evaluator.
    """
    detections = inputs.detections
    order = np.lexsort((-detections.scores, detections.images, detections.classes))
    return order[_ranks(_groups(inputs, order)) < max_detections]


def overlaps(inputs: Inputs, max_detections: int, *, least: float = LEAST_IOU, same_class: bool = True) -> Overlaps:
    """All pairs of the detections that count with objects of their image whose IoU is at least `least`.

    Args:
        inputs: what is compared.
        max_detections: number of detections that count per image and class.
        least: above 0.
        same_class: whether only objects of the detection's class are paired with it.
    """
    objects, detections = inputs.objects, inputs.detections
    rows = kept_detections(inputs, max_detections)
    classes = len(inputs.class_ids) if same_class else 1
    groups = objects.images * classes + (objects.classes if same_class else 0)
    own_groups = detections.images[rows] * classes + (detections.classes[rows] if same_class else 0)
    parts = [_overlapping(inputs, *pairs, least) for pairs in _pairs_within(rows, own_groups, groups)]
    columns = zip(*((part.detections, part.objects, part.ious) for part in parts), strict=True)
    return Overlaps(*(np.concatenate(column) for column in columns))


def outcomes(
    inputs: Inputs,
    max_detections: int,
    *,
    thresholds: NDArray[np.float64] = IOU_THRESHOLDS,
    areas: tuple[float, float] = ALL_AREAS,
    pairs: Overlaps | None = None,
) -> Outcomes:
    """Matches detections with objects as COCO does.

    Best first, each detection takes the object of its class with the greatest IoU that is free, of equal ones the last. Only if there is
    none, it may take one that is ignored (a crowd region, or an object of another size), and then it is ignored as well, like a detection
    of another size that takes nothing.

    Args:
        inputs: what is compared.
        max_detections: number of detections that count per image and class.
        thresholds: (T,) rising, not below `LEAST_IOU`, from which IoU a detection can take an object.
        areas: least and greatest area of objects that count, in square pixels.
        pairs: as `overlaps` returns them for at most this IoU, if they are known already; others among them do no harm.
    """
    objects, detections = inputs.objects, inputs.detections
    rows = kept_detections(inputs, max_detections)
    not_counted = objects.crowd | (objects.areas < areas[0]) | (objects.areas > areas[1])
    if pairs is None:
        pairs = overlaps(inputs, max_detections)
    is_own = detections.classes[pairs.detections] == objects.classes[pairs.objects]
    pairs = pairs.only(is_own & (pairs.ious >= thresholds[0]))
    matched = _matched(inputs, pairs, thresholds, not_counted)[:, rows]
    is_ignored = (matched >= 0) & not_counted[matched] if len(objects) else np.zeros_like(matched, dtype=bool)
    is_other_size = (detections.areas[rows] < areas[0]) | (detections.areas[rows] > areas[1])
    is_ignored = is_ignored | ((matched < 0) & is_other_size)
    order = np.lexsort((-detections.scores[rows], detections.classes[rows]))  # stable: images stay in order
    rows, matched, is_ignored = rows[order], matched[:, order], is_ignored[:, order]
    counted = np.flatnonzero(~not_counted)
    return Outcomes(
        rows=rows,
        images=detections.images[rows],
        classes=detections.classes[rows],
        scores=detections.scores[rows],
        matched=matched,
        correct=(matched >= 0) & ~is_ignored,
        ignored=is_ignored,
        object_images=objects.images[counted],
        object_classes=objects.classes[counted],
        shape=(len(inputs.image_ids), len(inputs.class_ids)),
    )


def _matched(
    inputs: Inputs, pairs: Overlaps, thresholds: NDArray[np.float64], not_counted: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """(T, D) the object that each of all detections takes, or -1.

    Detections of different images or classes do not compete, so the best of each image and class are matched at once, then the second ones,
    and so on.
    """
    matched = np.full((len(thresholds), len(inputs.detections)), -1, dtype=np.int64)
    taken = np.zeros((len(thresholds), len(inputs.objects)), dtype=np.bool_)
    crowd = inputs.objects.crowd
    for chosen, starts in _rounds(inputs, pairs, not_counted):
        objects = chosen.objects
        free = (chosen.ious >= thresholds[:, None]) & (crowd[objects] | ~taken[:, objects])
        places = np.where(free, np.arange(len(objects)), len(objects))
        first = np.minimum.reduceat(places, starts, axis=1)  # the best free object of each detection
        levels, found = np.nonzero(first < len(objects))
        winners = objects[first[levels, found]]
        matched[levels, chosen.detections[starts][found]] = winners
        taken[levels, winners] = True
    return matched


def _rounds(
    inputs: Inputs, pairs: Overlaps, not_counted: NDArray[np.bool_]
) -> Iterator[tuple[Overlaps, NDArray[np.int64]]]:
    """The pairs of the detections that are matched at once, by detection with its best object first, and where each detection starts."""
    starts = _starts(pairs.detections)
    firsts = pairs.detections[starts]
    lengths = np.diff(np.append(starts, len(pairs.detections)))
    rounds = np.repeat(_ranks(_groups(inputs, firsts)), lengths)
    turns = np.repeat(np.arange(len(starts)), lengths)
    order = np.lexsort((-pairs.objects, -pairs.ious, not_counted[pairs.objects], turns, rounds))
    ends = np.searchsorted(rounds[order], np.arange(rounds.max(initial=-1) + 2))
    for start, end in itertools.pairwise(ends):
        chosen = order[start:end]
        part = Overlaps(pairs.detections[chosen], pairs.objects[chosen], pairs.ious[chosen])
        yield part, _starts(part.detections)


def _groups(inputs: Inputs, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for the image and class of each detection."""
    return inputs.detections.images[rows] * len(inputs.class_ids) + inputs.detections.classes[rows]


def _starts(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where runs of equal values start."""
    return np.flatnonzero(np.diff(values, prepend=values[:1] - 1))


def _ranks(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each entry in its run of equal values, from 0."""
    starts = _starts(groups)
    return np.arange(len(groups)) - np.repeat(starts, np.diff(np.append(starts, len(groups))))


def _pairs_within(
    rows: NDArray[np.int64], row_groups: NDArray[np.int64], object_groups: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Every row with every object of its group, some rows at a time."""
    order = np.argsort(object_groups, kind="stable")
    starts = np.searchsorted(object_groups[order], row_groups, side="left")
    counts = np.searchsorted(object_groups[order], row_groups, side="right") - starts
    parts = np.cumsum(counts) // _PAIRS_AT_ONCE
    for part in range(int(parts.max(initial=0)) + 1):
        chosen = parts == part
        number = counts[chosen]
        within = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
        yield np.repeat(rows[chosen], number), order[np.repeat(starts[chosen], number) + within]


def _overlapping(inputs: Inputs, rows: NDArray[np.int64], objects: NDArray[np.int64], least: float) -> Overlaps:
    """Those of the pairs whose IoU is at least `least`; computed in the evaluator's order, to the last bit."""
    left, top, width, height = (column[rows] for column in inputs.detections.boxes_xywh.T)
    other_left, other_top, other_width, other_height = (column[objects] for column in inputs.objects.boxes_xywh.T)
    across = np.minimum(left + width, other_left + other_width) - np.maximum(left, other_left)
    down = np.minimum(top + height, other_top + other_height) - np.maximum(top, other_top)
    shared = np.where((across > 0) & (down > 0), across * down, 0.0)
    area = width * height
    union = np.where(inputs.objects.crowd[objects], area, area + other_width * other_height - shared)
    ious = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return Overlaps(rows, objects, ious).only(ious >= least)
