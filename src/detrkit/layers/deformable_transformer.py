"""Encoder and decoder layers whose attention samples a few learned points of every level (Deformable DETR, section 4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detrkit.layers.attention import MultiHeadAttention
from detrkit.layers.deformable_attention import multi_scale_deformable_attention
from detrkit.layers.dropout import Dropout
from detrkit.layers.precision import at_least_float32
from detrkit.layers.transformer import FeedForward
from detrkit.structures import Memory


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention with its projections (section 4.1, equation 3).

    Args:
        width: D.
        heads: M.
        levels: feature levels.
        points: sampling points of each head on each level.
    """

    def __init__(self, *, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)  # rows: heads, levels, points, (x, y)
        self.weights = nn.Linear(width, heads * levels * points)
        self.values, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.reset()

    def reset(self) -> None:
        """Head m looks in direction 2 π m / M, its k-th point k cells away, all levels alike (appendix A.4)."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)  # onto the sides of a square
        steps = torch.arange(1, self.points + 1)
        start = directions[:, None, None] * steps[:, None]  # (M, 1, points, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(start.expand(-1, self.levels, -1, -1).flatten())
        for layer in (self.values, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for values in (self.offsets.weight, self.weights.weight, self.weights.bias):
            nn.init.zeros_(values)

    def forward(self, query: Tensor, references: Tensor, memory: Memory) -> Tensor:
        """Attention from every query to its sampling points.

        Args:
            query: (B, Q, D).
            references: (B, Q, levels, 2 or 4) points or boxes as fractions of each level's map, padding included.
            memory: what to look at; its tokens are the values, and those behind padding count as zero.

        Returns:
            (B, Q, D).
        """
        return self.attend(query, references, self.project(memory), memory)

    def project(self, memory: Memory) -> Tensor:
        """The values of all heads, (B, S, M, D / M), laid out head by head, as sampling likes to read them."""
        values = self.values(memory.tokens)
        if memory.padding is not None:
            values = values.masked_fill(memory.padding[..., None], 0.0)  # after the projection: its bias goes, too
        return torch.unflatten(values, -1, (self.heads, -1)).transpose(1, 2).contiguous().transpose(1, 2)

    def attend(self, query: Tensor, references: Tensor, values: Tensor, memory: Memory) -> Tensor:
        """`forward` over values that are projected already."""
        weights = torch.unflatten(self.weights(query), -1, (self.heads, -1)).softmax(-1)
        found = multi_scale_deformable_attention(
            values,
            memory.level_sizes,
            self.locations(query, references, memory),
            torch.unflatten(weights, -1, (self.levels, -1)),  # (B, Q, M, levels, points)
        )
        return self.output(found)  # type: ignore[no-any-return]

    def locations(self, query: Tensor, references: Tensor, memory: Memory) -> Tensor:
        """Where each head looks, (B, Q, M, levels, points, 2) as fractions of each level's map, float32 or better.

        Around a point an offset counts in cells; around a box in halves of its sides, divided by the number of points.
        """
        with torch.autocast(query.device.type, enabled=False):  # mixed precision ends where coordinates begin
            query = query.to(self.offsets.weight.dtype)
            # Spread over the points before they meet the offsets of all heads: rows of two numbers would be slow to add.
            centers = references[:, :, None, :, None, :2].expand(-1, -1, -1, -1, self.points, -1).contiguous()
            if references.shape[-1] == 2:
                return centers + self._offsets(query, memory.sizes().to(query.dtype).reciprocal())
            halves = references[:, :, None, :, None, 2:] * 0.5
            return centers + self._offsets(query) / self.points * halves

    def _offsets(self, query: Tensor, scale: Tensor | None = None) -> Tensor:
        """(B, Q, M, levels, points, 2), times a scale (levels, 2) if given: of the few weights, not of the many results."""
        weight: Tensor = self.offsets.weight
        bias: Tensor = self.offsets.bias
        shape = (self.heads, self.levels, self.points, 2)
        if scale is not None:
            factors = scale[:, None].expand(shape).flatten()
            weight, bias = weight * factors[:, None], bias * factors
        return torch.unflatten(at_least_float32(nn.functional.linear(query, weight, bias)), -1, shape)


class DeformableEncoderLayer(nn.Module):
    """Every token of every level looks at points around itself, then a feed-forward network."""

    # Without gradients a CPU updates tokens in pieces of so many: what lies between then stays in its cache, and little memory is asked for.
    piece = 2048

    def __init__(self, *, width: int, heads: int, levels: int, points: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = DeformableAttention(width=width, heads=heads, levels=levels, points=points)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(width=width, hidden=hidden, dropout=dropout)

    def forward(self, memory: Memory, positions: Tensor, references: Tensor) -> Tensor:
        """New tokens, (B, S, D).

        Args:
            memory: the tokens so far.
            positions: (B, S, D), added to queries but not to values.
            references: (B, S, levels, 2), where each token lies.
        """
        values = self.attention.project(memory)

        def update(tokens: Tensor, positions: Tensor, references: Tensor) -> Tensor:
            attended = self.attention.attend(tokens + positions, references, values, memory)
            return self.feed_forward(self.norm(tokens + self.dropout(attended)))  # type: ignore[no-any-return]

        whole = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if whole or positions.device.type != "cpu":
            return update(memory.tokens, positions, references)
        parts = (torch.split(part, self.piece, dim=1) for part in (memory.tokens, positions, references))
        return torch.cat([update(*pieces) for pieces in zip(*parts, strict=True)], dim=1)


class DeformableDecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to memory, then a feed-forward network."""

    def __init__(self, *, width: int, heads: int, levels: int, points: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(width=width, heads=heads, dropout=dropout)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = DeformableAttention(width=width, heads=heads, levels=levels, points=points)
        self.cross_norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(width=width, hidden=hidden, dropout=dropout)

    def forward(
        self, content: Tensor, position: Tensor, references: Tensor, memory: Memory, score_bias: Tensor | None = None
    ) -> Tensor:
        """New content, (B, Q, D).

        Args:
            content: (B, Q, D) what the queries carry.
            position: (B, Q, D), added to queries (and to keys among queries) but not to values.
            references: (B, Q, levels, 2 or 4), where each query looks.
            memory: the encoded image.
            score_bias: (B, heads, Q, Q), added to the scores among queries; or (B, 1, Q, Q) bool, True where a query (row) may see another.
        """
        placed = content + position
        content = self.self_norm(
            content + self.dropout(self.self_attention(placed, placed, content, score_bias=score_bias))
        )
        attended = self.cross_attention(content + position, references, memory)
        content = self.cross_norm(content + self.dropout(attended))
        return self.feed_forward(content)  # type: ignore[no-any-return]
