"""Average precision of some of the objects or images: by size, and by the number of objects in an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detrkit.coco_limits import AREA_WORDS, AREAS
from detrkit.data.wording import counted
from detrkit.evaluation.inputs import Inputs
from detrkit.evaluation.outcomes import Outcomes, Overlaps, outcomes
from detrkit.evaluation.precision import average_precision, mean_over_classes

_CROWDEDNESS_GROUPS = 4


@dataclass(frozen=True)
class Group:
    """Some objects and how well they are detected.

    Attributes:
        name: such as "small" or "4 to 9 objects".
        meaning: what belongs to the group, in words.
        images: number of images with such objects; for crowdedness the number of images in the group.
        objects: number of objects, without crowd regions.
        ap: AP over IoU 0.50 to 0.95 in [0, 1]; None if there are no such objects.
        ap50: AP at IoU 0.50 in [0, 1]; None as for `ap`.
    """

    name: str
    meaning: str
    images: int
    objects: int
    ap: float | None
    ap50: float | None


def groups_by_size(inputs: Inputs, max_detections: int, pairs: Overlaps) -> tuple[Group, ...]:
    """AP of small, medium and large objects as COCO defines them; the same as the evaluation's figures.

    Args:
        inputs: what is compared.
        max_detections: number of detections that count per image and class.
        pairs: as for `outcomes`.
    """
    groups = []
    for name, areas in AREAS.items():
        found = outcomes(inputs, max_detections, areas=areas, pairs=pairs)
        ap, ap50 = _figures(found, None)
        images = len(np.unique(found.object_images))
        groups.append(Group(name, AREA_WORDS[name], images, len(found.object_images), ap[0], ap50[0]))
    return tuple(groups)


def groups_by_crowdedness(found: Outcomes) -> tuple[Group, ...]:
    """AP of images with few and with many objects.

    The images are divided at quarters of their number, images with the same number of objects never being parted; so there are fewer than
    four groups where many images have the same number.

    Args:
        found: at COCO's ten IoU thresholds.
    """
    objects = np.bincount(found.object_images, minlength=found.shape[0])
    inner = np.quantile(objects, np.arange(1, _CROWDEDNESS_GROUPS) / _CROWDEDNESS_GROUPS, method="inverted_cdf")
    bounds = np.unique(inner[inner < objects.max()])  # each is the greatest number of its group
    places = np.searchsorted(bounds, objects)
    members = (places[:, None] == np.arange(len(bounds) + 1)).astype(np.float64)  # (I, groups)
    ap, ap50 = _figures(found, members)
    groups = []
    for place in range(members.shape[1]):
        own = objects[places == place]
        name = _objects(int(own.min()), int(own.max()))
        meaning = f"images with {name}"
        groups.append(Group(name, meaning, len(own), int(own.sum()), ap[place], ap50[place]))
    return tuple(groups)


def _figures(found: Outcomes, weights: NDArray[np.float64] | None) -> tuple[list[float | None], list[float | None]]:
    """AP and AP50 for each choice of images."""
    values = mean_over_classes(average_precision(found, weights))  # (T, R)
    pair = ([None if np.isnan(value) else float(value) for value in row] for row in (values.mean(0), values[0]))
    return next(pair), next(pair)


def _objects(least: int, most: int) -> str:
    """A range of numbers of objects in words."""
    if least == most:
        return counted(least, "object")
    return f"{least} to {most} objects"
