"""Deformable attention on the CPU without numba: every head of every query is a bag of weighted cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from detrkit.layers.precision import at_least_float32


def deformable_attention_bags(
    values: Tensor, level_sizes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor
) -> Tensor:
    """`multi_scale_deformable_attention` on the CPU, in float32 or float64; half precision is computed in float32.

    `embedding_bag` adds up the weighted rows. The gradient of the rows is computed as a product with a transposed sparse matrix of the same
    weights, since the backward pass of `embedding_bag` sorts the rows first, which takes longer than everything else. The sample at a NaN or
    infinite location is 0.
    """
    precise = at_least_float32(values).contiguous()
    batch, cells, heads, channels = precise.shape
    rows, shares = _corners(level_sizes, locations.to(precise.dtype), cells)
    _, queries, _, levels, points = weights.shape
    bags_shape = (batch * queries * heads, 4 * levels * points)
    rows = rows.reshape(bags_shape)
    shares = (shares * weights.to(precise.dtype)[..., None]).reshape(bags_shape)
    table = precise.view(-1, channels)
    sums = F.embedding_bag(rows, table.detach(), mode="sum", per_sample_weights=shares)
    sums = _WithGradientOfTable.apply(sums, table, rows, shares.detach())
    result: Tensor = sums.view(batch, queries, heads * channels).to(values.dtype)
    return result


def _corners(level_sizes: tuple[tuple[int, int], ...], locations: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """The four cells around each location: their rows in the table of all heads' cells, and their bilinear shares.

    Args:
        level_sizes: (height, width) of each level.
        locations: (B, Q, M, L, K, 2).
        cells: S.

    Returns:
        rows (B, Q, M, L, K, 4), int32, and shares of the same shape, 0 outside the map.
    """
    batch, _, heads, _, _, _ = locations.shape
    sizes = torch.tensor([(width, height) for height, width in level_sizes], dtype=torch.int32)[:, None]  # (L, 1, 2)
    starts = torch.tensor([0, *(height * width for height, width in level_sizes)][:-1], dtype=torch.int32).cumsum(0)
    pixels = locations * sizes - 0.5
    inside = ((pixels > -1) & (pixels < sizes)).all(-1, keepdim=True)
    pixels = torch.where(inside, pixels, -2.0)  # neither of the two cells at -2 exists
    near = pixels.detach().floor()
    far_share = pixels - near
    near = near.int()
    near_share = (1 - far_share) * (near >= 0)
    far_share = far_share * ((near >= -1) & (near + 1 < sizes))
    left, top = near.clamp(min=0).unbind(-1)
    right, bottom = torch.minimum((near + 1).clamp(min=0), sizes - 1).unbind(-1)
    width = sizes[..., 0]
    image_start = (torch.arange(batch, dtype=torch.int32) * cells)[:, None, None, None, None]
    start = image_start + starts[:, None].int()
    top, bottom = top * width + start, bottom * width + start
    rows = torch.stack([top + left, top + right, bottom + left, bottom + right], -1)
    rows = rows * heads + torch.arange(heads, dtype=torch.int32)[:, None, None, None]
    (left_share, upper_share), (right_share, lower_share) = near_share.unbind(-1), far_share.unbind(-1)
    shares = [upper_share * left_share, upper_share * right_share, lower_share * left_share, lower_share * right_share]
    return rows, torch.stack(shares, -1)


class _WithGradientOfTable(torch.autograd.Function):
    """Returns the bags unchanged; in the backward pass, also gives a gradient to the table whose rows they sum."""

    @staticmethod
    def forward(ctx: Any, bags: Tensor, table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(rows, shares)
        ctx.length = len(table)
        return bags.view_as(bags)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows, shares = ctx.saved_tensors
        bags, size = rows.shape
        ends = np.arange(bags + 1) * size
        matrix = csr_array((shares.numpy().ravel(), rows.numpy().ravel(), ends), shape=(bags, ctx.length))
        return gradient, torch.from_numpy(matrix.T @ gradient.contiguous().numpy()), None, None
