"""The region proposal network (Ren et al. 2015, arXiv:1506.01497) on a feature pyramid, as TSP-RCNN uses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.box_coding import moved_boxes
from detrkit.layers.heads import precisely
from detrkit.layers.shared_batch_norm import SharedBatchNorm2d

DELTA_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
# Sides of square anchors in pixels, three for each level from P3 on, as the authors' script lists them.
SIDES = (
    (32.0, 40.32, 51.8),
    (64.0, 80.63, 101.59),
    (128.0, 161.27, 203.19),
    (256.0, 322.54, 406.37),
    (512.0, 645.08, 812.75),
)
RATIOS = (0.5, 1.0, 2.0)  # height by width
_DEPTH = 2  # convolutions of each branch


@dataclass(frozen=True)
class AnchorPredictions:
    """What the network says of every anchor; A is the number of anchors of all levels.

    Attributes:
        logits: (B, A), whether there is an object.
        deltas: (B, A, 4), how far its box is from the anchor.
        anchors_xyxy: (A, 4) in pixels.
        counts: number of anchors of each level.
    """

    logits: Tensor
    deltas: Tensor
    anchors_xyxy: Tensor
    counts: tuple[int, ...]


class Anchors(nn.Module):
    """Boxes of several sizes and shapes around the corner of every cell."""

    def __init__(self) -> None:
        super().__init__()
        for level, sides in enumerate(SIDES):
            shapes = [(side / ratio**0.5, side * ratio**0.5) for side in sides for ratio in RATIOS]
            corners = [(-width / 2, -height / 2, width / 2, height / 2) for width, height in shapes]
            self.register_buffer(f"level{level}", torch.tensor(corners))

    def forward(self, level_sizes: Sequence[tuple[int, int]], strides: Sequence[int]) -> tuple[Tensor, ...]:
        """(h · w · 9, 4) corners in pixels for each level, cell by cell, of levels with these sizes (h, w) and strides."""
        found = []
        for level, ((height, width), stride) in enumerate(zip(level_sizes, strides, strict=True)):
            around = self.get_buffer(f"level{level}")
            y, x = torch.meshgrid(
                *(torch.arange(side, device=around.device, dtype=around.dtype) * stride for side in (height, width)),
                indexing="ij",
            )
            places = torch.stack([x, y, x, y], dim=-1).flatten(0, 1)  # (h * w, 4)
            found.append((places[:, None] + around).flatten(0, 1))
        return tuple(found)


class _Branch(nn.Module):
    """Convolutions that all levels share, with norms of each level's own, then a 1 x 1 convolution."""

    def __init__(self, *, width: int, levels: int, outputs: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, kernel_size=3, padding=1) for _ in range(_DEPTH))
        self.norms = nn.ModuleList(
            nn.ModuleList(SharedBatchNorm2d(width) for _ in range(_DEPTH)) for _ in range(levels)
        )
        self.output = nn.Conv2d(width, outputs, kernel_size=1)
        for convolution in (*self.convolutions, self.output):
            nn.init.normal_(convolution.weight, std=0.01)
            nn.init.zeros_(convolution.bias)

    def forward(self, values: Tensor, level: int) -> Tensor:
        """(B, width, h, w) of a level to (B, outputs, h, w)."""
        norms: nn.ModuleList = self.norms[level]  # type: ignore[assignment]
        for convolution, norm in zip(self.convolutions, norms, strict=True):
            values = F.relu(norm(convolution(values)))
        return precisely(self.output, values)


class RegionProposals(nn.Module):
    """Says for every anchor whether it lies on an object, and where the object's sides are.

    Args:
        width: channels of the levels.
        strides: pixels per cell of each level.
    """

    def __init__(self, *, width: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.anchors, self.strides = Anchors(), strides
        per_cell = len(SIDES[0]) * len(RATIOS)
        self.objectness = _Branch(width=width, levels=len(strides), outputs=per_cell)
        self.boxes = _Branch(width=width, levels=len(strides), outputs=4 * per_cell)

    def forward(self, levels: tuple[Tensor, ...]) -> AnchorPredictions:
        """Predictions for the anchors of all levels (B, width, h, w)."""
        logits, deltas = [], []
        for index, level in enumerate(levels):
            logits.append(self.objectness(level, index).permute(0, 2, 3, 1).flatten(1))
            of_level = torch.unflatten(self.boxes(level, index), 1, (-1, 4))  # (B, 9, 4, h, w)
            deltas.append(of_level.permute(0, 3, 4, 1, 2).flatten(1, 3))
        anchors = self.anchors([(level.shape[-2], level.shape[-1]) for level in levels], self.strides)
        return AnchorPredictions(
            torch.cat(logits, dim=1),
            torch.cat(deltas, dim=1),
            torch.cat(anchors).to(logits[0]),
            tuple(len(each) for each in anchors),
        )


@torch.no_grad()
def proposed_regions(
    predictions: AnchorPredictions, image_sizes: Tensor, *, before: int, after: int, overlap: float
) -> list[Tensor]:
    """The best boxes of each image that repeat no better one of their level.

    Args:
        predictions: of all anchors.
        image_sizes: (B, 2) width and height in pixels; boxes are cut off there.
        before: how many of each level compete.
        after: how many remain at most.
        overlap: IoU above which a box repeats a better one.

    Returns:
        (N, 4) corners in pixels for each image, best first; the whole image where nothing remains.
    """
    from torchvision.ops import batched_nms  # not above: only this paper needs it

    boxes = moved_boxes(predictions.anchors_xyxy, predictions.deltas, DELTA_WEIGHTS)  # (B, A, 4)
    chosen, levels, first = [], [], 0
    for level, count in enumerate(predictions.counts):
        best = predictions.logits[:, first : first + count].topk(min(before, count), dim=1).indices
        chosen.append(best + first)
        levels.append(torch.full_like(best[0], level))
        first += count
    rows, level_of = torch.cat(chosen, dim=1), torch.cat(levels)
    found = []
    for image, size in enumerate(image_sizes.to(boxes)):
        corners, scores = boxes[image, rows[image]], predictions.logits[image, rows[image]]
        whole = torch.cat([torch.zeros_like(size), size])
        corners = torch.minimum(corners.clamp(min=0), size.repeat(2))
        there = (corners[:, 2:] > corners[:, :2]).all(-1)
        corners, scores = corners[there], scores[there]
        kept = batched_nms(corners, scores, level_of[there], overlap)[:after]
        found.append(corners[kept] if len(kept) else whole[None])
    return found
