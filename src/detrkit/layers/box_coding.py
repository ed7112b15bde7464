"""Boxes relative to other boxes, as R-CNN codes them (Girshick et al. 2014, arXiv:1311.2524, appendix C)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detrkit.boxes import xyxy_to_cxcywh

LARGEST_GROWTH = math.log(1000 / 16)  # of a side, so that random deltas do not overflow
Weights = tuple[float, float, float, float]


def deltas_between(boxes_xyxy: Tensor, wanted_xyxy: Tensor, weights: Weights) -> Tensor:
    """What moves boxes onto others, (..., 4): shift of the centre in sides, and logarithms of the sides' ratios, each times its weight.

    Args:
        boxes_xyxy: (..., 4), of positive area.
        wanted_xyxy: (..., 4), likewise.
        weights: of the four numbers.
    """
    (center, size), (wanted_center, wanted_size) = (
        torch.split(xyxy_to_cxcywh(each), 2, dim=-1) for each in (boxes_xyxy, wanted_xyxy)
    )
    deltas = torch.cat([(wanted_center - center) / size, torch.log(wanted_size / size)], dim=-1)
    return deltas * deltas.new_tensor(weights)


def moved_boxes(boxes_xyxy: Tensor, deltas: Tensor, weights: Weights) -> Tensor:
    """The boxes that deltas lead to, (..., 4); the reverse of `deltas_between`, but no side grows by more than a factor.

    Args:
        boxes_xyxy: (..., 4).
        deltas: (..., 4).
        weights: of the four numbers.
    """
    center, size = torch.split(xyxy_to_cxcywh(boxes_xyxy), 2, dim=-1)
    shift, growth = torch.split(deltas / deltas.new_tensor(weights), 2, dim=-1)
    center, size = shift * size + center, growth.clamp(max=LARGEST_GROWTH).exp() * size
    return torch.cat([center - 0.5 * size, center + 0.5 * size], dim=-1)
