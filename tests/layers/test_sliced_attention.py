"""Attention slice by slice against the formula written out with the same random numbers: results, gradients, precision, which path is taken."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detrkit.layers import attention, sliced_attention
from detrkit.layers.attention import attend_heads
from detrkit.layers.dropout import draw_kept
from detrkit.layers.sliced_attention import attend_in_slices

IMAGES, HEADS, QUERIES, KEYS = 2, 3, 5, 8
# Slices of some queries of one head, of one whole head, of two heads, of everything.
SLICES = [2 * KEYS, QUERIES * KEYS, 2 * QUERIES * KEYS, 1000]


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value; values have another width."""
    sizes = ((QUERIES, 4), (KEYS, 4), (KEYS, 6))
    query, key, value = (torch.randn(IMAGES, HEADS, *size, dtype=dtype).requires_grad_() for size in sizes)
    return query, key, value


def mask_of(kind: str) -> Tensor | None:
    """Every way that a mask may broadcast; no row is hidden as a whole."""
    if kind == "none":
        return None
    if kind == "padding":
        visible = torch.ones(IMAGES, 1, 1, KEYS, dtype=torch.bool)
        visible[1, ..., 5:] = False
        return visible
    if kind == "queries":
        return torch.ones(QUERIES, KEYS).tril(3) > 0
    shape = {"bias": (IMAGES, HEADS, QUERIES, KEYS), "shared bias": (1, HEADS, 1, KEYS)}[kind]
    return torch.randn(shape, dtype=torch.float64).requires_grad_()


def written_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, drop: float) -> Tensor:
    """The formula over whole matrices; the numbers of dropout follow each other in the order of the slices."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    generator = torch.Generator().manual_seed(int(torch.randint(2**32, ())))
    return scores.softmax(-1) * draw_kept(scores.shape, drop, generator) / (1 - drop) @ value


@pytest.mark.parametrize("size", SLICES)
@pytest.mark.parametrize("kind", ["none", "padding", "queries", "bias", "shared bias"])
def test_slices_equal_whole_matrices(monkeypatch: pytest.MonkeyPatch, kind: str, size: int) -> None:
    monkeypatch.setattr(sliced_attention, "SLICE", size)
    query, key, value = inputs()
    mask = mask_of(kind)
    learned = [query, key, value] + ([mask] if mask is not None and mask.requires_grad else [])
    torch.manual_seed(3)
    found = attend_in_slices(query, key, value, mask=mask, drop=0.4)
    torch.manual_seed(3)
    wanted = written_out(query, key, value, mask, 0.4)
    torch.testing.assert_close(found, wanted)
    upstream = torch.randn_like(found)
    for one, other in zip(*(torch.autograd.grad(each, learned, upstream) for each in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["padding", "bias"])
def test_gradients_equal_differences(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(sliced_attention, "SLICE", SLICES[0])
    mask = mask_of(kind)

    def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        torch.manual_seed(1)
        return attend_in_slices(query, key, value, mask=mask, drop=0.3)

    assert torch.autograd.gradcheck(attended, (*inputs(), mask), fast_mode=True)


def test_one_key_for_all_heads_gets_the_gradient_of_all() -> None:
    query, _, value = inputs()
    key = torch.randn(IMAGES, 1, KEYS, 4, dtype=torch.float64, requires_grad=True)
    gradients = []
    for attend in (attend_in_slices, written_out):
        torch.manual_seed(2)
        result = attend(query, key.expand(-1, HEADS, -1, -1), value, mask=None, drop=0.2)
        gradients.append(torch.autograd.grad(result.square().sum(), key))
    torch.testing.assert_close(*gradients)


def test_what_is_drawn_between_the_passes_changes_no_gradient() -> None:
    gradients = []
    query, key, value = inputs()
    for numbers in (0, 100):
        torch.manual_seed(4)
        result = attend_in_slices(query, key, value, mask=None, drop=0.5)
        torch.randn(numbers)
        gradients.append(torch.autograd.grad(result.square().sum(), (query, key, value)))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_a_second_derivative_is_refused() -> None:
    query, key, value = inputs()
    result = attend_in_slices(query, key, value, mask=None, drop=0.5)
    (gradient,) = torch.autograd.grad(result.square().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_comes_near_float64(autocast: bool) -> None:
    exact = inputs()
    bias = mask_of("bias")
    assert bias is not None
    rounded = [part.detach().to(torch.float32 if autocast else torch.bfloat16).requires_grad_() for part in exact]
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = attend_in_slices(*rounded, mask=bias.detach().float(), drop=0.3)  # type: ignore[misc]
    torch.manual_seed(5)
    wanted = written_out(*exact, bias, 0.3)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=0.05)
    found_gradients = torch.autograd.grad(found.float().square().sum(), rounded)
    wanted_gradients = torch.autograd.grad(wanted.square().sum(), exact)
    for one, other, part in zip(found_gradients, wanted_gradients, rounded, strict=True):
        assert one.dtype == part.dtype
        torch.testing.assert_close(one.double(), other, rtol=0, atol=0.05 * other.abs().max().item())


def test_large_maps_are_sliced_and_small_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = inputs()
    weights = IMAGES * HEADS * QUERIES * KEYS
    for limit, sliced in ((weights, True), (weights + 1, False)):
        monkeypatch.setattr(attention, "SLICED_FROM", limit)
        torch.manual_seed(6)
        found = attend_heads(query, key, value, drop=0.5)
        torch.manual_seed(6)
        same = torch.equal(found, attend_in_slices(query, key, value, mask=None, drop=0.5))
        assert same == sliced
