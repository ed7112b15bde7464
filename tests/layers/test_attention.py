"""Attention against torch.nn.MultiheadAttention with the same weights, and against the formula written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detrkit.layers.attention import (
    MultiHeadAttention,
    attend_heads,
    combine_masks,
    merge_heads,
    padding_mask,
    side_by_side,
    split_heads,
)

WIDTH, HEADS = 12, 3


def attend(query: Tensor, key: Tensor, value: Tensor, *, attention_heads: int, **options: Any) -> Tensor:
    """Attention over vectors whose heads are not split yet."""
    heads = [split_heads(part, attention_heads) for part in (query, key, value)]
    return merge_heads(attend_heads(*heads, **options))


def pair_with_torch() -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
    """Ours and torch's, with the same random weights and biases in float64."""
    ours = MultiHeadAttention(width=WIDTH, attention_heads=HEADS).double()
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64)
    nn.init.normal_(ours.projection_bias)
    nn.init.normal_(ours.output.bias)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.projection_weight)
        theirs.in_proj_bias.copy_(ours.projection_bias)
        theirs.out_proj.weight.copy_(ours.output.weight)
        theirs.out_proj.bias.copy_(ours.output.bias)
    return ours, theirs


def inputs(*, self_attention: bool) -> tuple[Tensor, Tensor, Tensor]:
    query = torch.randn(2, 5, WIDTH, dtype=torch.float64, requires_grad=True)
    key = query if self_attention else torch.randn(2, 7, WIDTH, dtype=torch.float64, requires_grad=True)
    value = torch.randn(2, key.shape[1], WIDTH, dtype=torch.float64, requires_grad=True)
    return query, key, value


def some_padding(count: int) -> Tensor:
    padding = torch.zeros(2, count, dtype=torch.bool)
    padding[0, -1] = True
    padding[1, 1:4] = True
    return padding


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("self_attention", [False, True])
def test_values_and_gradients_equal_torch(self_attention: bool, padded: bool) -> None:
    ours, theirs = pair_with_torch()
    query, key, value = inputs(self_attention=self_attention)
    padding = some_padding(key.shape[1]) if padded else None
    weights = torch.randn(2, 5, WIDTH, dtype=torch.float64)

    found = ours(query, key, value, padding_mask(padding))
    wanted, _ = theirs(query, key, value, key_padding_mask=padding, need_weights=False)
    torch.testing.assert_close(found, wanted)

    found_gradients = torch.autograd.grad((found * weights).sum(), [query, key, value, *ours.parameters()])
    wanted_gradients = torch.autograd.grad((wanted * weights).sum(), [query, key, value, *theirs.parameters()])
    for one, other in zip(found_gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("padded", [False, True])
def test_bias_is_added_to_scores_as_torch_does_it(padded: bool) -> None:
    ours, theirs = pair_with_torch()
    query, key, value = inputs(self_attention=False)
    padding = some_padding(7) if padded else None
    bias = torch.randn(2, HEADS, 5, 7, dtype=torch.float64, requires_grad=True)
    found = ours(query, key, value, combine_masks(bias, padding_mask(padding)))
    mask = bias.flatten(0, 1) if padding is None else bias.masked_fill(padding[:, None, None], -torch.inf).flatten(0, 1)
    wanted, _ = theirs(query, key, value, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(found, wanted)
    (found_gradient,), (wanted_gradient,) = (torch.autograd.grad(each.sum(), [bias]) for each in (found, wanted))
    torch.testing.assert_close(found_gradient, wanted_gradient)


def test_bias_may_be_more_precise_than_the_rest() -> None:
    ours, _ = pair_with_torch()
    ours, (query, key, value) = ours.bfloat16(), (each.bfloat16() for each in inputs(self_attention=False))
    bias = torch.randn(2, HEADS, 5, 7)
    found = ours(query, key, value, bias)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found, ours(query, key, value, bias.bfloat16()))


def test_one_product_for_query_and_key_gives_the_same() -> None:
    ours, _ = pair_with_torch()
    query, _, value = inputs(self_attention=True)
    torch.testing.assert_close(ours(query, query, value), ours(query, query.clone(), value))


def test_what_padded_keys_hold_does_not_matter() -> None:
    ours, _ = pair_with_torch()
    query, key, value = inputs(self_attention=False)
    padding = some_padding(7)
    mask = padding_mask(padding)
    before = ours(query, key, value, mask)
    after = ours(query, key.masked_fill(padding[..., None], 1e6), value.masked_fill(padding[..., None], -1e6), mask)
    torch.testing.assert_close(before, after)
    assert not torch.allclose(before, ours(query, key, value))


def by_hand(query: Tensor, key: Tensor, value: Tensor, heads: int, added: Tensor) -> Tensor:
    """softmax(q kᵀ / √d + added) v, head by head; `added` is (B, heads, Q, S)."""
    found = []
    slices = zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True)
    for head, (one_query, one_key, one_value) in enumerate(slices):
        scores = torch.einsum("bqe,bse->bqs", one_query, one_key) / math.sqrt(one_query.shape[-1]) + added[:, head]
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        found.append(torch.einsum("bqs,bsd->bqd", weights, one_value))
    return torch.cat(found, dim=-1)


def test_queries_and_keys_may_be_wider_than_values() -> None:
    query, key, value = (torch.randn(2, *size, dtype=torch.float64) for size in ((3, 16), (4, 16), (4, 6)))
    nothing = torch.zeros(2, 2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(attend(query, key, value, attention_heads=2), by_hand(query, key, value, 2, nothing))


def test_masks_add_to_the_scores_or_hide_keys() -> None:
    query, key, value = (torch.randn(2, count, 6, dtype=torch.float64) for count in (3, 4, 4))
    added = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(
        attend(query, key, value, attention_heads=2, mask=added), by_hand(query, key, value, 2, added)
    )

    seen = torch.tensor([[True, False, True, True], [False, True, True, False]])
    hidden = torch.where(seen, 0.0, -torch.inf).to(torch.float64)[:, None, None].expand(2, 2, 3, 4)
    found = attend(query, key, value, attention_heads=2, mask=seen[:, None, None])
    torch.testing.assert_close(found, by_hand(query, key, value, 2, hidden))


def test_masks_are_added_where_weights_are_dropped_too() -> None:
    query, key, value = (torch.randn(2, count, 6, dtype=torch.float64) for count in (3, 4, 4))
    added = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    found = attend(
        query, key, value, attention_heads=2, mask=added, drop=1e-12
    )  # nothing is dropped, but the other way is taken
    torch.testing.assert_close(found, by_hand(query, key, value, 2, added))


def test_one_key_serves_all_heads() -> None:
    query, key = torch.randn(2, 3, 5, 4, dtype=torch.float64), torch.randn(2, 1, 7, 4, dtype=torch.float64)
    value = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    weights = (torch.einsum("bhqd,bsd->bhqs", query, key[:, 0]) / 2).softmax(-1)
    found = attend_heads(query, key.expand(-1, 3, -1, -1), value)
    torch.testing.assert_close(found, torch.einsum("bhqs,bhsd->bhqd", weights, value))


def test_heads_are_slices_of_the_last_axis() -> None:
    tokens = torch.arange(12.0).view(1, 2, 6)
    heads = split_heads(tokens, 3)
    assert heads.tolist() == [[[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]]
    assert torch.equal(merge_heads(heads), tokens)


def test_each_head_has_its_content_and_its_place_side_by_side() -> None:
    content, place = torch.tensor([[[1.0, 2, 3, 4]]]), torch.tensor([[[5.0, 6, 7, 8]]])
    assert side_by_side(content, place, 2).tolist() == [[[1, 2, 5, 6, 3, 4, 7, 8]]]
    assert side_by_side(content, place, 4).tolist() == [[[1, 5, 2, 6, 3, 7, 4, 8]]]


def test_combined_masks_hide_what_either_hides() -> None:
    visible = torch.tensor([True, False, True])
    assert combine_masks(None, None) is None
    assert combine_masks(None, visible) is visible
    assert combine_masks(visible, None) is visible
    mask = torch.tensor([[True, True, False], [False, True, True]])
    combined = combine_masks(mask, visible)
    assert combined is not None
    assert combined.tolist() == [[True, False, False], [False, False, True]]
    combined = combine_masks(torch.tensor([1.0, 2.0, 3.0]), visible)
    assert combined is not None
    assert combined.tolist() == [1.0, -math.inf, 3.0]


@pytest.mark.parametrize("self_attention", [False, True])
def test_weights_are_those_that_values_are_summed_with(self_attention: bool) -> None:
    ours, theirs = pair_with_torch()
    query, key, value = inputs(self_attention=self_attention)
    padding = some_padding(key.shape[1])
    found = ours.weights(query, key, value, padding_mask(padding))
    _, wanted = theirs(query, key, value, key_padding_mask=padding, average_attn_weights=False)
    torch.testing.assert_close(found, wanted)


def test_dropout_takes_whole_weights_and_scales_the_rest() -> None:
    one = torch.ones(1, 1, 1)
    found = {attend(one, one, one, attention_heads=1, drop=0.75).item() for _ in range(50)}
    assert found == {0.0, 4.0}  # the only weight is 1, kept with probability 1/4


def test_dropout_acts_in_training_only() -> None:
    layer = MultiHeadAttention(width=WIDTH, attention_heads=HEADS, dropout=0.5).double()
    query, key, value = inputs(self_attention=False)
    assert not torch.allclose(layer(query, key, value), layer(query, key, value))
    layer.eval()
    layer_without = MultiHeadAttention(width=WIDTH, attention_heads=HEADS).double()
    layer_without.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(query, key, value), layer_without(query, key, value))


def test_initialisation_sees_one_matrix() -> None:
    layer = MultiHeadAttention(width=256, attention_heads=8)
    bound = math.sqrt(6 / (256 + 768))
    largest = layer.projection_weight.abs().max().item()
    assert 0.99 * bound < largest <= bound
    assert not layer.projection_bias.any()
    assert not layer.output.bias.any()


@pytest.mark.parametrize("value_width", [4, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nan_stays_nan(dtype: torch.dtype, masked: bool, value_width: int) -> None:
    """Of damaged weights; PyTorch's kernel for CPUs turns it into zeros where there is no mask."""
    query, key, value = (
        torch.randn(2, 2, count, width, dtype=dtype) for count, width in ((5, 4), (7, 4), (7, value_width))
    )
    mask = torch.ones(1, 1, 1, 7, dtype=torch.bool) if masked else None
    wanted = attend_heads(query, key, value, mask=mask)
    assert wanted.isfinite().all()
    damaged = query.clone()
    damaged[1, 0, 2, 3] = torch.nan
    found = attend_heads(damaged, key, value, mask=mask)
    expected = torch.zeros(found.shape, dtype=torch.bool)
    expected[1, 0, 2] = True
    assert torch.equal(found.isnan(), expected)
    torch.testing.assert_close(found[~expected], wanted[~expected])
    damaged = key.clone()
    damaged[0, 1, 4, 0] = torch.nan
    found = attend_heads(query, damaged, value, mask=mask)
    assert found[0, 1].isnan().all()
    assert found[1].isfinite().all()
    assert found[0, 0].isfinite().all()


def test_large_numbers_of_half_precision_are_not_taken_for_nan() -> None:
    large = torch.full((1, 1, 3, 4), 6e4, dtype=torch.bfloat16)
    assert attend_heads(large, -large, torch.ones(1, 1, 3, 4, dtype=torch.bfloat16)).isfinite().all()
