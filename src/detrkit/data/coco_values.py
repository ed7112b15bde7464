"""Single values of COCO annotations: what counts as a number, a crowd, a box, and an outline from which a box follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeGuard

import numpy as np

Box = tuple[float, float, float, float]
_CROWD_TEXTS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_LEAST_POINTS = 3


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether a value is a number that a computer can calculate with; texts and truth values are none."""
    if value.__class__ is float:  # most values; the general question takes several times as long
        return math.isfinite(value)
    if value.__class__ is not int and (isinstance(value, bool) or not isinstance(value, Real)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


def crowd_flag(value: Any) -> bool | None:
    """Whether `iscrowd` marks a crowd: 0, 1, true, false, their texts, or nothing at all; None for anything else."""
    if value is None or (value.__class__ is int and value == 0):
        return False
    if isinstance(value, str):
        return _CROWD_TEXTS.get(value.strip().lower())
    if isinstance(value, bool | Real | np.bool_) and value in (0, 1):
        return bool(value)
    return None


def given_box(value: Any) -> Box | None:
    """Left, top, width and height as a file gives them; None unless they are four finite numbers."""
    if not isinstance(value, list | tuple | np.ndarray) or len(value) != 4 or not all(map(is_finite, value)):
        return None
    left, top, width, height = value
    return left, top, width, height


def box_of_outline(segmentation: Any) -> Box | None:
    """Left, top, width and height of a segmentation: polygons, or a mask as run lengths; None if it has no area or makes no sense."""
    if isinstance(segmentation, dict):
        box = _box_of_mask(segmentation)
    elif isinstance(segmentation, list):
        box = _box_of_polygons(segmentation if segmentation and isinstance(segmentation[0], list) else [segmentation])
    else:
        box = None
    return box if box is not None and box[2] > 0 and box[3] > 0 else None


def _box_of_polygons(polygons: Sequence[Any]) -> Box | None:
    points: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2 or not all(map(is_finite, polygon)):
            return None
        if len(polygon) >= 2 * _LEAST_POINTS:
            points += polygon
    if not points:
        return None
    left, top = float(min(points[0::2])), float(min(points[1::2]))
    return left, top, max(points[0::2]) - left, max(points[1::2]) - top


def _box_of_mask(mask: dict[str, Any]) -> Box | None:
    from faster_coco_eval.core import mask as masks  # needed by few files

    try:
        height, width = mask["size"]
        runs = masks.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask
        left, top, box_width, box_height = (float(value) for value in masks.toBbox(runs))
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError):  # what the library raises on damaged masks
        return None
    inside = 0 <= left <= left + box_width <= width and 0 <= top <= top + box_height <= height
    return (left, top, box_width, box_height) if inside else None
