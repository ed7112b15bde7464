"""How many objects images have: none, too many, or fewer than they seem to show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from detrkit.coco_limits import MAX_DETECTIONS
from detrkit.data.inspection.finding import Finding, Split, finding, places
from detrkit.data.inspection.statistics import class_counts, objects_per_image, owners
from detrkit.data.wording import agreeing, have, some_of

_NEARLY_ALL = 0.8  # share of the images that a class is in
_FEWEST_IMAGES = 10  # from which "nearly all" can be said
_UNUSUAL = -3.4  # standard deviations from the median, of the square root of the count
_FEW = 0.2  # share of the median: whoever annotated three of twelve has looked
_LEAST_DEVIATION = 0.5  # of the square root of a Poisson count, however regular the images are
_TO_NORMAL = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


def images_without_objects(split: Split) -> list[Finding]:
    """Images that have no annotation at all."""
    places_of = np.flatnonzero(np.diff(split.dataset.offsets) == 0)
    if not places_of.size or len(places_of) == len(split.dataset):  # all: nothing to learn, or to evaluate
        return []
    files = split.files(places_of)
    message = (
        f"{some_of(len(places_of), len(split.dataset), 'image')} {have(len(places_of))} no objects {places(files)}."
    )
    return [finding("images-without-objects", split.name, message, count=len(places_of), files=files)]


def crowd_regions(split: Split) -> list[Finding]:
    """Regions of many objects that were annotated as one."""
    count = int(split.dataset.crowd.sum())
    if not count:
        return []
    files = split.files(owners(split)[split.dataset.crowd])
    message = f"{some_of(count, len(split.dataset.labels), 'annotation')} {agreeing(count, 'is a crowd region', 'are crowd regions')} {places(files)}."
    return [finding("crowd-regions", split.name, message, count=count, files=files)]


def too_many_for_queries(
    split: Split, queries: int, whose: str, fitting: Callable[[int], int] | None = None
) -> list[Finding]:
    """Images with more objects than a model has queries.

    Args:
        split: the images.
        queries: their number.
        whose: what has them, such as "detr-r50".
        fitting: from the most objects of an image to a number of queries that this model can have; None means the next multiple of 50.
    """
    numbers = objects_per_image(split)
    crowded = np.flatnonzero(numbers > queries)
    if not crowded.size:
        return []
    most = int(numbers.max())
    files = split.files(crowded[np.argsort(-numbers[crowded], kind="stable")])
    message = (
        f"{some_of(len(crowded), len(split.dataset), 'image')} {have(len(crowded))} more objects, up to {most}, than the {queries} queries of {whose} "
        f"{places(files)}."
    )
    values = {"queries": (fitting or _round)(most)}
    return [finding("more-objects-than-queries", split.name, message, count=len(crowded), files=files, values=values)]


def too_many_for_figures(split: Split) -> list[Finding]:
    """Images with more objects than the detections that `detrkit evaluate` keeps."""
    numbers = objects_per_image(split)
    crowded = np.flatnonzero(numbers > MAX_DETECTIONS)
    if not crowded.size:
        return []
    files = split.files(crowded)
    message = (
        f"{some_of(len(crowded), len(split.dataset), 'image')} {have(len(crowded))} more than {MAX_DETECTIONS} objects, up to {numbers.max()}, and "
        f"detrkit evaluate keeps the {MAX_DETECTIONS} best detections of an image {places(files)}."
    )
    return [finding("more-objects-than-detections", split.name, message, count=len(crowded), files=files)]


def under_annotated(split: Split) -> list[Finding]:
    """Images that lack a class of which all others have many."""
    dataset = split.dataset
    images, labels, numbers = class_counts(split)
    found = []
    for label in np.flatnonzero(
        np.bincount(labels, minlength=len(dataset.categories)) >= max(_FEWEST_IMAGES, _NEARLY_ALL * len(dataset))
    ):
        counts = np.zeros(len(dataset), dtype=np.int64)
        counts[images[labels == label]] = numbers[labels == label]
        few = unusually_few(counts)
        few[owners(split)[dataset.crowd & (dataset.labels == label)]] = False  # the others may be in the crowd
        suspects = np.flatnonzero(few)
        if not suspects.size:
            continue
        name, most = dataset.categories[label].name, int(counts[suspects].max())
        files = split.files(suspects)
        how_many = f"no '{name}'" if most == 0 else f"no or few '{name}' (at most {most})"
        message = (
            f"{some_of(len(suspects), len(dataset), 'image')} {have(len(suspects))} {how_many}, while half of the images have at least "
            f"{int(np.median(counts))} {places(files)}."
        )
        found.append(finding("under-annotated", split.name, message, count=len(suspects), files=files))
    return found


def unusually_few(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the counts are far below the others.

    The square root makes the spread of counts independent of their size; median and median deviation do not mind a few wrong ones.

    Args:
        counts: (I,) objects of one class in each image.
    """
    roots = np.sqrt(counts)
    middle = np.median(roots)
    deviation = max(_LEAST_DEVIATION, _TO_NORMAL * float(np.median(np.abs(roots - middle))))
    return np.asarray(((roots - middle) / deviation < _UNUSUAL) & (counts < _FEW * np.median(counts)))


def _round(number: int) -> int:
    """The next multiple of 50 that leaves some queries without an object."""
    return -(-(number + 1) // 50) * 50
