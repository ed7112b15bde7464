"""Multi-scale deformable attention with its projections (Deformable DETR, section 4.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detrkit.layers.precision import at_least_float32
from detrkit.layers.sampling.operator import multi_scale_deformable_attention
from detrkit.structures import Memory


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention with its projections (section 4.1, equation 3).

    Args:
        width: D.
        attention_heads: M.
        levels: feature levels.
        points: sampling points of each head on each level.
    """

    def __init__(self, *, width: int, attention_heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.attention_heads, self.levels, self.points = attention_heads, levels, points
        self.offsets = nn.Linear(width, attention_heads * levels * points * 2)  # rows: heads, levels, points, (x, y)
        self.weights = nn.Linear(width, attention_heads * levels * points)
        self.values, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.reset()

    def reset(self) -> None:
        """Head m looks in direction 2 π m / M, its k-th point is k cells away, and all levels are alike (appendix A.4)."""
        angles = torch.arange(self.attention_heads) * (2 * math.pi / self.attention_heads)
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

    def forward(self, query: Tensor, references: Tensor, memory: Memory, values: Tensor | None = None) -> Tensor:
        """Attention from every query to its sampling points.

        Args:
            query: (B, Q, D).
            references: (B, Q, levels, 2 or 4) points or boxes as fractions of each level's map, padding included.
            memory: the tokens to look at, which become the values; those behind padding count as zero.
            values: `project(memory)`, for callers that attend to the same memory more than once; None projects here.

        Returns:
            (B, Q, D).
        """
        locations, weights = self.sampling(query, references, memory)
        attended = multi_scale_deformable_attention(
            self.project(memory) if values is None else values, memory.level_sizes, locations, weights
        )
        return self.output(attended)  # type: ignore[no-any-return]

    def sampling(
        self,
        query: Tensor,
        references: Tensor,
        memory: Memory,
        values: Tensor | None = None,  # noqa: ARG002 - as `forward`
    ) -> tuple[Tensor, Tensor]:
        """Where every query looks and how much each point counts; arguments as in `forward`.

        Returns:
            Locations (B, Q, M, levels, points, 2) as fractions of each level's map, float32 or better, and weights (B, Q, M, levels, points), which
            sum to 1 over a head's levels and points.
        """
        weights = torch.unflatten(self.weights(query), -1, (self.attention_heads, -1)).softmax(-1)
        return self.locations(query, references, memory), torch.unflatten(weights, -1, (self.levels, -1))

    def project(self, memory: Memory) -> Tensor:
        """The values of all heads, (B, S, M, D / M), stored head by head, which is how sampling reads them fastest."""
        values = self.values(memory.tokens)
        if memory.padding is not None:
            # After the projection, so that its bias is also zeroed.
            values = values.masked_fill(memory.padding[..., None], 0.0)
        return torch.unflatten(values, -1, (self.attention_heads, -1)).transpose(1, 2).contiguous().transpose(1, 2)

    def locations(self, query: Tensor, references: Tensor, memory: Memory) -> Tensor:
        """Where each head looks, (B, Q, M, levels, points, 2) as fractions of each level's map, float32 or better.

        Offsets from a point are in cells; offsets from a box are in halves of its sides, divided by the number of points.
        """
        with torch.autocast(query.device.type, enabled=False):  # mixed precision ends where coordinates begin
            query = query.to(self.offsets.weight.dtype)
            # Expanded over the points before the offsets of all heads are added: adding rows of two numbers would be slow.
            centers = references[:, :, None, :, None, :2].expand(-1, -1, -1, -1, self.points, -1).contiguous()
            if references.shape[-1] == 2:
                return centers + self._offsets(query, memory.sizes.to(query.dtype).reciprocal())
            halves = references[:, :, None, :, None, 2:] * 0.5
            return centers + self._offsets(query) / self.points * halves

    def _offsets(self, query: Tensor, scale: Tensor | None = None) -> Tensor:
        """(B, Q, M, levels, points, 2), times a scale (levels, 2) if given; the few weights are scaled instead of the many results."""
        weight: Tensor = self.offsets.weight
        bias: Tensor = self.offsets.bias
        shape = (self.attention_heads, self.levels, self.points, 2)
        if scale is not None:
            factors = scale[:, None].expand(shape).flatten()
            weight, bias = weight * factors[:, None], bias * factors
        return torch.unflatten(at_least_float32(nn.functional.linear(query, weight, bias)), -1, shape)
