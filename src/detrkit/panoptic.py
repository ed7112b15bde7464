"""A panoptic result: every pixel of an image belongs to one segment or to none, and every segment to one class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detrkit.cards import Category

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
