"""Average precision of some of the objects or images: by size, and by the number of objects in an image."""

from __future__ import annotations

from dataclasses import dataclass


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
