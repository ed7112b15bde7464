"""Batch norm whose statistics and scale never change, folded into the convolution before it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class FrozenBatchNorm2d(nn.Module):
    """y = x · s + (b - mean · s) with s = weight / √(var + 1e-5); all four are buffers, so nothing is trained.

    Args:
        channels: C.
    """

    epsilon = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The scale s and the shift b - mean · s, (C,) each."""
        scale = self.weight * (self.running_var + self.epsilon).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, values: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h, w)."""
        scale, shift = self.scale_and_shift()
        return values * scale[:, None, None] + shift[:, None, None]


def normalized_convolution(values: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Tensor:
    """A convolution without bias and the norm after it, as one convolution if the norm is frozen.

    Scaling the weights takes a millisecond; applying the norm to the activations takes a hundred, in training and in prediction.
    """
    if not isinstance(norm, FrozenBatchNorm2d):
        return norm(convolution(values))  # type: ignore[no-any-return]
    scale, shift = norm.scale_and_shift()
    weight = convolution.weight
    form: tuple[Any, ...] = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
    plain = torch.compiler.is_compiling() or torch.is_autocast_enabled(values.device.type)
    if torch.is_grad_enabled() and weight.requires_grad and not plain:
        return _FoldedConvolution.apply(values, weight, scale, shift, *form)  # type: ignore[no-any-return]
    return F.conv2d(values, _folded(weight, scale), shift, *form)


def _folded(weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale[:, None, None, None]


class _FoldedConvolution(torch.autograd.Function):
    """Scales the weights again in the backward pass: kept, they would be a second copy of a backbone (94 MB for ResNet-50)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, *form: Any) -> Tensor:
        ctx.save_for_backward(values, weight, scale)
        ctx.form = form
        return F.conv2d(values, _folded(weight, scale), shift, *form)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, scale = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.form
        wanted = [ctx.needs_input_grad[0], True, False]
        values_gradient, weight_gradient, _ = torch.ops.aten.convolution_backward(
            gradient, values, _folded(weight, scale), None, stride, padding, dilation, False, (0, 0), groups, wanted
        )
        return values_gradient, _folded(weight_gradient, scale), None, None, None, None, None, None
