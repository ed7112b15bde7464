"""Regions of a feature pyramid as vectors, and what a model says of them (Lin et al. 2017, arXiv:1612.03144, section 4.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detrkit.boxes import area_xyxy, xyxy_to_cxcywh
from detrkit.layers.position_encoding import sine_code
from detrkit.layers.precision import at_least_float32
from detrkit.structures import Output, TensorRecord, record

REGION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the deltas that move regions
CELLS = 7  # rows and columns of a region's features
_USUAL_SIDE, _USUAL_LEVEL = 224, 4  # a region of this side in pixels is looked up in P4


@record
class RegionsOfInterest(TensorRecord):
    """What the criterion and the selection have to know of predictions that come from regions; rows behind an image's last region are padding.

    Attributes:
        boxes_xyxy: (B, Q, 4) the regions in pixels.
        padding: (B, Q) bool, True for rows that hold no region.
        deltas: (B, Q, K, 4) from the region to the box for each class.
        anchor_logits: (B, A) whether each anchor lies on an object.
        anchor_deltas: (B, A, 4) from each anchor to its object.
        anchors_xyxy: (A, 4) in pixels.
        image_sizes: (B, 2) width and height in pixels of each image without its padding.
    """

    boxes_xyxy: Tensor
    padding: Tensor
    deltas: Tensor
    anchor_logits: Tensor
    anchor_deltas: Tensor
    anchors_xyxy: Tensor
    image_sizes: Tensor


@record
class RegionOutput(Output):
    """Predictions of regions; the boxes are those of each region's most probable class.

    Attributes:
        regions: where they come from.
    """

    regions: RegionsOfInterest | None = None


def side_by_side(regions: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Regions (N, 4) of several images as (B, Q, 4) with zeros at the end, and (B, Q) bool, True where they are."""
    count = max(len(each) for each in regions)
    boxes = torch.stack([torch.cat([each, each.new_zeros(count - len(each), 4)]) for each in regions])
    numbers = torch.tensor([len(each) for each in regions], device=boxes.device)
    return boxes, torch.arange(count, device=boxes.device) >= numbers[:, None]


def region_features(levels: tuple[Tensor, ...], strides: tuple[int, ...], boxes_xyxy: Tensor) -> Tensor:
    """(B, Q, C, 7, 7) features of regions, each from the level that suits its size.

    Args:
        levels: (B, C, h, w), P2 and coarser.
        strides: pixels per cell of each level.
        boxes_xyxy: (B, Q, 4) in pixels.
    """
    from torchvision.ops import roi_align  # not above: only this paper needs it

    batch, count = boxes_xyxy.shape[:2]
    boxes = boxes_xyxy.flatten(0, 1)
    images = torch.arange(batch, device=boxes.device).repeat_interleave(count)
    sides = area_xyxy(boxes).clamp(min=0).sqrt()
    wanted = torch.floor(_USUAL_LEVEL + torch.log2(sides / _USUAL_SIDE + 1e-8))
    place = wanted.clamp(2, 1 + len(levels)).long() - 2
    features = at_least_float32(levels[0]).new_zeros(len(boxes), levels[0].shape[1], CELLS, CELLS)
    with torch.autocast(boxes.device.type, enabled=False):
        for index, (level, stride) in enumerate(zip(levels, strides, strict=True)):
            rows = (place == index).nonzero()[:, 0]
            values = at_least_float32(level)
            given = torch.cat([images[rows, None].to(values), boxes[rows].to(values)], dim=1)
            found = roi_align(values, given, (CELLS, CELLS), spatial_scale=1 / stride, sampling_ratio=0, aligned=True)
            features = features.index_put((rows,), found)
    return torch.unflatten(features, 0, (batch, count))


def region_code(boxes_xyxy: Tensor, image_sizes: Tensor, *, width: int) -> Tensor:
    """(B, Q, width) sine codes of centre, size and corners of regions.

    Args:
        boxes_xyxy: (B, Q, 4) in pixels.
        image_sizes: (B, 2) width and height in pixels.
        width: of the code; a multiple of 16.
    """
    relative = boxes_xyxy / image_sizes.to(boxes_xyxy).repeat(1, 2)[:, None]
    values = torch.cat([xyxy_to_cxcywh(relative), relative], dim=-1)  # (B, Q, 8)
    return sine_code(values * (2 * math.pi), channels=width // 8).flatten(-2)
