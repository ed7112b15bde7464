"""Which object each region belongs to, by overlap, and which regions a training step looks at (Faster R-CNN; TSP, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy, iou_and_union_xyxy, xyxy_to_cxcywh

POSITIVE_OVERLAP = 0.5  # IoU from which a proposal may be matched to an object
_POSITIVE_SHARE = 0.25
_ANCHOR_BACKGROUND, _ANCHOR_OBJECT = 0.3, 0.7


def overlaps(boxes_xyxy: Tensor, objects_xyxy: Tensor) -> Tensor:
    """(N, M) IoU; 0 where two boxes do not meet."""
    iou, union = iou_and_union_xyxy(boxes_xyxy[:, None], objects_xyxy[None])
    return torch.where(union > 0, iou, 0.0)


@torch.no_grad()
def objects_of_regions(boxes_xyxy: Tensor, objects_xyxy: Tensor) -> Tensor:
    """(N,) int64: the object that each box overlaps most, if its IoU is at least `POSITIVE_OVERLAP`; else -1."""
    if len(objects_xyxy) == 0:
        return torch.full((len(boxes_xyxy),), -1, device=boxes_xyxy.device)
    best, objects = overlaps(boxes_xyxy, objects_xyxy).max(1)
    return objects.masked_fill(best < POSITIVE_OVERLAP, -1)


@torch.no_grad()
def objects_of_anchors(boxes_xyxy: Tensor, objects_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and objects of anchors, (A,) int64 each: the label is 1 for an object, 0 for background, and -1 between the two.

    The anchors that overlap an object most belong to one, however little that is.
    """
    none = torch.zeros(len(boxes_xyxy), dtype=torch.int64, device=boxes_xyxy.device)
    if len(objects_xyxy) == 0:
        return none, none
    found = overlaps(boxes_xyxy, objects_xyxy)
    best, objects = found.max(1)
    labels = none.masked_fill(best >= _ANCHOR_BACKGROUND, -1).masked_fill(best >= _ANCHOR_OBJECT, 1)
    best_of_object = (found == found.amax(0)) & (
        found > 0
    )  # nothing overlaps an object that has no area in these numbers
    return labels.masked_fill(best_of_object.any(1), 1), objects


@torch.no_grad()
def sampled(positive: Tensor, negative: Tensor, *, count: int, share: float) -> Tensor:
    """Random rows: as many positive ones as the share allows, then negative ones up to the count.

    Args:
        positive: (N,) bool.
        negative: (N,) bool.
        count: how many rows at most.
        share: of them that positive ones may have.
    """
    rows = [each.nonzero()[:, 0] for each in (positive, negative)]
    first = min(len(rows[0]), int(count * share))
    second = min(len(rows[1]), count - first)
    chosen = (
        torch.randperm(len(each), device=each.device)[:most] for each, most in zip(rows, (first, second), strict=True)
    )
    return torch.cat([each[places] for each, places in zip(rows, chosen, strict=True)])


@torch.no_grad()
def training_regions(proposals_xyxy: Tensor, objects_xyxy: Tensor, *, count: int) -> Tensor:
    """The regions of an image that a training step looks at, (N, 4), those that belong to objects first.

    Where no proposal belongs to an object, the objects themselves are added, moved and resized a little.

    Args:
        proposals_xyxy: (P, 4).
        objects_xyxy: (M, 4).
        count: the most to return.
    """
    objects = objects_of_regions(proposals_xyxy, objects_xyxy)
    if len(objects_xyxy) and not (objects >= 0).any():
        proposals_xyxy = torch.cat([proposals_xyxy, _disturbed(objects_xyxy)])
        objects = objects_of_regions(proposals_xyxy, objects_xyxy)
    return proposals_xyxy[sampled(objects >= 0, objects < 0, count=count, share=_POSITIVE_SHARE)]


def _disturbed(boxes_xyxy: Tensor) -> Tensor:
    """Boxes whose centre moves by up to a tenth of a side, and whose sides change by up to a factor of 0.8."""
    center, size = torch.split(xyxy_to_cxcywh(boxes_xyxy), 2, dim=-1)
    shift, growth = (torch.rand(center.shape).to(center) for _ in range(2))
    return cxcywh_to_xyxy(torch.cat([center + size * (shift - 0.5) * 0.2, size * 0.8 ** (2 * growth - 1)], dim=-1))
