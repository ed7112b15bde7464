"""Dropout (Srivastava et al. 2014) whose random numbers do not cost more than the layers around it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dropout(values: Tensor, probability: float) -> Tensor:
    """Sets values to zero with a probability and scales the others up, so that sums keep their expectation.

    On a CPU PyTorch draws one number for every value, which took a third of a training step of DETR; here four values share a
    64-bit number, and the probability is rounded to a multiple of 1 / 65536.

    Args:
        values: any shape.
        probability: of becoming zero, in [0, 1].
    """
    if values.device.type != "cpu" or probability >= 1:
        return F.dropout(values, probability)
    numbers = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    threshold = round(probability * 65536) - 32768
    keep = (numbers.view(torch.int16)[: values.numel()] >= threshold).view(values.shape)
    return (values * keep).mul_(1 / (1 - probability))


class Dropout(nn.Module):
    """`dropout` in training, nothing in eval mode.

    Args:
        probability: of becoming zero, in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, values: Tensor) -> Tensor:
        """Same shape."""
        return dropout(values, self.probability) if self.training and self.probability > 0 else values
