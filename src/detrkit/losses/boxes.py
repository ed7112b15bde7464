"""Losses on boxes of matched pairs."""

from __future__ import annotations

from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy, generalized_iou_xyxy


def l1_loss(predicted_cxcywh: Tensor, wanted_cxcywh: Tensor, divisor: Tensor | float) -> Tensor:
    """Sum of absolute differences of centre and size.

    Args:
        predicted_cxcywh: (L, M, 4).
        wanted_cxcywh: (L, M, 4).
        divisor: what the sum is divided by, usually the number of objects.

    Returns:
        (L,).
    """
    return (predicted_cxcywh - wanted_cxcywh).abs().sum((1, 2)) / divisor


def giou_loss(predicted_cxcywh: Tensor, wanted_cxcywh: Tensor, divisor: Tensor | float) -> Tensor:
    """Sum of 1 - generalised IoU; arguments and result as in `l1_loss`."""
    overlap = generalized_iou_xyxy(cxcywh_to_xyxy(predicted_cxcywh), cxcywh_to_xyxy(wanted_cxcywh))
    return (1 - overlap).sum(1) / divisor
