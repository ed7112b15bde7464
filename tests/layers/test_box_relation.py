"""Numbers for pairs of boxes: by hand, at the start, and where they may not differ."""

from __future__ import annotations

import math

import torch
from torch import nn

from detrkit.layers.box_relation import BoxRelation


def boxes(count: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.05 + 0.9 * torch.rand(2, count, 4, generator=generator)


def relation() -> BoxRelation:
    torch.manual_seed(0)
    found = BoxRelation(heads=3)
    nn.init.normal_(found.projection.weight)
    return found


def test_it_begins_at_zero() -> None:
    assert not BoxRelation(heads=3)(boxes()).any()


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
