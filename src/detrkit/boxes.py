"""Boxes: formats and overlap, as pure functions; every name contains the format.

`cxcywh` is centre x, centre y, width, height; `xyxy` is left, top, right, bottom; `xywh` is left, top, width, height. Units do not matter:
the arithmetic is the same for pixels and for fractions of an image. Shapes are (..., 4) and broadcast.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Corners of boxes given by centre and size, (..., 4) to (..., 4)."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - 0.5 * size, center + 0.5 * size], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Centre and size of boxes given by corners, (..., 4) to (..., 4)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Corners of boxes given by left, top, width, height, (..., 4) to (..., 4)."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], dim=-1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Left, top, width, height of boxes given by corners, (..., 4) to (..., 4)."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], dim=-1)


def area_xyxy(boxes: Tensor) -> Tensor:
    """Areas (...,) of boxes (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou_and_union_xyxy(first: Tensor, second: Tensor, epsilon: float = 0.0) -> tuple[Tensor, Tensor]:
    """Intersection over union, and the union's area, of boxes that are paired by broadcasting.

    Args:
        first: (..., 4); use `boxes[:, None]` against `boxes[None]` for all pairs.
        second: (..., 4).
        epsilon: added to the divisor; papers differ in it. With 0, two boxes without area give NaN.

    Returns:
        Two tensors of the broadcast shape without the last axis.
    """
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low).clamp(min=0).prod(dim=-1)
    union = area_xyxy(first) + area_xyxy(second) - intersection
    return intersection / (union + epsilon), union


def generalized_iou_xyxy(first: Tensor, second: Tensor, epsilon: float = 0.0) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019, equation 1) of boxes that are paired by broadcasting, in [-1, 1].

    Args:
        first: (..., 4).
        second: (..., 4).
        epsilon: added to both divisors; papers differ in it.
    """
    iou, union = iou_and_union_xyxy(first, second, epsilon)
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    hull = (high - low).clamp(min=0).prod(dim=-1)
    return iou - (hull - union) / (hull + epsilon)
