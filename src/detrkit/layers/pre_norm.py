"""A transformer encoder whose norms come before attention and feed-forward network, so that the residual path has none (TSP, section 4)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from detrkit.layers.attention import MultiHeadAttention, padding_mask
from detrkit.layers.dropout import Dropout, relu_dropout


class PreNormEncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + W₂ relu(W₁ norm(x)).

    Args:
        width: D.
        attention_heads: number of heads; divides `width`.
        hidden: width between the two layers of the feed-forward network.
        dropout: probability, everywhere in the layer.
    """

    def __init__(self, *, width: int, attention_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(width=width, attention_heads=attention_heads, dropout=dropout)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """One round of attention.

        Args:
            tokens: (B, S, D).
            positions: (B, S, D), added to queries and keys but not to values.
            mask: broadcastable to (B, heads, S, S), bool, True where a token may be seen.

        Returns:
            (B, S, D).
        """
        normed = self.attention_norm(tokens)
        query = normed + positions
        tokens = tokens + self.dropout(self.attention(query, query, normed, mask))
        hidden = relu_dropout(
            self.expand(self.feed_forward_norm(tokens)), self.dropout.probability if self.training else 0.0
        )
        return tokens + self.dropout(self.contract(hidden))  # type: ignore[no-any-return]

    def weights(self, tokens: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, heads, S, S) attention weights, without dropout; arguments as in `forward`."""
        normed = self.attention_norm(tokens)
        query = normed + positions
        return self.attention.weights(query, query, normed, mask)


class PreNormEncoder(nn.Module):
    """Layers one after the other, and a norm after the last.

    Args:
        layers: how many.
        width: D.
        attention_heads: see `PreNormEncoderLayer`.
        hidden: likewise.
        dropout: likewise.
    """

    def __init__(self, *, layers: int, width: int, attention_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        sizes = {"width": width, "attention_heads": attention_heads, "hidden": hidden, "dropout": dropout}
        self.layers = nn.ModuleList(PreNormEncoderLayer(**sizes) for _ in range(layers))  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, tokens: Tensor, positions: Tensor, padding: Tensor | None = None) -> Tensor:
        """Encoded tokens, normed.

        Args:
            tokens: (B, S, D).
            positions: (B, S, D) codes that every layer adds to queries and keys.
            padding: (B, S) bool, True for rows that hold no token; None where all do.

        Returns:
            (B, S, D).
        """
        mask = padding_mask(padding)
        for layer in self.layers:
            tokens = layer(tokens, positions, mask)
        return self.norm(tokens)  # type: ignore[no-any-return]

    @torch.no_grad()
    def attention_maps(self, tokens: Tensor, positions: Tensor, padding: Tensor | None = None) -> Tensor:
        """(B, layers, heads, S, S), how much each token looks at every other in each layer; arguments as in `forward`."""
        mask, maps = padding_mask(padding), []
        for layer in self.layers:
            maps.append(cast(PreNormEncoderLayer, layer).weights(tokens, positions, mask))
            tokens = layer(tokens, positions, mask)
        return torch.stack(maps, dim=1)


def attention_sparsity(weights: Tensor) -> Tensor:
    """Negative entropy of attention maps, a mean over their queries (TSP, section 3.2): 0 is a single key, -log S is all keys alike.

    Args:
        weights: (..., Q, S), rows of sum 1.

    Returns:
        (...,).
    """
    return -torch.special.entr(weights).sum(-1).mean(-1)  # type: ignore[no-any-return]
