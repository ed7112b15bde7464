"""Masks of objects as data sets keep them: encoded, and decoded only as far as the loss needs.

Mirroring, cutting and resizing to the nearest pixel all pick rows and columns. So a transform only notes which ones (`Axis`), and picks them all
at once from the masks as they are stored. No mask of the photo's size has to exist for each object at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np


class ObjectMasks(Protocol):
    """The masks of one image's N objects, at the size of the photo."""

    def __len__(self) -> int: ...

    def subset(self, rows: np.ndarray) -> ObjectMasks:
        """The masks of some objects, given (M,) int64 indices or an (N,) bool selection."""

    def picked(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Decodes the masks at some pixels.

        Args:
            rows: (h,) int64, the photo's rows in the order of the result.
            columns: (w,) int64, likewise its columns.

        Returns:
            (N, h, w) bool.

        Raises:
            DataError: a mask cannot be read.
        """

    def run_lengths(self) -> list[dict[str, Any]]:
        """The N masks in COCO's compressed run lengths, each `{"size": [H, W], "counts": bytes}`, as its evaluation takes them.

        Raises:
            DataError: a mask cannot be read.
        """


class DatasetMasks(Protocol):
    """The masks of all objects of a data set, in flat arrays that worker processes share."""

    def of_image(self, index: int, rows: slice, size: tuple[int, int]) -> ObjectMasks:
        """The masks of one image's objects.

        Args:
            index: of the image.
            rows: its objects among all objects of the data set.
            size: its height and width.
        """

    def subset(self, images: np.ndarray, rows: np.ndarray) -> Self:
        """The masks of some images' objects.

        Args:
            images: (J,) int64 indices of images.
            rows: (M,) int64, their objects among all objects of the data set.
        """


@dataclass(frozen=True)
class Axis:
    """Which of a photo's rows, or columns, those of a changed picture show.

    Place j of the picture has its centre at `start + step * (j + 0.5)` of the photo. Steps are kept as real numbers and rounded once, at the end,
    so that a picture that is resized, cut and resized again has its masks where it has its boxes.

    Attributes:
        photo: rows or columns of the photo.
        count: of the picture.
        start: where the picture begins in the photo, in the photo's pixels.
        step: the photo's pixels for each of the picture's; negative where it is mirrored.
    """

    photo: int
    count: int
    start: float = 0.0
    step: float = 1.0

    @classmethod
    def whole(cls, photo: int) -> Axis:
        """All rows or columns of a photo, as they are."""
        return cls(photo, photo)

    def mirrored(self) -> Axis:
        """The same in the opposite order."""
        return replace(self, start=self.start + self.step * self.count, step=-self.step)

    def cut(self, first: int, count: int) -> Axis:
        """A part of it, from a place on."""
        return replace(self, count=count, start=self.start + self.step * first)

    def resized(self, count: int) -> Axis:
        """The whole of it, with another number of places."""
        return replace(self, count=count, step=self.step * self.count / count)

    def picked(self) -> np.ndarray:
        """(count,) int64, the photo's row or column nearest to each of the picture's."""
        centres = self.start + self.step * (np.arange(self.count) + 0.5)
        picked: np.ndarray = np.floor(centres).astype(np.int64).clip(0, self.photo - 1)
        return picked


@dataclass(frozen=True, eq=False)
class ArrayMasks:
    """Masks that are decoded already, such as those of several photos in one picture; see `ObjectMasks`.

    Attributes:
        masks: (N, H, W) bool.
    """

    masks: np.ndarray

    def __len__(self) -> int:
        return len(self.masks)

    def subset(self, rows: np.ndarray) -> ArrayMasks:
        """The masks of some objects, given (M,) int64 indices or an (N,) bool selection; not copied where they are all."""
        places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return self if np.array_equal(places, np.arange(len(self))) else ArrayMasks(self.masks[places])

    def picked(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(N, h, w) bool; not copied where that is the whole of them."""
        height, width = self.masks.shape[1:]
        if np.array_equal(rows, np.arange(height)) and np.array_equal(columns, np.arange(width)):
            return self.masks
        picked: np.ndarray = self.masks[:, rows[:, None], columns]
        return picked

    def run_lengths(self) -> list[dict[str, Any]]:
        """The N masks in COCO's compressed run lengths."""
        from faster_coco_eval.core import mask as masks  # needed by evaluation alone

        return [masks.encode(np.asfortranarray(mask, np.uint8)) for mask in self.masks]
