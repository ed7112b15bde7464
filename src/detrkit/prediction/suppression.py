"""Non-maximum suppression within each class, for models that report an object twice.

A detector of this family learns to report each object once and needs no such step in the end; after a short training it still repeats some.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrkit.errors import ConfigurationError

REPEATS_FROM = 0.7  # IoU above which a detection repeats a better one of its class
KEEP_ALL = 1.0  # no IoU is above it


def check_nms(iou: float | None) -> float | None:
    """Refuses an IoU that suppression cannot use.

    Args:
        iou: above 0 and at most 1; None for no suppression.

    Raises:
        ConfigurationError: it is out of range.
    """
    if iou is not None and not 0 < iou <= KEEP_ALL:
        raise ConfigurationError(
            f"The NMS value {iou:g} is no IoU for suppression: choose one above 0, such as {REPEATS_FROM}, up to 1, which keeps all detections"
        )
    return iou


def kept_by_nms(boxes_xyxy: NDArray[Any], classes: NDArray[Any], iou: float) -> NDArray[np.bool_]:
    """(N,) which detections of one picture stay: those that repeat no better one that stays.

    Args:
        boxes_xyxy: (N, 4) best first.
        classes: (N,) whole numbers; only detections of one class suppress each other.
        iou: above which a detection repeats a better one.
    """
    number = len(boxes_xyxy)
    if number < 2 or iou >= KEEP_ALL:
        return np.ones(number, dtype=np.bool_)
    from detrkit.prediction.quiet_supervision import sv  # not above: values are checked before it is loaded

    ranks = np.arange(number, 0, -1)  # in place of scores, so that of equal ones the first is the better
    return sv.box_non_max_suppression(np.column_stack([boxes_xyxy.astype(np.float64), ranks, classes]), iou)
