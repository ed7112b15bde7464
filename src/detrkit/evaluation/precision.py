"""Average precision from outcomes, for many choices of images at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from detrkit.evaluation.outcomes import Outcomes

_RECALLS = np.linspace(0.0, 1.0, 101)
_CELLS_AT_ONCE = 4_000_000  # bounds the memory where a class has thousands of objects


def average_precision(
    outcomes: Outcomes, weights: NDArray[np.float64] | NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """COCO's average precision of each class, with every image counted as often as its weight says.

    For whole weights this is the average precision of a data set in which images occur so many times, with detections of equal score
    grouped by their original. Only detections that are correct at some threshold need a place of their own on the curve: wrong ones between
    them just lower the precision of the next.

    Args:
        outcomes: what became of the detections, for T thresholds.
        weights: (I, R) not negative, how often each image counts in each of R cases; None means one case with all images once.

    Returns:
        (T, K, R) values in [0, 1]; NaN for classes without objects that count.
    """
    images, classes = outcomes.shape
    weights = np.ones((images, 1)) if weights is None else weights.astype(np.float64)
    counts = _sums(outcomes.object_classes, outcomes.object_images, outcomes.shape, weights)  # (K, R)
    values = np.zeros((len(outcomes.correct), classes, weights.shape[1]))
    for place, rows in enumerate(outcomes.slices()):
        correct = outcomes.correct[:, rows]
        steps = max(1, _CELLS_AT_ONCE // max(1, int(correct.any(0).sum())))
        for start in range(0, weights.shape[1], steps):
            cases = slice(start, start + steps)
            values[:, place, cases] = _of_class(
                correct, outcomes.ignored[:, rows], outcomes.images[rows], weights[:, cases], counts[place, cases]
            )
    return np.where(counts > 0, values, np.nan)


def mean_over_classes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the classes that have objects.

    Args:
        values: (…, K, R) with NaN for the others.

    Returns:
        (…, R); NaN where no class has objects.
    """
    known = ~np.isnan(values)
    sums: NDArray[np.float64] = np.where(known, values, 0.0).sum(-2)
    number = known.sum(-2)
    means: NDArray[np.float64] = np.divide(sums, number, out=np.full(sums.shape, np.nan), where=number > 0)
    return means


def _of_class(
    correct: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
    images: NDArray[np.int64],
    weights: NDArray[np.float64],
    objects: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(T, R) average precision of one class; its detections are sorted, best first."""
    places = np.flatnonzero(correct.any(0))
    values = np.zeros((len(correct), weights.shape[1]))
    if not places.size:
        return values
    seen = _up_to(places, np.arange(places[-1] + 1), images, weights)  # (P, R) detections up to each place
    for level, (is_correct, is_ignored) in enumerate(zip(correct, ignored, strict=True)):
        own = is_correct[places]
        if own.any():
            left_out = np.flatnonzero(is_ignored[: places[-1] + 1])
            number = seen[own]
            if left_out.size:
                number = number - _up_to(places, left_out, images, weights)[own]
            values[level] = _area(np.cumsum(weights[images[places[own]]], axis=0), number, objects)
    return values


def _up_to(
    places: NDArray[np.int64], counted: NDArray[np.int64], images: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(P, R) how many of the counted detections come up to each place."""
    steps = _sums(np.searchsorted(places, counted), images[counted], (len(weights), len(places)), weights)
    return np.cumsum(steps, axis=0, out=steps)


def _sums(
    rows: NDArray[np.int64], images: NDArray[np.int64], shape: tuple[int, int], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sums of the weights of the images in each row. `shape`: number of images and of rows."""
    if weights.shape[1] == 1:  # the most common case, and several times as fast
        return np.bincount(rows, weights[images, 0], minlength=shape[1]).astype(np.float64)[:, None]
    entries = csr_array((np.ones(len(rows)), (rows, images)), shape=(shape[1], shape[0]))
    sums: NDArray[np.float64] = entries @ weights
    return sums


def _area(
    correct: NDArray[np.float64], number: NDArray[np.float64], objects: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(R,) mean over COCO's 101 recalls of the best precision from there on.

    Args:
        correct: (P, R) correct detections up to each correct one.
        number: (P, R) detections up to each correct one.
        objects: (R,) number of objects.
    """
    precision = np.divide(correct, number, out=np.zeros_like(correct), where=number > 0)
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = _recalls_reached(correct / np.maximum(objects, 1.0))
    area: NDArray[np.float64] = (best * np.diff(reached, axis=0, prepend=0.0)).sum(0) / len(_RECALLS)
    return area


def _recalls_reached(recall: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many of COCO's recalls are at most this one; a table of bounds decides where rounding could go either way."""
    step = np.minimum(np.floor(recall * 100 + 1e-9), 100).astype(np.int64)
    number: NDArray[np.float64] = np.add(step, _RECALLS[step] <= recall, dtype=np.float64)
    return number
