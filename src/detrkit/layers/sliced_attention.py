"""Attention with dropout on a CPU, slice by slice, which never holds the weights of all heads and queries.

Written out, softmax(q kᵀ / √d) is B · heads · Q · S numbers, and training would store three tensors of that size in every layer: the weights, which of
them were dropped, and the weights that remain. Here a slice is computed, used and discarded, and the backward pass computes it a second time, as FlashAttention
does on a GPU (Dao et al. 2022, arXiv:2205.14135, section 3.1). Slices fit into a CPU's cache, so this takes no longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from detrkit.layers.dropout import draw_kept

# Number of weights in one slice; 4 MB in float32.
SLICE = 2**20


def attend_in_slices(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, drop: float) -> Tensor:
    """`dropout(softmax(q kᵀ / √d)) v` with gradients for all tensors, but no second derivatives.

    Args:
        query: (B, heads, Q, d).
        key: (B, heads, S, d).
        value: (B, heads, S, dᵥ).
        mask: broadcastable to (B, heads, Q, S): bool, True where a key may be seen, or a float that is added to the scores.
        drop: probability of dropping an attention weight, in [0, 1).

    Returns:
        (B, heads, Q, dᵥ).
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (part.to(dtype) if part.dtype == torch.float32 else part for part in (query, key, value))
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]  # four axes, each of full size or 1
    # Forward and backward pass draw the same numbers, whatever is drawn in between.
    seed = int(torch.randint(2**32, ()))
    return _SlicedAttention.apply(query, key, value, mask, drop, seed)  # type: ignore[no-any-return]


class _SlicedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, drop: float, seed: int
    ) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        result = value.new_empty((*query.shape[:3], value.shape[-1]))
        with torch.autocast("cpu", enabled=False):
            for image, heads, rows in _slices(query, key):
                weights = _weights(query[image, heads, rows], key[image, heads], _part(mask, image, heads, rows))
                weights.mul_(draw_kept(weights.shape, drop, generator))
                result[image, heads, rows] = weights.to(value.dtype) @ value[image, heads]
        result.mul_(1 / (1 - drop))
        ctx.save_for_backward(query, key, value, mask, result)
        ctx.drop, ctx.seed = drop, seed
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, result = ctx.saved_tensors
        generator = torch.Generator().manual_seed(ctx.seed)
        scale = 1 / (1 - ctx.drop)
        root = query.shape[-1] ** -0.5
        # The softmax's gradient is w (g - Σ w g). With and without dropout, a row's Σ w g is its result times the result's gradient.
        precise = _precise(query.dtype)
        means = (result.to(precise) * gradient.to(precise)).sum(-1, keepdim=True)  # (B, heads, Q, 1)
        query_gradient = torch.empty_like(query)
        key_gradient, value_gradient = (torch.zeros(part.shape, dtype=precise) for part in (key, value))
        mask_gradient = torch.zeros_like(mask) if ctx.needs_input_grad[3] else None
        for image, heads, rows in _slices(query, key):
            part = query[image, heads, rows], key[image, heads]
            weights = _weights(*part, _part(mask, image, heads, rows))
            kept = draw_kept(weights.shape, ctx.drop, generator)
            upstream = gradient[image, heads, rows] * scale  # (heads, rows, dᵥ)
            scores_gradient = (upstream @ value[image, heads].transpose(-1, -2)).to(precise).mul_(kept)
            scores_gradient.sub_(means[image, heads, rows]).mul_(weights)
            value_gradient[image, heads] += weights.mul_(kept).to(value.dtype).transpose(-1, -2) @ upstream
            if mask_gradient is not None:
                target = _part(mask_gradient, image, heads, rows)
                assert target is not None
                target += scores_gradient.sum_to_size(target.shape)
            scores_gradient = scores_gradient.to(query.dtype)
            query_gradient[image, heads, rows] = (scores_gradient @ part[1]) * root
            key_gradient[image, heads] += scores_gradient.transpose(-1, -2) @ (part[0] * root)
        return query_gradient, key_gradient.to(key.dtype), value_gradient.to(value.dtype), mask_gradient, None, None


def _slices(query: Tensor, key: Tensor) -> Iterator[tuple[int, slice, slice]]:
    """Image, heads and queries of every slice: as many whole heads as fit, or else as many queries of one head as fit."""
    images, attention_heads, queries, _ = query.shape
    rows = min(queries, max(1, SLICE // key.shape[2]))
    heads = max(1, SLICE // (queries * key.shape[2]))
    for image in range(images):
        for head in range(0, attention_heads, heads):
            for row in range(0, queries, rows):
                yield image, slice(head, head + heads), slice(row, row + rows)


def _part(mask: Tensor | None, image: int, heads: slice, rows: slice) -> Tensor | None:
    """The part of a mask with four axes that belongs to a slice: a view that broadcasts to (heads, rows, S)."""
    if mask is None:
        return None
    everything = slice(None)
    return mask[
        image if mask.shape[0] > 1 else 0,
        heads if mask.shape[1] > 1 else everything,
        rows if mask.shape[2] > 1 else everything,
    ]


def _weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """A slice's weights, (heads, rows, S) in float32 or better."""
    scores = ((query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)).to(_precise(query.dtype))
    if mask is not None:
        scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
    return torch.softmax(scores, -1)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
