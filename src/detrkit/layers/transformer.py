"""Encoder and decoder layers of a transformer for detection: position codes are added in every layer, norms follow the residual connections."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detrkit.layers.activated_linear import activated_linear
from detrkit.layers.attention import MultiHeadAttention, padding_mask
from detrkit.layers.dropout import Dropout, relu_dropout
from detrkit.structures import Memory


def add_position(tokens: Tensor, position: Tensor | None) -> Tensor:
    """Tokens or queries with their position codes, (B, N, D); the tokens themselves where there are no codes."""
    return tokens if position is None else tokens + position


class FeedForward(nn.Module):
    """Two linear layers with an activation in between, a residual connection and a norm: norm(x + W₂ relu(W₁ x)).

    Args:
        width: D of the tokens.
        hidden: width between the two layers.
        dropout: probability, after the activation and before the residual.
        activation: applied between the two layers; None is a ReLU that shares one kernel with its dropout.
    """

    # With at least this many tokens per image, training computes the hidden layer again in the backward pass instead of keeping it. This
    # costs a twentieth of a step's time and saves a sixth of its memory.
    recompute_from = 8192

    def __init__(self, *, width: int, hidden: int, dropout: float, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.activation = activation
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
        hidden = self.expand(tokens)  # (B, S, hidden)
        if self.activation is None:
            hidden = relu_dropout(hidden, self.dropout.probability if self.training else 0.0)
        elif self.dropout.probability == 0:
            return activated_linear(hidden, self.activation, self.contract)
        else:
            hidden = self.dropout(self.activation(hidden))
        return self.contract(hidden)  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Self-attention among the tokens of memory, then a feed-forward network.

    Args:
        width: D.
        attention_heads: number of heads; divides `width`.
        hidden: width between the two layers of the feed-forward network.
        dropout: probability, everywhere in the layer.
        activation: see `FeedForward`.
    """

    def __init__(
        self, *, width: int, attention_heads: int, hidden: int, dropout: float, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(width=width, attention_heads=attention_heads, dropout=dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(width=width, hidden=hidden, dropout=dropout, activation=activation)

    def forward(self, tokens: Tensor, positions: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """One round of attention.

        Args:
            tokens: (B, S, D).
            positions: (B, S, D), added to queries and keys but not to values; None adds nothing.
            mask: broadcastable to (B, heads, S, S): bool, True where a token may be seen, or a float that is added to the scores.

        Returns:
            (B, S, D).
        """
        query = add_position(tokens, positions)
        attended = self.attention(query, query, tokens, mask)
        return self.feed_forward(self.norm(tokens + self.dropout(attended)))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Encoder layers, one after the other."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, memory: Memory) -> Memory:
        """Memory with encoded tokens; everything else is unchanged."""
        tokens, mask = memory.tokens, padding_mask(memory.padding)
        for layer in self.layers:
            tokens = layer(tokens, memory.positions, mask)
        return dataclasses.replace(memory, tokens=tokens)


class DecoderLayer(nn.Module):
    """Self-attention among queries, cross-attention from queries to memory, then a feed-forward network."""

    def __init__(self, *, width: int, attention_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(width=width, attention_heads=attention_heads, dropout=dropout)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = MultiHeadAttention(width=width, attention_heads=attention_heads, dropout=dropout)
        self.cross_norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(width=width, hidden=hidden, dropout=dropout)

    def forward(
        self,
        content: Tensor,
        position: Tensor | None,
        memory: Memory,
        *,
        references: Tensor | None = None,  # noqa: ARG002 - for layers that look around references
        mask: Tensor | None = None,
    ) -> Tensor:
        """One round of attention.

        Args:
            content: (B, Q, D) content of the queries.
            position: (B, Q, D), added to queries (and to keys among queries) but not to values; None adds nothing.
            memory: the encoded image.
            references: where each query looks; ignored, since this layer compares every query with the whole image.
            mask: for attention among queries, broadcastable to (B, heads, Q, Q): bool, True where a query (row) may see another, or a float that is
                added to the scores.

        Returns:
            (B, Q, D).
        """
        query = add_position(content, position)
        attended = self.self_attention(query, query, content, mask)
        content = self.self_norm(content + self.dropout(attended))
        keys = add_position(memory.tokens, memory.positions)
        attended = self.cross_attention(
            add_position(content, position), keys, memory.tokens, padding_mask(memory.padding)
        )
        content = self.cross_norm(content + self.dropout(attended))
        return self.feed_forward(content)  # type: ignore[no-any-return]
