"""Batch norm whose statistics and scale never change, folded into the convolution before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    return F.conv2d(
        values,
        convolution.weight * scale[:, None, None, None],
        shift,
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        convolution.groups,
    )
