"""What kinds of errors there are, after TIDE (Bolya, Foley, Hays and Hoffman, ECCV 2020), and in which images."""

from __future__ import annotations

from dataclasses import dataclass

# What each kind means, in the order of tables. All but the last are wrong detections; the last are objects without a detection.
KINDS = {
    "class": "on an object (IoU from 0.50), but of another class",
    "place": "near an object of its class (IoU 0.10 to 0.50)",
    "both": "near an object of another class (IoU 0.10 to 0.50)",
    "duplicate": "on an object of its class that a better detection has found",
    "background": "on nothing (IoU below 0.10)",
    "missed": "objects that no detection stands for, not even of the wrong class or in the wrong place",
}


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
