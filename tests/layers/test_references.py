"""Where layers look and what their boxes are relative to, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detrkit.layers.references import ReferenceTrail

EPSILON = 1e-5


def boxes(*, requires_grad: bool = False) -> Tensor:
    values = torch.rand(2, 3, 4, dtype=torch.float64) * 0.6 + 0.2
    return values.requires_grad_(requires_grad)


def test_points_say_nothing_of_width_and_height() -> None:
    points = boxes()[..., :2]
    trail = ReferenceTrail(points, epsilon=EPSILON)
    trail.stay()
    assert all(reference is points for reference in trail.references())
    logits = trail.base_logits()
    assert logits.shape == (2, 2, 3, 4)
    torch.testing.assert_close(logits[1, ..., :2], points.logit())
    assert not logits[..., 2:].any()


@pytest.mark.parametrize("width", [2, 4])
def test_a_new_reference_is_the_old_one_moved(width: int) -> None:
    start, moves = boxes()[..., :width], torch.randn(2, 3, 4, dtype=torch.float64)
    trail = ReferenceTrail(start, epsilon=EPSILON)
    trail.move(lambda: moves)
    old = torch.nn.functional.pad(start.logit(), (0, 4 - width))
    torch.testing.assert_close(trail.current, (old + moves).sigmoid())
    torch.testing.assert_close(trail.base_logits()[1], old + moves)


def test_numbers_near_the_edges_are_clamped_by_epsilon() -> None:
    trail = ReferenceTrail(torch.tensor([[[0.0, 1.0, -3.0, 4.0]]]), epsilon=1e-3)
    torch.testing.assert_close(trail.base_logits()[0, 0, 0], torch.tensor([1e-3, 1e3, 1e-3, 1e3]).log())


@pytest.mark.parametrize("look_forward_twice", [False, True])
def test_only_looking_forward_twice_teaches_the_layer_before(look_forward_twice: bool) -> None:
    start, moves = boxes(requires_grad=True), torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    trail = ReferenceTrail(start, epsilon=EPSILON, look_forward_twice=look_forward_twice)
    trail.move(lambda: moves * 1.0)
    assert not trail.current.requires_grad  # where a layer looks never teaches the one before
    trail.base_logits()[1].sum().backward()
    if look_forward_twice:
        torch.testing.assert_close(moves.grad, torch.ones_like(moves))
        assert start.grad.abs().min() > 0
    else:
        assert moves.grad is None
        assert not start.grad.any()  # of the first layer's base, which was not asked for


def test_the_first_references_learn_through_the_first_boxes() -> None:
    start = boxes(requires_grad=True)
    ReferenceTrail(start, epsilon=EPSILON).base_logits().sum().backward()
    torch.testing.assert_close(start.grad, 1 / (start * (1 - start)))


def test_nothing_is_recorded_where_no_gradient_is_wanted() -> None:
    with torch.no_grad():
        trail = ReferenceTrail(boxes(), epsilon=EPSILON, look_forward_twice=True)
        trail.move(lambda: torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True) * 1)
    assert not trail.base_logits().requires_grad


@pytest.mark.parametrize("look_forward_twice", [False, True])
def test_without_detaching_all_moves_before_a_reference_learn_from_it(look_forward_twice: bool) -> None:
    start = boxes(requires_grad=True)
    moves = [torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    trail = ReferenceTrail(start, epsilon=EPSILON, detached=False, look_forward_twice=look_forward_twice)
    for move in moves:
        trail.move(lambda move=move: move * 1.0)
    logits = start.logit() + moves[0] + moves[1]
    torch.testing.assert_close(trail.current, logits.sigmoid())
    torch.testing.assert_close(trail.base_logits()[2], logits)
    slope = (trail.current * (1 - trail.current)).detach()  # of the sigmoid
    for value, factor in ((trail.current, slope), (trail.base_logits()[2], torch.ones_like(slope))):
        found = torch.autograd.grad(value.sum(), [*moves, start], retain_graph=True)
        for gradient, wanted in zip(found, (factor, factor, factor / (start * (1 - start))), strict=True):
            torch.testing.assert_close(gradient, wanted)
