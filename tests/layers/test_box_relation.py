"""Numbers for pairs of boxes: by hand, at the start, and where they may not differ."""

from __future__ import annotations

import math

import pytest
import torch
from support import kept_tensors
from torch import nn

from detrkit.layers.box_relation import BoxRelation, octaves


def boxes(count: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.05 + 0.9 * torch.rand(2, count, 4, generator=generator)


def relation() -> BoxRelation:
    torch.manual_seed(0)
    found = BoxRelation(attention_heads=3)
    nn.init.normal_(found.projection.weight)
    return found


def test_it_begins_at_zero() -> None:
    assert not BoxRelation(attention_heads=3)(boxes()).any()


def test_a_pair_by_hand() -> None:
    first, second = (0.5, 0.4, 0.2, 0.1), (0.3, 0.7, 0.4, 0.05)
    module = relation()
    found = module(torch.tensor([[first, second]]))
    numbers = (
        math.log(0.2 / 0.2 + 1),  # sides between the centres, in those of the first
        math.log(0.3 / 0.1 + 1),
        math.log(0.2 / 0.4),
        math.log(0.1 / 0.05),
    )
    code = []
    for number in numbers:
        angles = [number * math.pi / 8 * 2**step for step in range(8)]
        code += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    assert found.shape == (1, 3, 2, 2)
    assert found.is_contiguous()
    torch.testing.assert_close(found[0, :, 0, 1], module.projection(torch.tensor(code)), atol=1e-4, rtol=0)


def test_order_and_place_in_the_image_do_not_matter() -> None:
    module, placed = relation(), boxes()
    found, order = module(placed), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(module(placed[:, order]), found[:, :, order][..., order])
    moved = torch.cat([placed[..., :2] + 0.125, placed[..., 2:]], dim=-1)
    torch.testing.assert_close(module(moved), found, atol=1e-3, rtol=0)
    torch.testing.assert_close(module(placed * 0.5), found, atol=1e-3, rtol=0)  # nor does the image's size


def test_boxes_without_size_are_no_trouble() -> None:
    assert relation()(torch.zeros(1, 3, 4)).isfinite().all()


def test_it_stays_in_float32_under_mixed_precision() -> None:
    module, placed = relation(), boxes()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = module(placed)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, module(placed))


def by_the_formula(module: BoxRelation, boxes_cxcywh: torch.Tensor) -> torch.Tensor:
    """All pairs at once, every sine and cosine as it is written."""
    centers, sides = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    distances = torch.log((centers[:, :, None] - centers[:, None]).abs() / sides[:, :, None] + 1)
    ratios = torch.log(sides[:, :, None] / sides[:, None])
    angles = torch.cat([distances, ratios], dim=-1)[..., None] * (
        math.pi / 8 * 2.0 ** torch.arange(8, dtype=torch.float64)
    )
    codes = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)  # (B, Q, Q, 64)
    return (codes @ module.projection.weight.mT).permute(0, 3, 1, 2)


@pytest.mark.parametrize("pairs_at_once", [1, 50, 2**16])
def test_slices_change_neither_values_nor_gradients(pairs_at_once: int) -> None:
    module, placed = relation().double(), boxes(7).double().requires_grad_()
    module.pairs_at_once = pairs_at_once  # rows one by one, in slices of 3, 3 and 1, all at once
    inputs = (placed, module.projection.weight)
    outward = torch.randn(2, 3, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted, found = by_the_formula(module, placed), module(placed)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    assert found.is_contiguous()
    gradients = zip(*(torch.autograd.grad(each, inputs, outward) for each in (found, wanted)), strict=True)
    for gradient, wanted_gradient in gradients:
        torch.testing.assert_close(gradient, wanted_gradient, atol=1e-9, rtol=1e-9)


def test_what_is_kept_for_the_backward_pass_is_no_larger_than_the_result() -> None:
    module, placed = relation(), boxes(100)
    module.pairs_at_once = 500
    kept = sum(each.untyped_storage().nbytes() for each in kept_tensors(module, placed))
    assert 0 < kept <= module(placed).nbytes  # all sines and cosines would be 64 / 3 times as large


def test_sines_by_doubling_are_as_exact_as_the_angles() -> None:
    angles = torch.linspace(-3.7, 3.7, 100_001)  # π / 8 of the logarithm of the smallest side, and of its inverse
    multiples = angles.double() * 2.0 ** torch.arange(8)[:, None]
    wanted = torch.cat([multiples.sin(), multiples.cos()])
    torch.testing.assert_close(octaves(angles[None, None], 8)[0, 0].double(), wanted, atol=2e-6, rtol=0)


def test_float32_differs_from_float64_by_rounding_only() -> None:
    module, placed = relation(), boxes(50)
    exact = by_the_formula(module.double(), placed.double())
    torch.testing.assert_close(module.float()(placed).double(), exact, atol=1e-4, rtol=0)


def test_it_exports_for_any_number_of_images_and_boxes() -> None:
    shape = {0: torch.export.Dim("images"), 1: torch.export.Dim("boxes", min=2, max=5000)}
    module = relation().eval()
    exported = torch.export.export(module, (boxes(9),), dynamic_shapes=(shape,)).module()
    for given in (boxes(4)[:1], boxes(300)):
        torch.testing.assert_close(exported(given), module(given), atol=1e-5, rtol=0)
