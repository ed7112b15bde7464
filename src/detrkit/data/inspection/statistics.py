"""What a split is like, in figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrkit.coco_limits import LARGE, SMALL
from detrkit.data.inspection.finding import Split

_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class Quantiles:
    """How values are spread.

    Attributes:
        lowest: the least value.
        low: 5 % are below it.
        median: half are below it.
        high: 5 % are above it.
        highest: the greatest value.
    """

    lowest: float
    low: float
    median: float
    high: float
    highest: float

    def __str__(self) -> str:
        values = (self.lowest, self.median, self.highest)
        return " · ".join(f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in values)


@dataclass(frozen=True)
class ClassStatistics:
    """How often a class occurs.

    Attributes:
        name: of the class.
        id: of its category in the annotation file.
        objects: their number, without crowd regions.
        images: number of images with at least one of them.
    """

    name: str
    id: int
    objects: int
    images: int


@dataclass(frozen=True)
class SplitStatistics:
    """What a split is like. Boxes and objects are counted without crowd regions.

    Attributes:
        split: its name.
        images: number of images.
        empty: number of images without any annotation.
        objects: number of objects.
        crowds: number of crowd regions.
        small: objects below 32 × 32 pixels, as COCO measures (by the outline's area if the file gives it). Each object has one size here;
            COCO's evaluation counts one of exactly 32 × 32 pixels as small and medium, and one of 96 × 96 as medium and large.
        medium: objects from 32 × 32 to 96 × 96 pixels, both included.
        large: objects above that.
        classes: one entry per class, in the order of their ids.
        objects_per_image: spread; None without images.
        box_sides: square roots of the boxes' areas in pixels; None without objects.
        box_aspects: width / height of the boxes; None without objects.
        picture_aspects: width / height of the pictures; None without images.
        picture_sides: square roots of the pictures' areas in pixels; None without images.
    """

    split: str
    images: int
    empty: int
    objects: int
    crowds: int
    small: int
    medium: int
    large: int
    classes: tuple[ClassStatistics, ...]
    objects_per_image: Quantiles | None
    box_sides: Quantiles | None
    box_aspects: Quantiles | None
    picture_aspects: Quantiles | None
    picture_sides: Quantiles | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self) | {"classes": [asdict(entry) for entry in self.classes]}


def statistics_of(split: Split) -> SplitStatistics:
    """The figures of a split."""
    dataset = split.dataset
    single = ~dataset.crowd
    width, height = (dataset.boxes_xyxy[single, 2:] - dataset.boxes_xyxy[single, :2]).T
    areas = dataset.areas[single]
    small, large = int((areas < SMALL).sum()), int((areas > LARGE).sum())
    picture_height, picture_width = dataset.sizes.astype(np.float64).T
    return SplitStatistics(
        split=split.name,
        images=len(dataset),
        empty=int((np.diff(dataset.offsets) == 0).sum()),
        objects=int(single.sum()),
        crowds=int(dataset.crowd.sum()),
        small=small,
        medium=len(areas) - small - large,
        large=large,
        classes=_classes(split),
        objects_per_image=_quantiles(objects_per_image(split)),
        box_sides=_quantiles(np.sqrt(width * height)),
        box_aspects=_quantiles(width / height),
        picture_aspects=_quantiles(picture_width / picture_height),
        picture_sides=_quantiles(np.sqrt(picture_width * picture_height)),
    )


def owners(split: Split) -> NDArray[np.int64]:
    """(N,) the position of the image that each object belongs to."""
    return np.repeat(np.arange(len(split.dataset)), np.diff(split.dataset.offsets))


def objects_per_image(split: Split) -> NDArray[np.int64]:
    """(I,) the number of objects in each image, without crowd regions."""
    return np.bincount(owners(split)[~split.dataset.crowd], minlength=len(split.dataset))


def class_counts(split: Split) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Image, class and number of objects without crowd regions, for every image and class that has any."""
    dataset = split.dataset
    single = ~dataset.crowd
    keys = owners(split)[single] * len(dataset.categories) + dataset.labels[single]
    pairs, counts = np.unique(keys, return_counts=True)
    return pairs // len(dataset.categories), pairs % len(dataset.categories), counts


def _classes(split: Split) -> tuple[ClassStatistics, ...]:
    categories = split.dataset.categories
    _, labels, counts = class_counts(split)
    images = np.bincount(labels, minlength=len(categories))
    objects = np.bincount(labels, weights=counts, minlength=len(categories))
    return tuple(
        ClassStatistics(category.name, category.id, int(objects[category.index]), int(images[category.index]))
        for category in categories
    )


def _quantiles(values: NDArray[Any]) -> Quantiles | None:
    return Quantiles(*np.quantile(values, _QUANTILES).tolist()) if values.size else None
