"""An activation and a linear layer that keep one hidden layer, against the two apart."""

from __future__ import annotations

import pytest
import torch
from support import kept_tensors
from torch import Tensor, nn

from detrkit.layers.activated_linear import activated_linear


def gradients(result: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)
    return torch.autograd.grad((result * weights).sum(), inputs)


@pytest.mark.parametrize("activation", [nn.PReLU(), nn.PReLU(6), nn.GELU(), nn.Softplus()], ids=repr)
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)], ids=str)
def test_values_and_gradients(activation: nn.Module, shape: tuple[int, ...]) -> None:
    activation, linear = activation.double(), nn.Linear(6, 5, dtype=torch.float64)
    hidden = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    if len(shape) == 3 and isinstance(activation, nn.PReLU) and activation.num_parameters > 1:
        hidden = torch.randn(2, 6, 6, dtype=torch.float64, requires_grad=True)  # its channels are the second axis
    found, wanted = activated_linear(hidden, activation, linear), linear(activation(hidden))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    inputs = [hidden, *linear.parameters(), *activation.parameters()]
    torch.testing.assert_close(gradients(found, inputs), gradients(wanted, inputs))


def test_a_frozen_slope_and_no_bias() -> None:
    activation, linear = nn.PReLU().requires_grad_(False), nn.Linear(6, 5, bias=False)
    hidden = torch.randn(3, 6, requires_grad=True)
    found, wanted = activated_linear(hidden, activation, linear), linear(activation(hidden))
    inputs = [hidden, linear.weight]
    torch.testing.assert_close(gradients(found, inputs), gradients(wanted, inputs))


def test_a_frozen_linear_layer() -> None:
    activation, linear = nn.PReLU(), nn.Linear(6, 5).requires_grad_(False)
    hidden = torch.randn(3, 6, requires_grad=True)
    found, wanted = activated_linear(hidden, activation, linear), linear(activation(hidden))
    inputs = [hidden, activation.weight]
    torch.testing.assert_close(gradients(found, inputs), gradients(wanted, inputs))


def test_it_keeps_the_hidden_layer_once() -> None:
    activation, linear = nn.PReLU(), nn.Linear(6, 5)
    hidden = torch.randn(2, 3, 6, requires_grad=True)
    for compute, wide in ((activated_linear, 1), (lambda *parts: parts[2](parts[1](parts[0])), 2)):
        kept = kept_tensors(compute, hidden, activation, linear)
        assert sum(each.numel() == hidden.numel() for each in kept) == wide


def test_autocast_casts_as_it_does_without() -> None:
    activation, linear = nn.PReLU(), nn.Linear(6, 5)
    hidden = torch.randn(3, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = activated_linear(hidden, activation, linear), linear(activation(hidden))
    assert found.dtype == torch.bfloat16
    inputs = [hidden, *linear.parameters(), *activation.parameters()]
    torch.testing.assert_close(gradients(found, inputs), gradients(wanted, inputs))


def test_hooks_and_other_classes_of_linear_layers_run() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    activation, linear = nn.PReLU(), Doubled(6, 5)
    hidden = torch.randn(3, 6, requires_grad=True)
    torch.testing.assert_close(activated_linear(hidden, activation, linear), linear(activation(hidden)))
    hooked, seen = nn.Linear(6, 5), []
    hooked.register_forward_hook(lambda *parts: seen.append(parts[-1]))
    result = activated_linear(hidden, activation, hooked)
    assert seen[0] is result
