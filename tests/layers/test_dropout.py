"""Dropout: how many values fall, what the others become, and what the gradient sees."""

from __future__ import annotations

import pytest
import torch

from detrkit.layers.dropout import Dropout, dropout, relu_dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_share_and_scale(probability: float) -> None:
    values = torch.ones(1001, 999)
    result = dropout(values, probability)
    kept = result != 0
    assert kept.float().mean().item() == pytest.approx(1 - probability, abs=0.003)
    torch.testing.assert_close(result[kept], torch.full_like(result[kept], 1 / (1 - probability)))
    assert result.mean().item() == pytest.approx(1.0, abs=0.02)


def test_neighbours_fall_independently() -> None:
    """Four values share a random number; each has bits of its own."""
    fallen = (dropout(torch.ones(400_000), 0.5) == 0).float().reshape(-1, 4)
    correlation = torch.corrcoef(fallen.T)
    assert (correlation - torch.eye(4)).abs().max() < 0.02


def test_gradient_follows_the_same_values() -> None:
    values = torch.randn(50, 7, dtype=torch.float64, requires_grad=True)
    result = dropout(values, 0.3)
    result.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, (result != 0).double() / 0.7)


def test_the_seed_decides() -> None:
    torch.manual_seed(3)
    first = dropout(torch.ones(100), 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(torch.ones(100), 0.5))
    assert not torch.equal(first, dropout(torch.ones(100), 0.5))


def test_the_module_acts_in_training_only() -> None:
    layer, values = Dropout(0.5), torch.randn(100)
    assert (layer(values) == 0).any()
    assert torch.equal(layer.eval()(values), values)
    assert torch.equal(Dropout(0.0)(values), values)


def test_relu_and_dropout_in_one_are_the_two_apart() -> None:
    values = torch.randn(40, 9, dtype=torch.float64)
    found = []
    for together in (True, False):
        torch.manual_seed(5)
        leaf = values.clone().requires_grad_()
        result = relu_dropout(leaf * 1, 0.3) if together else dropout(leaf.relu(), 0.3)
        (result * torch.arange(9.0, dtype=torch.float64)).sum().backward()
        assert leaf.grad is not None
        found.append((result.detach(), leaf.grad))
    (first, first_gradient), (second, second_gradient) = found
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(first_gradient, second_gradient)
    assert torch.equal(relu_dropout(values.clone(), 0.0), values.relu())
