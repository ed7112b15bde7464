"""Which object each cell of a feature pyramid is responsible for (FCOS: Tian et al. 2019, arXiv:1904.01355, section 3).

A cell may only be matched to an object whose centre region it lies in, and whose size belongs to the cell's level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrkit.boxes import area_xyxy, cxcywh_to_xyxy
from detrkit.structures import Target

CENTER_RADIUS = 1.5  # strides around an object's centre
# Distances in pixels from a cell to the furthest side of its object, for each level of the published model, both ends included.
REACHES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, float("inf")))


@dataclass(frozen=True)
class Cells:
    """The cells of all levels, row by row, level after level; S in all.

    Attributes:
        centers: (S, 2) x and y in pixels.
        strides: (S,) pixels per cell.
        levels: (S,) int64.
    """

    centers: Tensor
    strides: Tensor
    levels: Tensor

    @classmethod
    def of(cls, level_sizes: Sequence[tuple[int, int]], strides: Sequence[int], like: Tensor) -> Cells:
        """The cells of levels with these rows and columns.

        Args:
            level_sizes: (h, w) of each level.
            strides: pixels per cell of each level.
            like: gives device and type.
        """
        centers, sizes, levels = [], [], []
        for index, ((height, width), stride) in enumerate(zip(level_sizes, strides, strict=True)):
            rows, columns = (
                torch.arange(side, device=like.device, dtype=like.dtype) * stride + stride // 2
                for side in (height, width)
            )
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            centers.append(torch.stack([x, y], dim=-1).flatten(0, 1))  # (h * w, 2)
            sizes.append(torch.full_like(centers[-1][:, 0], stride))
            levels.append(torch.full_like(centers[-1][:, 0], index, dtype=torch.int64))
        return cls(torch.cat(centers), torch.cat(sizes), torch.cat(levels))


@dataclass(frozen=True)
class Assignment:
    """The object of each cell of each image.

    Attributes:
        objects: (B, S) int64, the index of the object in its image; -1 for none.
        distances: (B, S, 4) from the cell's centre to the object's left, top, right and bottom side in strides; 1 without an object.
        centerness: (B, S) in [0, 1], 1 in the middle of the object (equation 3); 1 without an object.
    """

    objects: Tensor
    distances: Tensor
    centerness: Tensor


@torch.no_grad()
def assign_cells(cells: Cells, targets: Sequence[Target], image_sizes: Tensor) -> Assignment:
    """For each cell, the smallest object among those that it may be matched to.

    Args:
        cells: those of all levels.
        targets: the objects of the B images.
        image_sizes: (B, 2) width and height in pixels of each image without its padding.
    """
    objects, distances = zip(
        *(_assign(cells, target, size) for target, size in zip(targets, image_sizes, strict=True)), strict=True
    )
    together = torch.stack(distances)  # (B, S, 4)
    return Assignment(torch.stack(objects), together, centerness_of(together))


def _assign(cells: Cells, target: Target, size: Tensor) -> tuple[Tensor, Tensor]:
    """(S,) objects and (S, 4) distances of one image."""
    boxes = cxcywh_to_xyxy(target.boxes_cxcywh.to(cells.centers)) * size.to(cells.centers).repeat(2)  # (N, 4) pixels
    if len(boxes) == 0:
        nothing = torch.full_like(cells.levels, -1)
        return nothing, cells.centers.new_ones(len(nothing), 4)
    distances = distances_to(boxes, cells.centers[:, None])  # (S, N, 4)
    middles, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, CENTER_RADIUS * cells.strides[:, None, None]
    low = torch.maximum(middles - radius, boxes[:, :2])
    high = torch.minimum(middles + radius, boxes[:, 2:])
    central = distances_to(torch.cat([low, high], dim=-1), cells.centers[:, None]).amin(-1) > 0  # (S, N)
    reaches = cells.centers.new_tensor(REACHES)[cells.levels]  # (S, 2)
    furthest = distances.amax(-1)
    fitting = (furthest >= reaches[:, :1]) & (furthest <= reaches[:, 1:])
    areas = area_xyxy(boxes).expand_as(furthest).masked_fill(~(central & fitting), torch.inf)
    smallest, chosen = areas.min(1)  # (S,)
    found = smallest.isfinite()
    own = distances.gather(1, chosen[:, None, None].expand(-1, 1, 4))[:, 0] / cells.strides[:, None]
    return chosen.masked_fill(~found, -1), own.masked_fill(~found[:, None], 1.0)


def distances_to(boxes_xyxy: Tensor, points: Tensor) -> Tensor:
    """Distances (..., 4) from points (..., 2) inwards to the left, top, right and bottom side of boxes (..., 4); negative outside."""
    return torch.cat([points - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points], dim=-1)


def centerness_of(distances: Tensor) -> Tensor:
    """√(min(l, r) / max(l, r) · min(t, b) / max(t, b)), (...,) of distances (..., 4) above 0."""
    first, second = distances[..., :2], distances[..., 2:]
    ratios = torch.minimum(first, second) / torch.maximum(first, second)
    return ratios.prod(-1).sqrt()


def generalized_iou_of_distances(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU (...,) of two boxes around one point, given by their distances (..., 4); 1 is added to both parts of the IoU, as FCOS does.

    Args:
        first: distances, not below 0.
        second: distances, above 0.
    """
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    overlap, hull = ((each[..., :2] + each[..., 2:]).prod(-1) for each in (low, high))
    union = sum((each[..., :2] + each[..., 2:]).prod(-1) for each in (first, second)) - overlap
    return (overlap + 1) / (union + 1) - (hull - union) / hull


def best_of_each(groups: Tensor, costs: Tensor, count: int) -> Tensor:
    """Which candidate has the least cost in its group: the matching of objects to candidates that belong to one object each.

    Args:
        groups: (P,) int64 in [0, count).
        costs: (P,).
        count: number of groups.

    Returns:
        (P,) bool, at most one of each group; of equal ones the first.
    """
    least = costs.new_full((count,), torch.inf).scatter_reduce(0, groups, costs, "amin")
    places = torch.arange(len(costs), device=costs.device)
    candidates = torch.where(costs <= least[groups], places, len(costs))
    first = places.new_full((count,), len(costs)).scatter_reduce(0, groups, candidates, "amin")
    return places == first[groups]
