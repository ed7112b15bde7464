"""Row-column attention: the sum that it takes, slice by slice, and the attention over all cells that it is equal to."""

from __future__ import annotations

import pytest
import torch
from support import kept_tensors
from torch import Tensor

from detrkit.layers import row_column_attention
from detrkit.layers.attention import merge_heads, split_heads
from detrkit.layers.row_column_attention import RowColumnAttention, sum_rows_and_columns
from detrkit.structures import Memory

HEIGHT, WIDTH, QUERIES, HEADS, DEPTH = 3, 5, 7, 2, 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights_and_value() -> tuple[Tensor, Tensor, Tensor]:
    columns, rows = (random(2, HEADS, QUERIES, size, seed=size).softmax(-1) for size in (WIDTH, HEIGHT))
    return columns, rows, random(2, HEADS, HEIGHT, WIDTH, DEPTH)


def written_out(columns: Tensor, rows: Tensor, value: Tensor) -> Tensor:
    return torch.einsum("bmqx,bmqy,bmyxd->bmqd", columns, rows, value)


@pytest.mark.parametrize("size", [1, 2 * HEADS * HEIGHT * DEPTH * 2, 2**21], ids=["one", "two", "all"])
def test_slices_of_any_size_give_the_same(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_column_attention, "SLICE", size)
    inputs = [each.requires_grad_() for each in weights_and_value()]
    upstream = random(2, HEADS, QUERIES, DEPTH, seed=9)
    found, wanted = sum_rows_and_columns(*inputs), written_out(*inputs)
    torch.testing.assert_close(found, wanted)
    for own, other in zip(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(wanted, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(own, other)


def test_gradients_are_those_of_finite_differences() -> None:
    inputs = tuple(each.requires_grad_() for each in weights_and_value())
    assert torch.autograd.gradcheck(sum_rows_and_columns, inputs)


def test_the_backward_pass_keeps_nothing_between_columns_and_rows() -> None:
    columns, rows, value = (each.requires_grad_() for each in weights_and_value())
    between = 2 * HEADS * QUERIES * HEIGHT * DEPTH
    assert max(each.numel() for each in kept_tensors(sum_rows_and_columns, columns, rows, value)) < between


def test_weights_have_the_values_type_under_mixed_precision() -> None:
    columns, rows, value = (each.float() for each in weights_and_value())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sum_rows_and_columns(columns, rows, value.bfloat16())
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), written_out(columns, rows, value), atol=0.03, rtol=0.03)


def memory_of(*, padded: bool) -> Memory:
    padding = None
    if padded:
        inside = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
        inside[0, :2, :4] = inside[1] = True
        padding = ~inside.flatten(1)
    return Memory.of(
        tokens=random(2, HEIGHT * WIDTH, HEADS * DEPTH, seed=1),
        positions=codes(),
        padding=padding,
        level_sizes=((HEIGHT, WIDTH),),
        image_sizes=torch.ones(2, 2),
    )


def codes() -> Tensor:
    """Codes of columns, the same in every row, then of rows, the same in every column."""
    columns = random(2, 1, WIDTH, HEADS * DEPTH, seed=2).expand(-1, HEIGHT, -1, -1)
    rows = random(2, HEIGHT, 1, HEADS * DEPTH, seed=3).expand(-1, -1, WIDTH, -1)
    return torch.cat([columns, rows], dim=-1).flatten(1, 2)


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_it_is_attention_to_all_cells_by_the_sum_of_two_scores(padded: bool) -> None:
    torch.manual_seed(0)
    attention = RowColumnAttention(width=HEADS * DEPTH, attention_heads=HEADS, dropout=0.0).double()
    memory = memory_of(padded=padded)
    column_query, row_query = random(2, QUERIES, HEADS * DEPTH, seed=4), random(2, QUERIES, HEADS * DEPTH, seed=5)
    cells, positions = (each.unflatten(1, (HEIGHT, WIDTH)) for each in (memory.tokens, memory.positions))
    of_columns, of_rows = positions.chunk(2, dim=-1)
    # The authors project every cell and average afterwards.
    column_keys = attention.column_key(cells + of_columns).mean(1, keepdim=True).expand(-1, HEIGHT, -1, -1)
    row_keys = attention.row_key(cells + of_rows).mean(2, keepdim=True).expand(-1, -1, WIDTH, -1)
    scores = sum(
        split_heads(query, HEADS) @ split_heads(keys.flatten(1, 2), HEADS).mT / DEPTH**0.5
        for query, keys in (
            (attention.column_query(column_query), column_keys),
            (attention.row_query(row_query), row_keys),
        )
    )
    if padded:
        scores = scores.masked_fill(memory.padding[:, None, None], -torch.inf)
    weights = scores.softmax(-1)
    torch.testing.assert_close(attention.weights(column_query, row_query, memory), weights)
    value = split_heads(attention.value(memory.tokens), HEADS)
    wanted = attention.output(merge_heads(weights @ value))
    torch.testing.assert_close(attention(column_query, row_query, memory), wanted)


def test_weights_of_columns_and_rows_are_dropped_in_training_only() -> None:
    torch.manual_seed(0)
    attention = RowColumnAttention(width=HEADS * DEPTH, attention_heads=HEADS, dropout=0.5).double()
    memory, query = memory_of(padded=False), random(2, QUERIES, HEADS * DEPTH, seed=4)
    assert not torch.equal(attention(query, query, memory), attention(query, query, memory))
    attention.eval()
    assert torch.equal(attention(query, query, memory), attention(query, query, memory))
