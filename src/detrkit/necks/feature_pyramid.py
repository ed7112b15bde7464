"""The feature pyramid (Lin et al. 2017, arXiv:1612.03144) with two coarser levels made of its last one, P6 and P7."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.shared_batch_norm import SharedBatchNorm2d
from detrkit.structures import FeatureMap


class FeaturePyramid(nn.Module):
    """Levels of equal width, in which what is seen coarsely is added to what is seen finely.

    Args:
        channels: C of every level of the backbone, finest first.
        strides: image pixels per cell of the same levels, each twice the one before.
        width: channels of every level of the pyramid.
    """

    def __init__(self, *, channels: tuple[int, ...], strides: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, kernel_size=1) for count in channels)
        self.output = nn.ModuleList(nn.Conv2d(width, width, kernel_size=3, padding=1) for _ in channels)
        self.coarser = nn.ModuleList(_CoarserLevel(width) for _ in range(2))
        self.strides = (*strides, 2 * strides[-1], 4 * strides[-1])
        self.coarsest_stride = self.strides[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, features: tuple[FeatureMap, ...]) -> tuple[Tensor, ...]:
        """Levels (B, width, h, w), finest first; two more than the backbone's.

        Args:
            features: the levels of the backbone, each with twice as many rows and columns as the next.
        """
        summed: list[Tensor] = []  # coarsest first
        for lateral, level in zip(reversed(self.lateral), reversed(features), strict=True):
            values = lateral(level.features)
            if summed:
                values = values + F.interpolate(summed[-1], scale_factor=2.0, mode="nearest")
            summed.append(values)
        levels = [output(values) for output, values in zip(self.output, reversed(summed), strict=True)]
        sixth = self.coarser[0](levels[-1])
        return (*levels, sixth, self.coarser[1](F.relu(sixth)))


class _CoarserLevel(nn.Module):
    """A 3 x 3 convolution of stride 2 and a batch norm that trains."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1)
        self.norm = SharedBatchNorm2d(width)

    def forward(self, values: Tensor) -> Tensor:
        """(B, width, h, w) to (B, width, h / 2, w / 2), rounded up."""
        return self.norm(self.convolution(values))  # type: ignore[no-any-return]
