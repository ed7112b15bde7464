"""Batch norm whose statistics are those of the whole batch, also where several processes have parts of it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from detrkit.layers.processes import process_count


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`; in training, statistics are taken over the images of all processes.

    Where there is a single number per channel, the statistics so far are used. PyTorch's `SyncBatchNorm` needs a GPU.
    """

    def forward(self, values: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h, w)."""
        if self.training and process_count() == 1 and values.numel() == values.shape[1]:
            # A single number has no variance: a small image has one cell at the coarsest level.
            return F.batch_norm(values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if not self.training or process_count() == 1:
            return super().forward(values)
        return self._together(values.float()).to(values.dtype)

    def _together(self, values: Tensor) -> Tensor:
        channels = values.shape[1]
        count = values.new_full((1,), values.numel() / channels)
        sums: Tensor = _SumOverProcesses.apply(torch.cat([values.sum((0, 2, 3)), count]))
        mean, total = sums[:channels] / sums[channels], sums[channels].detach()
        centred = values - mean[:, None, None]
        squares: Tensor = _SumOverProcesses.apply(centred.square().sum((0, 2, 3)))
        self._remember(mean.detach(), squares.detach() / (total - 1))
        scale = self.weight * (squares / total + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the statistics for evaluation towards those of this batch."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _SumOverProcesses(torch.autograd.Function):
    """Adds up values of all processes; whatever depends on the sum, in any process, adds to the gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004 - autograd requires it
        values = values.clone()
        torch.distributed.all_reduce(values)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        gradient = gradient.contiguous().clone()
        torch.distributed.all_reduce(gradient)
        return gradient
