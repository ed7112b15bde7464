"""How boxes lie to each other, told to the attention among them (Hou et al. 2024, Relation DETR, arXiv:2407.11699, section 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detrkit.layers.heads import precisely


class BoxRelation(nn.Module):
    """A number for each head and each pair of boxes, which attention adds to the pair's score.

    Two queries that found the same object have the same box; that attention sees it makes it sooner learned that one of them must give
    way. A pair is described by the distance of the centres in sides of the first box and by the ratios of the sides, both as logarithms,
    in sines and cosines of several frequencies; a linear layer makes of that one number for each head (without a bias, which a softmax
    would not see). It begins at zero, with attention as it is without.

    The authors have other frequencies, cut off negative numbers, relate the boxes before a layer to those after it, let gradients through
    them, and leave out the first layer. Here a layer's references are related to themselves.

    Args:
        heads: M.
        frequencies: from π / 8, each twice the one before.
    """

    smallest_side = 1e-4  # of an image; logarithms end there

    def __init__(self, *, heads: int, frequencies: int = 8) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.projection = nn.Linear(2 * 4 * frequencies, heads, bias=False)
        self.reset()

    def reset(self) -> None:
        """Boxes mean nothing yet."""
        nn.init.zeros_(self.projection.weight)

    def forward(self, boxes_cxcywh: Tensor) -> Tensor:
        """(B, Q, 4) boxes in [0, 1] to (B, M, Q, Q): rows are the first boxes of pairs, those that look; float32 or better."""
        angles = self.angles(boxes_cxcywh)
        codes = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (B, Q, Q, 4, 2 · frequencies)
        found = precisely(self.projection, codes.flatten(-2)).permute(0, 3, 1, 2)
        return found.contiguous()  # fused attention on a GPU takes no other layout of the last axis

    def angles(self, boxes_cxcywh: Tensor) -> Tensor:
        """(B, Q, Q, 4, frequencies): x and y of the distance, then the ratios of width and height."""
        centers, sides = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:].clamp(min=self.smallest_side)
        first = sides[:, :, None]
        distances = torch.log((centers[:, :, None] - centers[:, None]).abs() / first + 1)
        ratios = torch.log(first / sides[:, None])
        exponents = torch.arange(self.frequencies, dtype=sides.dtype, device=sides.device) - 3
        return torch.cat([distances, ratios], dim=-1)[..., None] * (math.pi * 2.0**exponents)
