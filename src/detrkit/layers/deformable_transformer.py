"""Encoder and decoder layers whose attention samples a few learned points of every level (Deformable DETR, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detrkit.layers.attention import MultiHeadAttention
from detrkit.layers.deformable_attention import DeformableAttention
from detrkit.layers.dropout import Dropout
from detrkit.layers.transformer import FeedForward, add_position
from detrkit.structures import Memory


class DeformableEncoderLayer(nn.Module):
    """Every token of every level looks at points around itself, then a feed-forward network."""

    # Without gradients, a CPU updates this many tokens at a time: intermediate results then stay in its cache, and little memory is needed.
    piece = 2048

    def __init__(
        self, *, width: int, attention_heads: int, levels: int, points: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention = DeformableAttention(width=width, attention_heads=attention_heads, levels=levels, points=points)
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
            attended = self.attention(tokens + positions, references, memory, values)
            return self.feed_forward(self.norm(tokens + self.dropout(attended)))  # type: ignore[no-any-return]

        all_at_once = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if all_at_once or positions.device.type != "cpu":
            return update(memory.tokens, positions, references)
        parts = (torch.split(part, self.piece, dim=1) for part in (memory.tokens, positions, references))
        return torch.cat([update(*pieces) for pieces in zip(*parts, strict=True)], dim=1)


class DeformableDecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to memory, then a feed-forward network."""

    def __init__(
        self, *, width: int, attention_heads: int, levels: int, points: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(width=width, attention_heads=attention_heads, dropout=dropout)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = DeformableAttention(
            width=width, attention_heads=attention_heads, levels=levels, points=points
        )
        self.cross_norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(width=width, hidden=hidden, dropout=dropout)

    def forward(
        self,
        content: Tensor,
        position: Tensor | None,
        memory: Memory,
        *,
        references: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """New content, (B, Q, D).

        Args:
            content: (B, Q, D) content of the queries.
            position: (B, Q, D), added to queries (and to keys among queries) but not to values; None adds nothing.
            memory: the encoded image.
            references: (B, Q, levels, 2 or 4), where each query looks; this layer requires them.
            mask: for attention among queries, broadcastable to (B, heads, Q, Q): bool, True where a query (row) may see another, or a float that is
                added to the scores.
        """
        assert references is not None
        query = add_position(content, position)
        attended = self.self_attention(query, query, content, mask)
        content = self.self_norm(content + self.dropout(attended))
        attended = self.cross_attention(add_position(content, position), references, memory)
        content = self.cross_norm(content + self.dropout(attended))
        return self.feed_forward(content)  # type: ignore[no-any-return]
