"""Boxes that cannot be right: too thin, outside their picture, or there twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detrkit.data.id_maps import MapMasks
from detrkit.data.inspection.finding import Finding, Split, finding, places
from detrkit.data.inspection.statistics import owners
from detrkit.data.wording import agreeing, are, counted, some_of

_LEAST_SIDE = 1.0  # pixels
_EDGE_TOLERANCE = 1.0  # pixels by which a box may reach over the edge without a note: annotation tools round
_SAME, _NEAR, _TWO_CLASSES = (
    0.999,
    0.85,
    0.95,
)  # IoU from which boxes are the same, mean the same, mean the same whatever their classes


def thin_boxes(split: Split) -> list[Finding]:
    """Boxes with a side below one pixel."""
    boxes = split.dataset.boxes_xyxy
    rows = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) < _LEAST_SIDE)
    if not rows.size:
        return []
    message = f"{_of_boxes(split, rows)} {are(len(rows))} less than a pixel wide or high {_shown(split, rows)}."
    return [finding("thin-boxes", split.name, message, count=len(rows), files=split.files(owners(split)[rows]))]


def boxes_over_the_edge(split: Split) -> list[Finding]:
    """Boxes that reach beyond the picture; readers leave out those of which nothing is in it."""
    boxes = split.dataset.boxes_xyxy
    owner = owners(split)
    limits = split.dataset.sizes[owner][:, ::-1]  # width, height
    over = np.any((boxes[:, :2] < -_EDGE_TOLERANCE) | (boxes[:, 2:] > limits + _EDGE_TOLERANCE), axis=1)
    rows = np.flatnonzero(over)
    if not rows.size:
        return []
    verb = agreeing(len(rows), "reaches", "reach")
    message = f"{_of_boxes(split, rows)} {verb} over the picture's edge {_shown(split, rows)}."
    return [finding("boxes-over-the-edge", split.name, message, count=len(rows), files=split.files(owner[rows]))]


def repeated_boxes(split: Split) -> list[Finding]:
    """Boxes that are there twice: the same, nearly the same, or with two classes."""
    if isinstance(split.dataset.masks, MapMasks):
        return []  # segments share no pixel, so those with one box are not the same: sky and grass each reach from edge to edge
    pairs = overlapping_pairs(split, _NEAR)
    labels = split.dataset.labels
    alike = labels[pairs.first] == labels[pairs.second]
    found = []
    for kind, chosen, verbs, what in (
        ("duplicate-boxes", alike & (pairs.iou >= _SAME), (" is", " are"), "the same box of the same class"),
        (
            "near-duplicate-boxes",
            alike & (pairs.iou < _SAME),
            (" of the same class overlaps", " of the same class overlap"),
            f"with an IoU above {_NEAR:.2f}",
        ),
        ("two-class-boxes", ~alike & (pairs.iou > _TWO_CLASSES), (" is", " are"), "the same box with two classes"),
    ):
        some = pairs.chosen(chosen)
        if len(some):
            boxes = f"{counted(len(some), 'pair')} of boxes{agreeing(len(some), *verbs)}"
            message = f"{boxes} {what} {places(some.described(split))}."
            files = split.files(owners(split)[some.first])
            found.append(finding(kind, split.name, message, count=len(some), files=files))
    return found


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of objects in the same image.

    Attributes:
        first: (P,) rows of the data set's objects.
        second: (P,) rows, each above the first.
        iou: (P,) how far the two boxes overlap.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    iou: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.first)

    def chosen(self, mask: NDArray[np.bool_]) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.first[mask], self.second[mask], self.iou[mask])

    def described(self, split: Split) -> list[str]:
        """For each of the first pairs the file, the classes and the place; the others are only counted."""
        dataset, owner = split.dataset, owners(split)
        texts = []
        for first, second in zip(self.first[:3].tolist(), self.second[:3].tolist(), strict=True):
            names = dict.fromkeys(dataset.categories[dataset.labels[row]].name for row in (first, second))
            left, top = dataset.boxes_xyxy[first, :2]
            texts.append(f"{dataset.image_name(int(owner[first]))}: {' and '.join(names)} at {left:.0f}, {top:.0f}")
        return texts + [""] * (len(self) - len(texts))


def overlapping_pairs(split: Split, threshold: float) -> Pairs:
    """All pairs of objects of an image whose boxes overlap with an IoU above the threshold; crowd regions are left out.

    Rows of an image follow each other, so row i is compared with i + 1, then with i + 2, and so on, for all images at once.

    Args:
        split: the images.
        threshold: above 0.
    """
    rows = np.flatnonzero(~split.dataset.crowd)
    boxes, owner = split.dataset.boxes_xyxy[rows], owners(split)[rows]
    left = np.ascontiguousarray(boxes[:, 0])
    # With such an IoU the left edges are closer than this; it spares most pairs the rest.
    reach = (boxes[:, 2] - left) * (1 - threshold) / threshold
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    first, step = np.arange(len(rows)), 0
    while first.size:
        step += 1
        first = first[: np.searchsorted(first, len(rows) - step)]
        first = first[owner[first] == owner[first + step]]
        near = first[np.abs(left[first] - left[first + step]) <= reach[first]]
        iou = _iou(boxes[near], boxes[near + step])
        kept = near[iou > threshold]
        found.append((rows[kept], rows[kept + step], iou[iou > threshold]))
    if not found:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    firsts, seconds, ious = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((seconds, firsts))
    return Pairs(firsts[order], seconds[order], ious[order])


def _iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P,) intersection over union of pairs of boxes (P, 4)."""
    low, high = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (one, other)]
    return np.asarray(shared / (areas[0] + areas[1] - shared))


def _of_boxes(split: Split, rows: NDArray[np.int64]) -> str:
    return some_of(len(rows), len(split.dataset.labels), "box", "boxes")


def _shown(split: Split, rows: NDArray[np.int64]) -> str:
    return places(split.files(owners(split)[rows]))
