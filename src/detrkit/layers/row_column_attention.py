"""Row-column decoupled attention (Anchor DETR, section 3.4), without a large tensor between columns and rows.

A query weighs the w columns and the h rows of a map apart; a cell's weight is the product of the two. The weighted sum over columns gives a
result for every query and row, Q · h · d numbers, which is what this attention would have to keep. Here a slice of the queries is
computed, used and discarded, and the backward pass computes it a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from detrkit.layers.attention import attention_weights, merge_heads, split_heads
from detrkit.layers.dropout import dropout
from detrkit.structures import Memory

# Numbers in the intermediate result of one slice: 8 MB in float32 on a CPU, whose caches they have to fit; other devices want fewer, larger slices.
SLICE, SLICE_ELSEWHERE = 2**21, 2**26


class RowColumnAttention(nn.Module):
    """Row-column decoupled attention (section 3.4): the weight of a cell is that of its column times that of its row.

    The keys of columns are averages over the rows, and the other way round. They take in what lies behind padding, as in the authors' code,
    whose weights expect it; averages over the image alone would be sound.

    Args:
        width: D.
        attention_heads: M.
        dropout: probability of dropping a weight of a column or a row in training.
    """

    value: nn.Linear

    def __init__(self, *, width: int, attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_heads, self.dropout = attention_heads, dropout
        names = ("column_query", "row_query", "column_key", "row_key", "value")
        start = nn.init.xavier_uniform_(torch.empty(len(names) * width, width))  # one matrix in the authors' code
        for name, rows in zip(names, start.chunk(len(names)), strict=True):
            projection = nn.Linear(width, width)
            projection.weight.data.copy_(rows)
            nn.init.zeros_(projection.bias)
            setattr(self, name, projection)
        self.output = nn.Linear(width, width)
        nn.init.zeros_(self.output.bias)

    def forward(self, column_query: Tensor, row_query: Tensor, memory: Memory) -> Tensor:
        """Attention from every query to every cell.

        Args:
            column_query: (B, Q, D), what is compared with columns.
            row_query: (B, Q, D), what is compared with rows.
            memory: one level, with codes of its columns and rows side by side, (B, S, 2 D).

        Returns:
            (B, Q, D).
        """
        column_weights, row_weights = self._line_weights(column_query, row_query, memory)
        if self.training and self.dropout > 0:
            column_weights, row_weights = (dropout(each, self.dropout) for each in (column_weights, row_weights))
        value = split_heads(self.value(memory.tokens), self.attention_heads)  # (B, M, S, D / M)
        value = torch.unflatten(value, 2, memory.level_sizes[0])
        return self.output(merge_heads(sum_rows_and_columns(column_weights, row_weights, value)))  # type: ignore[no-any-return]

    def weights(self, column_query: Tensor, row_query: Tensor, memory: Memory) -> Tensor:
        """(B, M, Q, S) attention weights; arguments as in `forward`."""
        column_weights, row_weights = self._line_weights(column_query, row_query, memory)
        return (row_weights[..., :, None] * column_weights[..., None, :]).flatten(3)

    def _line_weights(self, column_query: Tensor, row_query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """(B, M, Q, w) and (B, M, Q, h)."""
        cells = torch.unflatten(memory.tokens, 1, memory.level_sizes[0])  # (B, h, w, D)
        column_codes, row_codes = line_codes(memory)
        padding = memory.padding_maps()[0]
        weights = []
        for name, query, keys, line_padding in (
            ("column", column_query, cells.mean(1) + column_codes, None if padding is None else padding[:, 0]),
            ("row", row_query, cells.mean(2) + row_codes, None if padding is None else padding[:, :, 0]),
        ):
            query = split_heads(getattr(self, f"{name}_query")(query), self.attention_heads)
            keys = split_heads(getattr(self, f"{name}_key")(keys), self.attention_heads)
            mask = None if line_padding is None else ~line_padding[:, None, None]
            weights.append(attention_weights(query, keys, mask=mask))
        return weights[0], weights[1]


def line_codes(memory: Memory) -> tuple[Tensor, Tensor]:
    """The codes of the columns (B, w, D) and of the rows (B, h, D) in memory's positions."""
    assert memory.positions is not None
    of_columns, of_rows = torch.unflatten(memory.positions, 1, memory.level_sizes[0]).chunk(2, dim=-1)
    return of_columns[:, 0], of_rows[:, :, 0]


def sum_rows_and_columns(column_weights: Tensor, row_weights: Tensor, value: Tensor) -> Tensor:
    """Σ over rows y of `row_weights[q, y]` Σ over columns x of `column_weights[q, x] value[y, x]`; it has no second derivatives.

    Args:
        column_weights: (B, M, Q, w).
        row_weights: (B, M, Q, h).
        value: (B, M, h, w, d).

    Returns:
        (B, M, Q, d) in the type of `value`.
    """
    # (B, M, w, h · d): the sum over columns is one product for all rows.
    columns = value.transpose(2, 3).flatten(3)
    weights = (column_weights.to(value.dtype), row_weights.to(value.dtype))
    if torch.compiler.is_compiling():
        return _sum_slice(*weights, columns)
    return _SlicedSum.apply(*weights, columns)  # type: ignore[no-any-return]


class _SlicedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, column_weights: Tensor, row_weights: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(column_weights, row_weights, columns)
        slices = _slices(column_weights, columns)
        with torch.autocast(columns.device.type, enabled=False):
            parts = [_sum_slice(column_weights[:, :, rows], row_weights[:, :, rows], columns) for rows in slices]
        return torch.cat(parts, dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        column_weights, row_weights, columns = ctx.saved_tensors
        column_gradient, row_gradient = torch.empty_like(column_weights), torch.empty_like(row_weights)
        columns_gradient = torch.zeros_like(columns)
        height = row_weights.shape[-1]
        for rows in _slices(column_weights, columns):
            weights, upstream = column_weights[:, :, rows], gradient[:, :, rows, None]  # (B, M, q, w), (B, M, q, 1, d)
            of_rows = (weights @ columns).unflatten(-1, (height, -1))  # (B, M, q, h, d)
            row_gradient[:, :, rows] = (of_rows * upstream).sum(-1)
            spread = (row_weights[:, :, rows, :, None] * upstream).flatten(3)  # (B, M, q, h · d)
            column_gradient[:, :, rows] = spread @ columns.mT
            columns_gradient += weights.mT @ spread
        return column_gradient, row_gradient, columns_gradient


def _sum_slice(column_weights: Tensor, row_weights: Tensor, columns: Tensor) -> Tensor:
    """(B, M, q, w), (B, M, q, h) and (B, M, w, h · d) to (B, M, q, d)."""
    of_rows = torch.unflatten(column_weights @ columns, -1, (row_weights.shape[-1], -1))  # (B, M, q, h, d)
    return (row_weights[..., None, :] @ of_rows)[..., 0, :]


def _slices(column_weights: Tensor, columns: Tensor) -> Iterator[slice]:
    """Queries of every slice."""
    images, attention_heads, queries, _ = column_weights.shape
    size = SLICE if columns.device.type == "cpu" else SLICE_ELSEWHERE
    step = max(1, size // (images * attention_heads * columns.shape[-1]))
    for start in range(0, queries, step):
        yield slice(start, start + step)
