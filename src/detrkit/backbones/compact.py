"""A small residual network that learns from nothing: for tests, demonstrations and images that ImageNet knows little about."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.backbones.backbone import Backbone


class Compact(Backbone):
    """A stem of two convolutions (stride 4), then one residual block a stage, each at half the resolution of the one before.

    Batch norms train with everything else, so the network needs no pretrained weights, but batches of some eight images.

    Args:
        widths: channels at stride 4, 8, 16, ...
        levels: how many of the coarsest levels to return.
    """

    def __init__(self, *, widths: tuple[int, ...] = (32, 64, 128, 256), levels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _convolution(3, widths[0] // 2, 2), nn.ReLU(), _convolution(widths[0] // 2, widths[0], 2)
        )
        self.stages = nn.ModuleList(_Block(before, after) for before, after in itertools.pairwise(widths))
        self.levels, self.frozen_norms, self.unused_weights = levels, False, ()
        self.channels = widths[-levels:]
        self.strides = tuple(4 * 2**stage for stage in range(len(widths)))[-levels:]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, pixels: Tensor) -> list[Tensor]:
        """See `Backbone.features`."""
        values = F.relu(self.stem(pixels))
        found = [values]
        for stage in self.stages:
            values = stage(values)
            found.append(values)
        return found[-self.levels :]


class _Block(nn.Module):
    """Two 3 x 3 convolutions, the first with stride 2, and a shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(before, after, 2), _convolution(after, after, 1)
        self.shortcut = _convolution(before, after, 2, kernel=1)

    def forward(self, values: Tensor) -> Tensor:
        """(B, before, h, w) to (B, after, h / 2, w / 2)."""
        return F.relu(self.second(F.relu(self.first(values))) + self.shortcut(values))


def _convolution(before: int, after: int, stride: int, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after))
