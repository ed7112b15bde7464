"""Panoptic quality: how well segments agree with annotated ones, by COCO's rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detrkit.cards import Category
from detrkit.data.wording import counted
from detrkit.errors import DataError
from detrkit.evaluation.panoptic_figures import PanopticClass, PanopticEvaluation, means_of
from detrkit.panoptic import VOID, PanopticSegmentation, Segment, runs_of

_MATCH_ABOVE = 0.5  # IoU: above it, a segment has at most one partner, since segments do not overlap
_IGNORED_ABOVE = 0.5  # share of a segment in void and crowds, above which it is not wrong
_SECOND = 32  # bits of a pair of ids that hold the second one


def panoptic_quality(
    truth: Iterable[PanopticSegmentation],
    predictions: Iterable[PanopticSegmentation],
    *,
    name: str = "the given ground truth",
    notes: Sequence[str] = (),
) -> PanopticEvaluation:
    """Compares panoptic segmentations with ground truth as COCO does.

    A predicted segment matches an annotated one of its class if their IoU is above 0.5; pixels that the ground truth leaves void count for
    neither. Crowds match nothing. A segment without a partner is wrong, unless more than half of it lies in void or in crowds of its class.
    Classes are the same if their ids are. Means are over the classes that occur on either side.

    Args:
        truth: the annotated segments, image by image; taken one at a time, so memory does not grow with the number of images.
        predictions: of the same images in the same order, with the same sizes.
        name: what to call the data in tables.
        notes: sentences to keep with the figures.

    Raises:
        DataError: the numbers or the sizes of images differ, or an id map and its segments do not agree.
    """
    counter = PanopticCounter()
    remaining = iter(predictions)
    for image in truth:
        found = next(remaining, None)
        if found is None:
            raise DataError(
                f"There is a prediction for {counted(counter.images, 'image')} and ground truth for more: give both for the same images."
            )
        counter.add(image, found)
    if next(remaining, None) is not None:
        raise DataError(
            f"There is ground truth for {counted(counter.images, 'image')} and a prediction for more: give both for the same images."
        )
    return counter.result(name=name, notes=notes)


@dataclass
class _Counts:
    """What became of the segments of one class."""

    category: Category
    annotated: bool  # whether the category is that of the ground truth, which decides about names and things
    overlap: float = 0.0  # sum of the IoU of matched segments
    matched: int = 0
    wrong: int = 0
    missed: int = 0


class PanopticCounter:
    """Adds up, image by image, what panoptic quality needs: four numbers a class.

    Attributes:
        images: how many were added.
    """

    def __init__(self) -> None:
        self.images = 0
        self._classes: dict[int, _Counts] = {}

    def add(self, truth: PanopticSegmentation, prediction: PanopticSegmentation, *, name: str | None = None) -> None:
        """Counts the segments of one image.

        Args:
            truth: its annotated segments.
            prediction: its predicted segments.
            name: what messages call the image; by default its number.

        Raises:
            DataError: the sizes differ, or an id map and its segments do not agree.
        """
        image = name or f"image {self.images} (counting from 0)"
        if truth.ids.shape != prediction.ids.shape:
            (height, width), (own_height, own_width) = truth.ids.shape, prediction.ids.shape
            raise DataError(
                f"The prediction for {image} has {own_width} x {own_height} pixels and its ground truth {width} x {height}: predict segments "
                "at the size of the picture."
            )
        annotated = _Side(truth, f"The ground truth of {image}")
        predicted = _Side(prediction, f"The prediction for {image}")
        overlaps = _overlaps(annotated, predicted)
        annotated.check(overlaps.sum(axis=1))
        predicted.check(overlaps.sum(axis=0))
        for segment in truth.segments:
            self._of(segment, annotated=True)
        matched_truth, matched_predictions = self._match(annotated, predicted, overlaps)
        for place in np.flatnonzero(~matched_truth & ~annotated.crowd).tolist():
            self._of(truth.segments[place], annotated=True).missed += 1
        ignored = _ignored(annotated, predicted, overlaps)
        for place in np.flatnonzero(~matched_predictions & ~ignored).tolist():
            self._of(prediction.segments[place]).wrong += 1
        self.images += 1

    def result(self, *, name: str, notes: Sequence[str] = ()) -> PanopticEvaluation:
        """The figures of what was added so far.

        Args:
            name: what to call the data in tables.
            notes: sentences to keep with the figures.
        """
        counted_classes = [counts for _, counts in sorted(self._classes.items())]
        classes = tuple(
            PanopticClass.of(counts.category, counts.overlap, counts.matched, counts.wrong, counts.missed)
            for counts in counted_classes
            if counts.matched + counts.wrong + counts.missed
        )
        return PanopticEvaluation(name, means_of(classes), classes, self.images, tuple(notes))

    def _match(
        self, annotated: _Side, predicted: _Side, overlaps: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Counts matched segments; which of the annotated and of the predicted ones they are."""
        shared = overlaps[1:, 1:]
        in_void = overlaps[0, 1:]  # of the predicted segments
        unions = annotated.areas[:, None] + predicted.areas - in_void - shared
        ious = shared / np.maximum(unions, 1)
        may_match = (annotated.classes[:, None] == predicted.classes) & ~annotated.crowd[:, None]
        rows, columns = np.nonzero(may_match & (ious > _MATCH_ABOVE))
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            counts = self._of(annotated.segments[row], annotated=True)
            counts.matched += 1
            counts.overlap += float(ious[row, column])
        matched_truth = np.zeros(len(annotated.segments), dtype=np.bool_)
        matched_predictions = np.zeros(len(predicted.segments), dtype=np.bool_)
        matched_truth[rows] = matched_predictions[columns] = True
        return matched_truth, matched_predictions

    def _of(self, segment: Segment, *, annotated: bool = False) -> _Counts:
        """The counts of a segment's class."""
        category = segment.category
        counts = self._classes.setdefault(category.id, _Counts(category, annotated))
        if annotated and not counts.annotated:
            counts.category, counts.annotated = category, True
        return counts


class _Side:
    """The segments of one side as columns, in the order of the segmentation.

    Args:
        segmentation: of one image.
        owner: whose it is, as the beginning of a message.
    """

    def __init__(self, segmentation: PanopticSegmentation, owner: str) -> None:
        self.map = segmentation.ids
        self.segments = segmentation.segments
        self.ids = np.array([segment.id for segment in self.segments], dtype=np.int64)
        self.classes = np.array([segment.category.id for segment in self.segments], dtype=np.int64)
        self.crowd = np.array([segment.crowd for segment in self.segments], dtype=np.bool_)
        self.areas = np.zeros(len(self.segments), dtype=np.int64)
        self._owner = owner
        self._order = np.argsort(self.ids)
        if len(set(self.ids.tolist())) < len(self.ids) or (self.ids <= VOID).any():
            raise DataError(
                f"{owner} has segments with the ids {sorted(self.ids.tolist())}: give each segment an id of its own, from 1 on."
            )

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place of each id among void, which is 0, and the segments, which count from 1."""
        known = self.ids[self._order]
        places = np.searchsorted(known, ids)
        found = known[np.minimum(places, len(known) - 1)] == ids if len(known) else np.zeros(len(ids), dtype=np.bool_)
        unknown = ids[~found & (ids != VOID)]
        if unknown.size:
            raise DataError(
                f"{self._owner} has pixels of the segment {int(unknown[0])}, which is not listed: list every segment with its class."
            )
        result = np.zeros(len(ids), dtype=np.int64)
        result[found] = self._order[places[found]] + 1
        return result

    def check(self, pixels: NDArray[np.int64]) -> None:
        """Takes the areas of void and all segments, and refuses segments without pixels."""
        self.areas = pixels[1:]
        if (self.areas == 0).any():
            segment = self.segments[int(np.argmin(self.areas))]
            raise DataError(
                f"{self._owner} lists the segment {segment.id} ({segment.category.name}), which has no pixels: leave it out."
            )


def _overlaps(annotated: _Side, predicted: _Side) -> NDArray[np.int64]:
    """(A + 1, P + 1) pixels that each pair of an annotated and a predicted segment shares; the first row and column are void."""
    pairs = annotated.map.astype(np.int64) << _SECOND | predicted.map
    starts, lengths = runs_of(pairs)
    values, inverse = np.unique(pairs.ravel()[starts], return_inverse=True)
    pixels = np.bincount(inverse, weights=lengths, minlength=len(values)).astype(np.int64)
    table = np.zeros((len(annotated.ids) + 1, len(predicted.ids) + 1), dtype=np.int64)
    table[annotated.places(values >> _SECOND), predicted.places(values & (1 << _SECOND) - 1)] = pixels
    return table


def _ignored(annotated: _Side, predicted: _Side, overlaps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(P,) which predicted segments lie mostly in void or in crowds of their class."""
    own_crowd = annotated.crowd[:, None] & (annotated.classes[:, None] == predicted.classes)
    covered = overlaps[0, 1:] + np.where(own_crowd, overlaps[1:, 1:], 0).sum(axis=0)
    return np.asarray(covered > _IGNORED_ABOVE * predicted.areas, dtype=np.bool_)
