"""What a mask head is made of (Carion et al. 2020, section 4.4, figure 8)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8  # of every norm that has as many channels


def norm_groups(channels: int) -> int:
    """How many groups the norm of so many channels has."""
    return min(GROUPS, channels)


class Refinement(nn.Module):
    """A 3 x 3 convolution, a norm for each query and ReLU.

    Args:
        inputs: channels.
        outputs: channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
        self.norm = nn.GroupNorm(norm_groups(outputs), outputs)

    def forward(self, values: Tensor) -> Tensor:
        """(P, inputs, h, w) to (P, outputs, h, w)."""
        return self.activated(self.convolution(values))

    def activated(self, values: Tensor) -> Tensor:
        """What follows the convolution."""
        return F.relu(self.norm(values), inplace=True)
