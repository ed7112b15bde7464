"""Masks as run lengths, the form in which COCO's result files hold them."""

from __future__ import annotations

from typing import Any

import numpy as np


def encoded_mask(mask: np.ndarray) -> dict[str, Any]:
    """A mask in COCO's compressed form.

    Args:
        mask: (H, W) bool.

    Returns:
        `size` as [H, W], and `counts`, a text.
    """
    from faster_coco_eval.core.mask import frPyObjects  # takes a while, and most detections have no masks

    height, width = mask.shape
    columns = np.flatnonzero(mask.any(axis=0))
    first, last = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 0)
    # Runs go down the columns, and only those of the object are looked at, between an empty pixel before and one behind.
    pixels = np.zeros((last - first) * height + 2, dtype=np.bool_)
    pixels[1:-1] = mask[:, first:last].T.ravel()
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + first * height
    lengths = np.diff(changes, prepend=0, append=height * width)
    if len(lengths) % 2 == 1 and len(lengths) > 1 and lengths[-1] == 0:
        lengths = lengths[:-1]  # nothing follows an object that ends in the last pixel
    size = [height, width]
    return {
        "size": size,
        "counts": frPyObjects({"size": size, "counts": lengths.tolist()}, height, width)["counts"].decode(),
    }
