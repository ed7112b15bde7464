"""Losses on boxes of matched pairs."""

from __future__ import annotations

from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy, generalized_iou_xyxy
from detrkit.losses.matched import Matched


def l1_loss(matched: Matched) -> Tensor:
    """Sum of absolute differences of centre and size.

    Args:
        matched: predictions and their objects.

    Returns:
        (L,) sum / divisor of each layer.
    """
    difference = matched.predicted_boxes_cxcywh - matched.wanted_boxes_cxcywh  # (L, M, 4)
    return difference.abs().sum((1, 2)) / matched.divisor


def giou_loss(matched: Matched, *, epsilon: float = 0.0) -> Tensor:
    """Sum of 1 - generalised IoU.

    Args:
        matched: predictions and their objects.
        epsilon: added to the divisors of the generalised IoU: 0 in DETR and Deformable DETR, 1e-6 in DAB-DETR and its descendants.

    Returns:
        (L,) sum / divisor of each layer.
    """
    predicted, wanted = cxcywh_to_xyxy(matched.predicted_boxes_cxcywh), cxcywh_to_xyxy(matched.wanted_boxes_cxcywh)
    return (1 - generalized_iou_xyxy(predicted, wanted, epsilon)).sum(1) / matched.divisor
