"""Multi-head attention (Vaswani et al. 2017, section 3.2) on PyTorch's fused kernel, which never builds the full matrix of weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.dropout import dropout


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, heads: int, mask: Tensor | None = None, drop: float = 0.0
) -> Tensor:
    """softmax(q kᵀ / √d) v in each head, over vectors that are projected already.

    Args:
        query: (B, Q, E).
        key: (B, S, E); E may be wider than the values' width (papers that compare content and place side by side).
        value: (B, S, D).
        heads: number of heads; head i takes the i-th of `heads` equal slices of the last axis.
        mask: broadcastable to (B, heads, Q, S): bool, True where a key may be seen, or a float that is added to the scores.
        drop: probability of dropping an attention weight.

    Returns:
        (B, Q, D).
    """
    query, key, value = (torch.unflatten(part, -1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(query.dtype)  # fused kernels take no other
    if drop > 0 and query.device.type == "cpu":  # the fused kernel has no dropout there, and its way around is slow
        found = _attend_with_dropout(query, key, value, mask, drop)
    else:
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=drop)
    return found.transpose(1, 2).flatten(2)  # (B, heads, Q, D / heads) to (B, Q, D)


def _attend_with_dropout(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, drop: float) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, heads, Q, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return dropout(scores.softmax(-1), drop) @ value


class MultiHeadAttention(nn.Module):
    """Attention with its four projections.

    The projections of query, key and value are the rows of one matrix, as in `torch.nn.MultiheadAttention`: where query and key are the
    same tensor they are one product, and Xavier initialisation sees one matrix, as in the authors' code.

    Args:
        width: D of queries, keys, values and the result.
        heads: number of heads; divides `width`.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, *, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.heads, self.dropout = width, heads, dropout
        self.projection_weight = nn.Parameter(torch.empty(3 * width, width))  # rows: query, key, value
        self.projection_bias = nn.Parameter(torch.zeros(3 * width))
        self.output = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.projection_weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None = None, score_bias: Tensor | None = None
    ) -> Tensor:
        """Attention from every query to every key.

        Args:
            query: (B, Q, D).
            key: (B, S, D); the same object as `query` in self-attention saves a product.
            value: (B, S, D).
            padding: (B, S) bool, True for keys that must not be seen.
            score_bias: (B, heads, Q, S), added to the scores; or bool that broadcasts to it, True where a key may be seen.

        Returns:
            (B, Q, D).
        """
        width = self.width
        if query is key:
            weight, bias = self.projection_weight[: 2 * width], self.projection_bias[: 2 * width]
            projected_query, projected_key = F.linear(query, weight, bias).chunk(2, dim=-1)
        else:
            projected_query = F.linear(query, self.projection_weight[:width], self.projection_bias[:width])
            weight, bias = self.projection_weight[width : 2 * width], self.projection_bias[width : 2 * width]
            projected_key = F.linear(key, weight, bias)
        projected_value = F.linear(value, self.projection_weight[2 * width :], self.projection_bias[2 * width :])
        found = attend(
            projected_query,
            projected_key,
            projected_value,
            heads=self.heads,
            mask=score_bias if padding is None else masked(score_bias, ~padding[:, None, None, :]),
            drop=self.dropout if self.training else 0.0,
        )
        return self.output(found)  # type: ignore[no-any-return]


def masked(score_bias: Tensor | None, seen: Tensor) -> Tensor:
    """Both in one: what `attend` takes as its mask.

    Args:
        score_bias: (B, heads, Q, S) floats, bool as below, or None.
        seen: bool that broadcasts with it, True where a key may be seen.
    """
    if score_bias is None:
        return seen
    return score_bias & seen if score_bias.dtype == torch.bool else score_bias.masked_fill(~seen, -torch.inf)
