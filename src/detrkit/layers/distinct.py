"""Boxes that do not repeat each other, from which queries can start (Zhang et al. 2023, Dense Distinct Query, arXiv:2303.12776)."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy, iou_and_union_xyxy

CANDIDATES = 4  # per box that is returned: only this many of the best boxes are considered


def best_distinct(scores: Tensor, boxes_cxcywh: Tensor, *, count: int, overlap: float) -> Tensor:
    """The best boxes that do not repeat a better one. Repetitions are taken only if there are too few others among the best `4 * count` boxes.

    A box is a repetition if it overlaps any better box, even one that is a repetition itself (fast NMS, Bolya et al. 2019, YOLACT,
    arXiv:1904.02689). All pairs can thus be compared at once, and the shape of the result does not depend on the boxes, as export requires.

    Args:
        scores: (B, S).
        boxes_cxcywh: (B, S, 4).
        count: how many boxes to return, at most S.
        overlap: IoU above which the worse of two boxes repeats the better one.

    Returns:
        (B, count) int64 rows by descending score, then rows of repetitions, again by descending score.
    """
    candidates = scores.topk(min(CANDIDATES * count, scores.shape[1]), dim=1).indices  # (B, N), best first
    boxes = cxcywh_to_xyxy(boxes_cxcywh.gather(1, candidates[..., None].expand(-1, -1, 4)))
    overlaps, _ = iou_and_union_xyxy(boxes[:, :, None], boxes[:, None], epsilon=1e-9)  # (B, N, N)
    repeats = (overlaps.triu(diagonal=1) > overlap).any(1)  # above the diagonal, the row is the better box
    ranks = torch.arange(candidates.shape[1], device=scores.device) + candidates.shape[1] * repeats  # repetitions last
    return candidates.gather(1, ranks.topk(count, dim=1, largest=False).indices)
