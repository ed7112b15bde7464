"""Dropout (Srivastava et al. 2014) whose random numbers cost no more than the layers around it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dropout(values: Tensor, probability: float) -> Tensor:
    """Sets values to zero with a probability and scales the others up, so that sums keep their expectation.

    On a CPU, PyTorch draws one random number per value, which took a third of a training step of DETR. Here four values share a
    64-bit number, and the probability is rounded to a multiple of 1 / 65536.

    Args:
        values: any shape.
        probability: probability of becoming zero, in [0, 1].
    """
    if values.device.type != "cpu" or probability >= 1:
        return F.dropout(values, probability)
    return (values * draw_kept(values.shape, probability)).mul_(1 / (1 - probability))


def relu_dropout(values: Tensor, probability: float) -> Tensor:
    """ReLU, then dropout; keeps one tensor for the backward pass, where the two separately would keep three.

    Args:
        values: any shape; if they require a gradient they are overwritten, so nothing else may need them afterwards.
        probability: probability of becoming zero, in [0, 1]; 0 is a plain ReLU.
    """
    overwrites = values.requires_grad and not values.is_leaf and not torch.compiler.is_compiling()
    if probability == 0:
        return F.relu(values, inplace=overwrites)
    if not overwrites or probability >= 1:
        return dropout(F.relu(values), probability)
    return _ReluDropout.apply(values, probability)  # type: ignore[no-any-return]


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, probability: float) -> Tensor:
        if values.device.type == "cpu":
            result = values.relu_().mul_(draw_kept(values.shape, probability)).mul_(1 / (1 - probability))
        else:
            result = values.copy_(F.dropout(values.relu_(), probability))
        ctx.mark_dirty(result)
        ctx.save_for_backward(result)
        ctx.scale = 1 / (1 - probability)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (result,) = ctx.saved_tensors  # positive exactly where a value was positive and kept
        return torch.ops.aten.threshold_backward(gradients[0], result, 0).mul_(ctx.scale), None


def draw_kept(shape: torch.Size, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """Draws which values are kept, as a bool tensor on the CPU.

    Args:
        shape: shape of the result.
        probability: probability of dropping a value, rounded to a multiple of 1 / 65536.
        generator: source of the random numbers; None is PyTorch's own.
    """
    count = shape.numel()
    numbers = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    threshold = round(probability * 65536) - 32768
    return (numbers.view(torch.int16)[:count] >= threshold).view(shape)


class Dropout(nn.Module):
    """`dropout` in training, nothing in eval mode.

    Args:
        probability: probability of becoming zero, in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, values: Tensor) -> Tensor:
        """Same shape."""
        return dropout(values, self.probability) if self.training and self.probability > 0 else values
