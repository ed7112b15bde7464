"""A small residual network that trains from scratch: for tests, demonstrations and images unlike those of ImageNet."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.backbones.backbone import Backbone
from detrkit.layers.shared_batch_norm import SharedBatchNorm2d


class Compact(Backbone):
    """A stem of two convolutions (stride 4), then one residual block per stage, each at half the resolution of the previous stage.

    Batch norms train like everything else, so the network needs no pretrained weights, but batches of about eight images.

    Args:
        widths: channels at stride 4, 8, 16, ...
        levels: how many of the coarsest levels to return.
    """

    def __init__(self, *, widths: tuple[int, ...] = (32, 64, 128, 256), levels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _convolution(3, widths[0] // 2, 2), nn.ReLU(), _convolution(widths[0] // 2, widths[0], 2)
        )
        self.stages = nn.ModuleList(_Block(inputs, outputs) for inputs, outputs in itertools.pairwise(widths))
        self.levels, self.frozen_norms, self.unused_weights = levels, False, ()
        self.channels = widths[-levels:]
        self.strides = tuple(4 * 2**stage for stage in range(len(widths)))[-levels:]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, pixels: Tensor) -> list[Tensor]:
        """See `Backbone.features`."""
        values = F.relu(self.stem(pixels))
        maps = [values]
        for stage in self.stages:
            values = stage(values)
            maps.append(values)
        return maps[-self.levels :]


class _Block(nn.Module):
    """Two 3 x 3 convolutions, the first with stride 2, and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(inputs, outputs, 2), _convolution(outputs, outputs, 1)
        self.shortcut = _convolution(inputs, outputs, 2, kernel=1)

    def forward(self, values: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h / 2, w / 2)."""
        return F.relu(self.second(F.relu(self.first(values))) + self.shortcut(values))


def _convolution(inputs: int, outputs: int, stride: int, kernel: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, SharedBatchNorm2d(outputs))
