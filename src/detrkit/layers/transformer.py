"""Encoder and decoder layers of a transformer for detection: position codes are added in every layer, norms come after the residual."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detrkit.layers.attention import MultiHeadAttention
from detrkit.layers.dropout import Dropout, relu_dropout
from detrkit.structures import Memory


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, residual and norm: norm(x + W₂ relu(W₁ x)).

    Args:
        width: D of the tokens.
        hidden: width between the two layers.
        dropout: probability, after the activation and before the residual.
    """

    # From so many tokens of an image on, training computes the hidden layer a second time for the backward pass instead of keeping it: a
    # twentieth of a step's time for a sixth of its memory.
    recompute_from = 8192

    def __init__(self, *, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, S, D) to (B, S, D)."""
        if self.training and torch.is_grad_enabled() and tokens.shape[1] >= self.recompute_from:
            changed = checkpoint(self._change, tokens, use_reentrant=False)
        else:
            changed = self._change(tokens)
        return self.norm(tokens + self.dropout(changed))  # type: ignore[no-any-return]

    def _change(self, tokens: Tensor) -> Tensor:
        hidden = relu_dropout(self.expand(tokens), self.dropout.probability if self.training else 0.0)  # (B, S, hidden)
        return self.contract(hidden)  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Self-attention among the tokens of memory, then a feed-forward network."""

    def __init__(self, *, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(width=width, heads=heads, dropout=dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(width=width, hidden=hidden, dropout=dropout)

    def forward(self, tokens: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        """One round of attention.

        Args:
            tokens: (B, S, D).
            positions: (B, S, D), added to queries and keys but not to values.
            padding: (B, S) bool, True for tokens that no one may look at, or None.

        Returns:
            (B, S, D).
        """
        placed = tokens + positions
        attended = self.attention(placed, placed, tokens, padding)
        return self.feed_forward(self.norm(tokens + self.dropout(attended)))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Encoder layers, one after the other."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, memory: Memory) -> Memory:
        """Memory with encoded tokens; everything else as it came."""
        tokens = memory.tokens
        for layer in self.layers:
            tokens = layer(tokens, memory.positions, memory.padding)
        return dataclasses.replace(memory, tokens=tokens)


class DecoderLayer(nn.Module):
    """Self-attention among queries, cross-attention from queries to memory, then a feed-forward network."""

    def __init__(self, *, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(width=width, heads=heads, dropout=dropout)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = MultiHeadAttention(width=width, heads=heads, dropout=dropout)
        self.cross_norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(width=width, hidden=hidden, dropout=dropout)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        memory: Memory,
        placed_memory: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """One round of attention.

        Args:
            content: (B, Q, D) what the queries carry.
            position: (B, Q, D), added to queries (and to keys among queries) but not to values.
            memory: the encoded image.
            placed_memory: (B, S, D) memory tokens plus their positions: the keys, the same for all layers.
            attention_mask: (B, Q, Q) bool, True where a query (row) may see another; None where all see all.

        Returns:
            (B, Q, D).
        """
        placed = content + position
        seen = None if attention_mask is None else attention_mask[:, None]
        attended = self.self_attention(placed, placed, content, score_bias=seen)
        content = self.self_norm(content + self.dropout(attended))
        attended = self.cross_attention(content + position, placed_memory, memory.tokens, memory.padding)
        content = self.cross_norm(content + self.dropout(attended))
        return self.feed_forward(content)  # type: ignore[no-any-return]
