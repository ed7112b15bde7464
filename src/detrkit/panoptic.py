"""A panoptic result: every pixel of an image belongs to one segment or to none, and every segment to one class."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from detrkit.cards import Category
from detrkit.notebooks import shown, table

VOID = 0  # the id of pixels that belong to no segment, as in COCO's files


@dataclass(frozen=True)
class Segment:
    """One segment of an image: an object, a crowd of objects, or all the stuff of one class.

    Attributes:
        id: the value of its pixels in the id map, at least 1.
        category: its class; `category.thing` says whether it is an object.
        area: number of pixels.
        score: probability of its class in [0, 1]; None for annotated segments.
        crowd: whether it covers several objects that were annotated as one.
    """

    id: int
    category: Category
    area: int
    score: float | None = None
    crowd: bool = False

    def with_category(self, category: Category) -> Segment:
        """The same segment of another class."""
        return replace(self, category=category)


@dataclass(frozen=True, eq=False)
class PanopticSegmentation:
    """The segments of one image.

    Attributes:
        ids: (H, W) int32, the id of the segment that each pixel belongs to, `VOID` where it belongs to none.
        segments: in the order of their ids; each has at least one pixel.
    """

    ids: np.ndarray
    segments: tuple[Segment, ...]

    def __repr__(self) -> str:
        height, width = self.ids.shape
        things = sum(segment.category.thing for segment in self.segments)
        return f"<PanopticSegmentation {width} x {height} pixels, {things} things, {len(self.segments) - things} stuff>"

    def of_classes(self, ids: Collection[int]) -> PanopticSegmentation:
        """The segments of some classes alone; the pixels of the others become void.

        Args:
            ids: `Category.id` of the classes.
        """
        kept = tuple(each for each in self.segments if each.category.id in ids)
        shown = np.isin(self.ids, [each.id for each in kept])
        return PanopticSegmentation(np.where(shown, self.ids, VOID).astype(self.ids.dtype), kept)

    def _repr_html_(self) -> str:
        """What notebooks show: the segments, the largest first."""
        rows = [
            (each.category.name, "thing" if each.category.thing else "stuff", each.area, each.score, each.id)
            for each in sorted(self.segments, key=lambda segment: -segment.area)
        ]
        return shown(repr(self)[1:-1], table(("class", "kind", "pixels", "score", "id"), rows))


def colors_of_ids(ids: np.ndarray) -> np.ndarray:
    """The colours in which COCO's PNG files store ids: id = red + 256 · green + 65536 · blue.

    Args:
        ids: (H, W) integers from 0 to 16,777,215.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def ids_of_colors(colors: np.ndarray) -> np.ndarray:
    """The ids that COCO's PNG files store as colours, see `colors_of_ids`.

    Args:
        colors: (H, W, 3) uint8, RGB.

    Returns:
        (H, W) int32.
    """
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red + 256 * green + 65536 * blue


def runs_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of equal values, row after row; maps of segments have few, so counting runs is much faster than counting pixels.

    Args:
        values: (H, W) integers.

    Returns:
        (R,) int64 places in the flattened map where the runs start, and (R,) int64 numbers of pixels.
    """
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, flat.size), dtype=bool), flat[1:] != flat[:-1]]))
    return starts, np.diff(np.append(starts, flat.size))
