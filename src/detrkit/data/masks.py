"""Masks of an image's objects as data sets keep them: encoded, and decoded only as far as the loss needs."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class ObjectMasks(Protocol):
    """The masks of one image's N objects, at the size of the photo.

    Mirroring, cutting and resizing to the nearest pixel all pick rows and columns. So a transform picks them all at once from the photo's
    masks, and no mask of the photo's size has to exist for each object at the same time.
    """

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
