"""What kinds of errors there are, after TIDE (Bolya, Foley, Hays and Hoffman, ECCV 2020), and in which images."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detrkit.evaluation.inputs import Inputs
from detrkit.evaluation.outcomes import Outcomes, Overlaps
from detrkit.evaluation.precision import average_precision, mean_over_classes

# What each kind means, in the order of tables. All but the last are wrong detections; the last are objects without a detection.
KINDS = {
    "class": "on an object (IoU from 0.50), but of another class",
    "place": "near an object of its class (IoU 0.10 to 0.50)",
    "both": "near an object of another class (IoU 0.10 to 0.50)",
    "duplicate": "on an object of its class that a better detection has found",
    "background": "on nothing (IoU below 0.10)",
    "missed": "objects that no detection stands for, not even of the wrong class or in the wrong place",
}
# What people read, the same in terminals, reports and pictures; files have the short names.
KIND_NAMES = {
    "class": "wrong class",
    "place": "wrong place",
    "both": "wrong class and place",
    "duplicate": "duplicate",
    "background": "nothing there",
    "missed": "missed",
}
CODES = (*KINDS, "correct", "ignored", "mistaken")
NEAR, ON = 0.1, 0.5  # IoU from which a box is near an object, and from which it is on it


@dataclass(frozen=True)
class ErrorCounts:
    """Errors by kind, at the operating thresholds.

    Attributes:
        counts: number of errors of each of `KINDS`. Those of detections add up to all wrong detections.
        costs: by how much AP50 would rise if the errors of a kind were mended and nothing else, in [0, 1], at all scores: detections of the
            wrong class or place become correct if their object has not been found, and else vanish, as do all other wrong detections;
            missed objects vanish. Empty without ground truth.
        correct: number of correct detections.
        detections: number of detections that count: correct and wrong ones.
        ignored: number of detections inside crowd regions of their class, which are neither.
        objects: number of objects, without crowd regions.
        mistaken: number of objects that were not found but have a detection of the wrong class or place. `correct`, `mistaken` and missed
            ones add up to `objects`.
        duplicate_share: share of duplicates among the detections that count, in [0, 1]; None if there are none.
    """

    counts: dict[str, int]
    costs: dict[str, float]
    correct: int
    detections: int
    ignored: int
    objects: int
    mistaken: int
    duplicate_share: float | None


@dataclass(frozen=True)
class Mark:
    """One box of an image, to be drawn.

    Attributes:
        kind: one of `KINDS`, or "correct", "ignored" (a detection) or "mistaken" (an object).
        bbox: left, top, width and height in pixels of the original image.
        category_id: of the detection; for "missed" and "mistaken" of the object.
        score: of the detection; None for "missed" and "mistaken".
    """

    kind: str
    bbox: tuple[float, float, float, float]
    category_id: int
    score: float | None


@dataclass(frozen=True)
class ImageErrors:
    """The errors in one image.

    Attributes:
        image_id: the number that result entries use.
        file_name: as the annotation file gives it; empty if it gives none.
        objects: number of objects, without crowd regions.
        correct: number of correct detections.
        counts: number of errors of each of `KINDS`.
        errors: their sum.
        marks: all detections from their operating thresholds on, and the objects that were not found.
    """

    image_id: int
    file_name: str
    objects: int
    correct: int
    counts: dict[str, int]
    errors: int
    marks: tuple[Mark, ...]


@dataclass(frozen=True, eq=False)
class Kinds:
    """The kind of each detection and object, before any is counted.

    Attributes:
        detections: (M,) places in `CODES`, for the detections of `Outcomes` that are shown; -1 for the others.
        targets: (M,) the object that a detection of the wrong class or place stands near; -1 for the others.
        objects: (N,) places in `CODES` for objects that were not found; -1 for the others and for crowd regions.
    """

    detections: NDArray[np.int64]
    targets: NDArray[np.int64]
    objects: NDArray[np.int64]

    def number(self, kind: str) -> int:
        """How many detections or objects there are of a kind."""
        return int((self.detections == CODES.index(kind)).sum() + (self.objects == CODES.index(kind)).sum())


def find_kinds(inputs: Inputs, found: Outcomes, shown: NDArray[np.bool_], near: Overlaps) -> Kinds:
    """The kind of every error.

    As in TIDE, a wrong detection has the first kind that fits: near an object of its class (place), on an object of another class (class),
    on an object of its class that was found (duplicate), near nothing (background), and what remains (both). Crowd regions are no objects.

    Args:
        inputs: what is compared.
        found: outcomes at IoU 0.50.
        shown: (M,) which of their detections count.
        near: pairs of detections and objects of all classes with an IoU of at least 0.10.
    """
    pairs = near.only(~inputs.objects.crowd[near.objects])
    is_own = inputs.detections.classes[pairs.detections] == inputs.objects.classes[pairs.objects]
    own_iou, own_object = _nearest(pairs.only(is_own), found.rows, len(inputs.detections))
    other_iou, other_object = _nearest(pairs.only(~is_own), found.rows, len(inputs.detections))
    is_place = (own_iou >= NEAR) & (own_iou < ON)
    is_class = other_iou >= ON
    is_duplicate = own_iou >= ON
    is_background = np.maximum(own_iou, other_iou) < NEAR
    wrong = np.select(
        [is_place, is_class, is_duplicate, is_background],
        [CODES.index(kind) for kind in ("place", "class", "duplicate", "background")],
        CODES.index("both"),
    )
    outcome = np.where(found.correct[0], CODES.index("correct"), CODES.index("ignored"))
    kinds = np.where(found.correct[0] | found.ignored[0], outcome, wrong)
    kinds = np.where(shown, kinds, -1)
    targets = np.select([kinds == CODES.index("place"), kinds == CODES.index("class")], [own_object, other_object], -1)
    return Kinds(kinds, targets, _kinds_of_objects(inputs, found, kinds, targets))


def _kinds_of_objects(
    inputs: Inputs, found: Outcomes, kinds: NDArray[np.int64], targets: NDArray[np.int64]
) -> NDArray[np.int64]:
    objects = np.full(len(inputs.objects), CODES.index("missed"))
    objects[targets[targets >= 0]] = CODES.index("mistaken")
    objects[found.matched[0, kinds == CODES.index("correct")]] = -1
    objects[inputs.objects.crowd] = -1
    return objects


def _nearest(
    pairs: Overlaps, rows: NDArray[np.int64], detections: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The greatest IoU of each detection and its object; 0 and -1 without pairs."""
    iou, nearest = np.zeros(detections), np.full(detections, -1)
    order = np.argsort(pairs.ious, kind="stable")  # the greatest is written last
    iou[pairs.detections[order]] = pairs.ious[order]
    nearest[pairs.detections[order]] = pairs.objects[order]
    return iou[rows], nearest[rows]


def count_errors(found: Outcomes, kinds: Kinds, costs: dict[str, float]) -> ErrorCounts:
    """Numbers of errors by kind.

    Args:
        found: outcomes at IoU 0.50.
        kinds: of the detections that are shown, and of the objects.
        costs: as `error_costs` returns them.
    """
    counts = {kind: kinds.number(kind) for kind in KINDS}
    correct = kinds.number("correct")
    detections = correct + sum(number for kind, number in counts.items() if kind != "missed")
    return ErrorCounts(
        counts=counts,
        costs=costs,
        correct=correct,
        detections=detections,
        ignored=kinds.number("ignored"),
        objects=len(found.object_images),
        mistaken=kinds.number("mistaken"),
        duplicate_share=counts["duplicate"] / detections if detections else None,
    )


def error_costs(inputs: Inputs, found: Outcomes, near: Overlaps) -> dict[str, float]:
    """By how much AP50 would rise if the errors of one kind were mended, with all detections whatever their scores; see `ErrorCounts`.

    Args:
        inputs: what is compared.
        found: outcomes at IoU 0.50.
        near: as for `find_kinds`.
    """
    if not len(found.object_images):
        return {}
    kinds = find_kinds(inputs, found, np.ones(len(found.rows), dtype=np.bool_), near)
    before = _ap50(found)
    return {kind: _ap50(_mended(inputs, found, kinds, kind)) - before for kind in KINDS}


def _ap50(found: Outcomes) -> float:
    """AP50; perfect if no object is left."""
    value = float(mean_over_classes(average_precision(found))[0, 0])
    return 1.0 if np.isnan(value) else value


def _mended(inputs: Inputs, found: Outcomes, kinds: Kinds, kind: str) -> Outcomes:
    """The outcomes without the errors of a kind."""
    if kind == "missed":
        left = (kinds.objects != CODES.index(kind)) & ~inputs.objects.crowd
        objects = inputs.objects
        return replace(found, object_images=objects.images[left], object_classes=objects.classes[left])
    is_kind = kinds.detections == CODES.index(kind)
    # The best detection of an object that was not found becomes correct; all others vanish.
    by_score = np.flatnonzero(is_kind & (kinds.targets >= 0))
    by_score = by_score[np.argsort(-found.scores[by_score], kind="stable")]
    by_score = by_score[kinds.objects[kinds.targets[by_score]] >= 0]
    _, first = np.unique(kinds.targets[by_score], return_index=True)
    mended = by_score[first]
    kept = ~is_kind
    kept[mended] = True
    classes = found.classes.copy()
    classes[mended] = inputs.objects.classes[kinds.targets[mended]]
    correct = found.correct.copy()
    correct[:, mended] = True
    order = np.flatnonzero(kept)
    order = order[np.lexsort((-found.scores[order], classes[order]))]
    return replace(
        found,
        rows=found.rows[order],
        images=found.images[order],
        classes=classes[order],
        scores=found.scores[order],
        matched=found.matched[:, order],
        correct=correct[:, order],
        ignored=found.ignored[:, order],
    )


def images_by_errors(inputs: Inputs, found: Outcomes, kinds: Kinds) -> tuple[ImageErrors, ...]:
    """Every image with an error, most errors first; of equally many in the order of their ids.

    Args:
        inputs: what is compared.
        found: outcomes at IoU 0.50.
        kinds: of the detections that are shown, and of the objects.
    """
    marks: dict[int, list[Mark]] = defaultdict(list)
    for columns, rows, codes in (
        (inputs.detections, found.rows, kinds.detections),
        (inputs.objects, np.arange(len(inputs.objects)), kinds.objects),
    ):
        chosen = np.flatnonzero(codes >= 0)
        chosen = chosen[np.argsort(-columns.scores[rows[chosen]], kind="stable")]
        own = rows[chosen]
        parts = (columns.images[own], codes[chosen], columns.boxes_xywh[own], inputs.class_ids[columns.classes[own]])
        scores = columns.scores[own].tolist() if columns is inputs.detections else [None] * len(own)
        for image, code, box, number, score in zip(*(part.tolist() for part in parts), scores, strict=True):
            marks[image].append(Mark(CODES[code], tuple(box), number, score))
    objects = np.bincount(found.object_images, minlength=found.shape[0]).tolist()
    file_names = {entry["id"]: entry["file_name"] for entry in inputs.truth["images"]}
    entries = []
    for image, own_marks in sorted(marks.items()):
        number = Counter(mark.kind for mark in own_marks)
        counts = {kind: number[kind] for kind in KINDS}
        if errors := sum(counts.values()):
            image_id = int(inputs.image_ids[image])
            shown = (file_names[image_id], objects[image], number["correct"])
            entries.append(ImageErrors(image_id, *shown, counts, errors, tuple(own_marks)))
    return tuple(sorted(entries, key=lambda entry: -entry.errors))
