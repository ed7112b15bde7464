"""An activation and the linear layer after it, which keep one hidden layer for the backward pass instead of two."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def activated_linear(hidden: Tensor, activation: nn.Module, linear: nn.Linear) -> Tensor:
    """`linear(activation(hidden))`; training computes the activation a second time in the backward pass, and has no second derivatives.

    PyTorch keeps both the input and the result of an activation that is not a ReLU: the widest tensors of a transformer, twice.

    Args:
        hidden: (N, ..., E).
        activation: computes each value by itself; its parameters get their gradients.
        linear: E to D. One of another class, or with hooks, is called as it is, and two hidden layers are kept.

    Returns:
        (N, ..., D).
    """
    plain = torch.compiler.is_compiling() or torch.is_autocast_enabled(hidden.device.type) or not _is_bare(linear)
    if not (torch.is_grad_enabled() and hidden.requires_grad) or plain:
        return linear(activation(hidden))  # type: ignore[no-any-return]
    return _ActivatedLinear.apply(hidden, linear.weight, linear.bias, activation, *activation.parameters())  # type: ignore[no-any-return]


def _is_bare(linear: nn.Linear) -> bool:
    """Whether calling the module does nothing but multiply: adapters replace its class, and hooks want to see it run."""
    return type(linear) is nn.Linear and not (linear._forward_hooks or linear._forward_pre_hooks)


class _ActivatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, activation: nn.Module, *parameters: Tensor
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, *parameters)
        ctx.activation = activation
        return F.linear(activation(hidden), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            hidden = hidden.detach().requires_grad_()
            activated = ctx.activation(hidden)
        rows = gradient.flatten(0, -2)
        weight_gradient = rows.T @ activated.detach().flatten(0, -2) if ctx.needs_input_grad[1] else None
        bias_gradient = rows.sum(0) if ctx.needs_input_grad[2] else None
        inputs = [hidden, *(each for each in parameters if each.requires_grad)]
        found = iter(torch.autograd.grad(activated, inputs, gradient @ weight))
        hidden_gradient = next(found)
        gradients = [next(found) if each.requires_grad else None for each in parameters]
        return hidden_gradient, weight_gradient, bias_gradient, None, *gradients
