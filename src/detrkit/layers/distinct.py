"""Boxes that do not repeat each other: what queries can start from (Zhang et al. 2023, Dense Distinct Query, arXiv:2303.12776)."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy, iou_and_union_xyxy

CANDIDATES = 4  # for each box that is wanted: so many of the best are looked at


def best_distinct(scores: Tensor, boxes_cxcywh: Tensor, *, count: int, overlap: float) -> Tensor:
    """The best boxes; those that repeat a better one are taken only where the best four times as many hold too few others.

    A box is a repetition if it overlaps any better one, be that a repetition itself or not (fast NMS, Bolya et al. 2019, YOLACT,
    arXiv:1904.02689). So all pairs are compared at once and not one box after the other, and the result has the same shape whatever the boxes, as export needs it.

    Args:
        scores: (B, S).
        boxes_cxcywh: (B, S, 4).
        count: how many are wanted, at most S.
        overlap: IoU above which the worse of two boxes repeats the better one.

    Returns:
        (B, count) int64 rows, by falling score; then the repetitions, again by falling score.
    """
    candidates = scores.topk(min(CANDIDATES * count, scores.shape[1]), dim=1).indices  # (B, N), best first
    boxes = cxcywh_to_xyxy(boxes_cxcywh.gather(1, candidates[..., None].expand(-1, -1, 4)))
    overlaps, _ = iou_and_union_xyxy(boxes[:, :, None], boxes[:, None], epsilon=1e-9)  # (B, N, N)
    repeats = (overlaps.triu(diagonal=1) > overlap).any(1)  # above the diagonal the row is the better box
    places = torch.arange(candidates.shape[1], device=scores.device) + candidates.shape[1] * repeats
    return candidates.gather(1, places.topk(count, dim=1, largest=False).indices)
