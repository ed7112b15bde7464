"""How boxes lie relative to each other, as a bias for the attention among them (Hou et al. 2024, Relation DETR, arXiv:2407.11699, section 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detrkit.layers.precision import at_least_float32

LOWEST = math.pi / 8  # the lowest frequency


class BoxRelation(nn.Module):
    """A number for each head and each pair of boxes, which attention adds to the pair's score.

    Two queries that detect the same object have the same box. Attention that sees this learns sooner that one of them must give way. A pair is
    described by the distance of the centres, in sides of the first box, and by the ratios of the sides, both as logarithms, in sines and
    cosines of several frequencies. A linear layer turns these into one number for each head (without a bias, which a softmax would
    ignore). It starts at zero, so that attention starts as it is without it.

    The authors have other frequencies, cut off negative numbers, relate the boxes before a layer to those after it, let gradients through
    them, and leave out the first layer. Here a layer's references are related to themselves.

    The sines and cosines take 32 times the space of a head's scores, so they never exist for all pairs at once. Those of ratios need no pairs
    at all: the sine of a difference of logarithms is made of sines and cosines of each box. Those of distances are made for some rows at a
    time, and once more in the backward pass.

    Args:
        attention_heads: M.
        frequencies: how many, from π / 8, each twice the one before.
    """

    smallest_side = 1e-4  # of an image; smaller sides count as this, since their logarithms have no limit
    pairs_at_once = 2**16  # in all images together: 8 MB of sines and cosines of distances in float32

    def __init__(self, *, attention_heads: int, frequencies: int = 8) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.projection = nn.Linear(2 * 4 * frequencies, attention_heads, bias=False)
        self.reset()

    def reset(self) -> None:
        """Boxes mean nothing yet."""
        nn.init.zeros_(self.projection.weight)

    def forward(self, boxes_cxcywh: Tensor) -> Tensor:
        """The bias of every pair.

        Args:
            boxes_cxcywh: (B, Q, 4) in [0, 1]. Gradients flow to them where they ask for any.

        Returns:
            (B, M, Q, Q), contiguous, float32 or better: a row is the first box of its pairs, the one that looks.
        """
        with torch.autocast(boxes_cxcywh.device.type, enabled=False):
            weight = at_least_float32(self.projection.weight)
            boxes = boxes_cxcywh.to(weight.dtype)
            centers, sides = boxes[..., :2].mT, boxes[..., 2:].mT.clamp(min=self.smallest_side)  # (B, 2, Q) each
            # The columns of the matrix: x, y, width, height, and for each all sines, then all cosines.
            of_distances, of_ratios = weight.chunk(2, dim=1)  # (M, 4 F) each
            return self._distances(centers, sides, of_distances) + ratio_bias(sides, of_ratios)

    def _distances(self, centers: Tensor, sides: Tensor, weight: Tensor) -> Tensor:
        """`distance_bias` of all rows, some at a time: (B, M, Q, Q)."""
        batch, _, count = centers.shape
        # An exported graph has to be the same for every number of boxes.
        whole = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        rows = count if whole else max(1, self.pairs_at_once // max(1, batch * count))
        if rows >= count:
            return distance_bias(centers, sides, centers, weight)
        slices = zip(torch.split(centers, rows, dim=2), torch.split(sides, rows, dim=2), strict=True)
        parts = [
            checkpoint(distance_bias, *part, centers, weight, use_reentrant=False, preserve_rng_state=False)
            for part in slices
        ]
        return torch.cat(parts, dim=2)


def distance_bias(first_centers: Tensor, first_sides: Tensor, second_centers: Tensor, weight: Tensor) -> Tensor:
    """What the distance of the centres, log(|difference| / side of the first + 1), adds to each pair.

    Args:
        first_centers: (B, 2, R) x and y of the boxes that look.
        first_sides: (B, 2, R) their width and height, above 0.
        second_centers: (B, 2, Q) of the boxes that they look at.
        weight: (M, 4 F), for x and y each F sines, then F cosines.

    Returns:
        (B, M, R, Q).
    """
    gaps = (first_centers[..., None] - second_centers[:, :, None]).abs()  # (B, 2, R, Q)
    codes = octaves(torch.log(gaps / first_sides[..., None] + 1) * LOWEST, weight.shape[1] // 4)  # (B, 2, 2 F, R, Q)
    summed = torch.bmm(weight.expand(codes.shape[0], -1, -1), codes.flatten(3).flatten(1, 2))  # (B, M, R * Q)
    return torch.unflatten(summed, -1, gaps.shape[2:])


def ratio_bias(sides: Tensor, weight: Tensor) -> Tensor:
    """What the ratio of the sides, log(side of the first / side of the second), adds to each pair.

    sin(a - b) = sin a cos b - cos a sin b and cos(a - b) = cos a cos b + sin a sin b, so the sum over all frequencies is a product of two
    matrices with one row for each box.

    Args:
        sides: (B, 2, Q) width and height of the boxes, above 0.
        weight: (M, 4 F), for width and height each F sines, then F cosines.

    Returns:
        (B, M, Q, Q).
    """
    codes = octaves(sides.log() * LOWEST, weight.shape[1] // 4)  # (B, 2, 2 F, Q)
    sines, cosines = codes[:, None].chunk(2, dim=3)  # (B, 1, 2, F, Q) each
    of_sines, of_cosines = torch.unflatten(weight, 1, (2, -1))[..., None].chunk(2, dim=2)  # (M, 2, F, 1) each
    by_sine = of_sines * cosines + of_cosines * sines  # (B, M, 2, F, Q), of the second box
    by_cosine = of_cosines * cosines - of_sines * sines
    second = torch.cat([by_sine, by_cosine], dim=3).flatten(2, 3)  # (B, M, 4 F, Q)
    return codes.flatten(1, 2).mT[:, None] @ second


def octaves(angles: Tensor, count: int) -> Tensor:
    """Sines and cosines of angles and of their multiples by 2, 4, 8 and so on.

    sin 2a = 2 sin a cos a and cos 2a = 1 - 2 sin² a give most of them. Each doubling also doubles the error, so every fourth is computed anew; that
    is as exact as computing all of them, since the angle itself is rounded.

    Args:
        angles: (B, 2, ...).
        count: F, how many multiples, the angle itself included.

    Returns:
        (B, 2, 2 F, ...): F sines, then F cosines.
    """
    sines, cosines = [], []
    for octave in range(count):
        if octave % 4 == 0:
            multiple = angles * 2.0**octave
            sine, cosine = multiple.sin(), multiple.cos()
        else:
            sine, cosine = 2 * sine * cosine, 1 - 2 * sine * sine
        sines.append(sine)
        cosines.append(cosine)
    return torch.stack(sines + cosines, dim=2)
