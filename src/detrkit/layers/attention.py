"""Multi-head attention (Vaswani et al. 2017, section 3.2) on PyTorch's fused kernel, which never builds the full matrix of weights.

Masks mean the same everywhere: bool, True where a key may be seen, or floats that are added to the scores; they broadcast to (B, heads, Q, S).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.dropout import dropout
from detrkit.layers.sliced_attention import attend_in_slices

# A batch with at least this many attention weights is computed in slices if there is dropout on a CPU; for fewer weights, slices save
# little memory and no time.
SLICED_FROM = 2**21


def attend_heads(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, drop: float = 0.0) -> Tensor:
    """softmax(q kᵀ / √d) v in each head, over heads that are already split, for example with one key for all heads: `key[:, None].expand(-1, heads, -1, -1)`.

    Args:
        query: (B, heads, Q, d).
        key: (B, heads, S, d).
        value: (B, heads, S, dᵥ).
        mask: broadcastable to (B, heads, Q, S): bool, True where a key may be seen, or a float that is added to the scores.
        drop: probability of dropping an attention weight.

    Returns:
        (B, heads, Q, dᵥ).
    """
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(query.dtype)  # fused kernels accept no other type
    if drop > 0 and query.device.type == "cpu":  # the fused kernel has no dropout there, and PyTorch's fallback is slow
        weights = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
        if weights >= SLICED_FROM and drop < 1 and not torch.compiler.is_compiling():
            return attend_in_slices(query, key, value, mask=mask, drop=drop)
        return dropout(attention_weights(query, key, mask=mask), drop) @ value
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=drop)
    width = value.shape[-1]
    if 0 < query.shape[-1] - width <= width:  # here the fused kernel requires equal widths
        value = F.pad(value, (0, query.shape[-1] - width))
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)[..., :width]
    return attended if mask is not None else attended + _nan_of(query.detach(), key.detach())


def _nan_of(query: Tensor, key: Tensor) -> Tensor:
    """(B, heads, Q, 1): NaN where a query or any key is NaN, else 0. Without a mask, the CPU's fused kernel makes zeros of NaN, which hides damaged weights."""
    return 0 * query.amax(-1, keepdim=True) + 0 * key.amax((-2, -1), keepdim=True)


def attention_weights(query: Tensor, key: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d) written out, over heads that are already split; explanations show these weights.

    Args:
        query: (B, heads, Q, d).
        key: (B, heads, S, d).
        mask: broadcastable to (B, heads, Q, S): bool, True where a key may be seen, or a float that is added to the scores.

    Returns:
        (B, heads, Q, S); each row sums to 1.
    """
    scores: Tensor = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def split_heads(tokens: Tensor, attention_heads: int) -> Tensor:
    """(B, N, E) to (B, heads, N, E / heads): head i gets the i-th slice of the last axis."""
    return torch.unflatten(tokens, -1, (attention_heads, -1)).transpose(1, 2)


def merge_heads(heads: Tensor) -> Tensor:
    """(B, heads, N, d) to (B, N, heads · d), the reverse of `split_heads`."""
    return heads.transpose(1, 2).flatten(2)


def side_by_side(content: Tensor, position: Tensor, attention_heads: int) -> Tensor:
    """Content and position side by side in each head, so that scores are sums of two products (Conditional DETR, section 3.3).

    Args:
        content: (B, N, D).
        position: (B, N, D).
        attention_heads: number of heads; divides D.

    Returns:
        (B, N, 2 D): for each head its content, then its position.
    """
    halves = [torch.unflatten(part, -1, (attention_heads, -1)) for part in (content, position)]
    return torch.cat(halves, dim=-1).flatten(2)


def combine_masks(mask: Tensor | None, visible: Tensor | None) -> Tensor | None:
    """One mask that has the effect of both.

    Args:
        mask: floats that are added to the scores, or bool, True where a key may be seen; None changes nothing.
        visible: bool that broadcasts with `mask`, True where a key may be seen; None where all keys may be seen.
    """
    if mask is None or visible is None:
        return visible if mask is None else mask
    return mask & visible if mask.dtype == torch.bool else mask.masked_fill(~visible, -torch.inf)


def padding_mask(padding: Tensor | None) -> Tensor | None:
    """The mask that hides padded keys from every query: (B, S) bool, True where padded, to (B, 1, 1, S) bool, or None where nothing is padded."""
    return None if padding is None else ~padding[:, None, None, :]


class MultiHeadAttention(nn.Module):
    """Attention with its four projections.

    The projections of query, key and value are the rows of one matrix, as in `torch.nn.MultiheadAttention`: where query and key are the
    same tensor, both take one product, and Xavier initialisation sees one matrix, as in the authors' code.

    Args:
        width: D of queries, keys, values and the result.
        attention_heads: number of heads; divides `width`.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, *, width: int, attention_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.attention_heads, self.dropout = width, attention_heads, dropout
        self.projection_weight = nn.Parameter(torch.empty(3 * width, width))  # rows: query, key, value
        self.projection_bias = nn.Parameter(torch.zeros(3 * width))
        self.output = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.projection_weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention from every query to every key.

        Args:
            query: (B, Q, D).
            key: (B, S, D); passing the same object as `query`, in self-attention, saves a product.
            value: (B, S, D).
            mask: broadcastable to (B, heads, Q, S): bool, True where a key may be seen, or a float that is added to the scores.

        Returns:
            (B, Q, D).
        """
        query_heads, key_heads = self._query_and_key(query, key)
        value = F.linear(value, self.projection_weight[2 * self.width :], self.projection_bias[2 * self.width :])
        attended = attend_heads(
            query_heads,
            key_heads,
            split_heads(value, self.attention_heads),
            mask=mask,
            drop=self.dropout if self.training else 0.0,
        )
        return self.output(merge_heads(attended))  # type: ignore[no-any-return]

    def weights(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002 - as `forward`
        """How much every query looks at every key, (B, heads, Q, S), without dropout; arguments as in `forward`."""
        return attention_weights(*self._query_and_key(query, key), mask=mask)

    def _query_and_key(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Projected and split, (B, heads, Q, d) and (B, heads, S, d)."""
        width, weight, bias = self.width, self.projection_weight, self.projection_bias
        if query is key:
            both = F.linear(query, weight[: 2 * width], bias[: 2 * width])
            query, key = both.chunk(2, dim=-1)
        else:
            query = F.linear(query, weight[:width], bias[:width])
            key = F.linear(key, weight[width : 2 * width], bias[width : 2 * width])
        return split_heads(query, self.attention_heads), split_heads(key, self.attention_heads)
