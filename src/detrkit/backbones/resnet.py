"""ResNet (He et al. 2016, arXiv:1512.03385) with frozen batch norms, and the stride of a bottleneck in its 3 x 3 convolution.

The networks that the paper's authors trained with Caffe have it in the first 1 x 1 convolution; detectron2 begins with them.

Names and structure are those of torchvision's network, so that its weight files, and those of all papers that start from it, can be
loaded. torchvision itself is not imported, because that takes more memory than the network.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.backbones.backbone import Backbone, freeze
from detrkit.cards import CAFFE_COLOURS
from detrkit.errors import ConfigurationError
from detrkit.layers.frozen_batch_norm import FrozenBatchNorm2d, normalized_convolution

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # depth: blocks of each stage


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut around them (figure 5, left).

    Args:
        channels: of the input.
        width: C of both convolutions.
        stride: of the first.
    """

    expansion = 1

    def __init__(self, channels: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(channels, width, kernel=3, stride=stride), FrozenBatchNorm2d(width)
        self.conv2, self.bn2 = _convolution(width, width, kernel=3), FrozenBatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, values: Tensor) -> Tensor:
        """(B, channels, h, w) to (B, width, h / stride, w / stride)."""
        shortcut = values if self.downsample is None else normalized_convolution(values, *self.downsample)
        values = F.relu(normalized_convolution(values, self.conv1, self.bn1), inplace=True)
        values = normalized_convolution(values, self.conv2, self.bn2)
        values += shortcut
        return F.relu(values, inplace=True)


class Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 with a shortcut around them (figure 5, right).

    Args:
        channels: of the input.
        width: C of the 3 x 3 convolution; the block returns four times as many.
        stride: of the 3 x 3 convolution.
        dilation: of the 3 x 3 convolution.
    """

    expansion = 4

    def __init__(self, channels: int, width: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1, self.bn1 = _convolution(channels, width, kernel=1), FrozenBatchNorm2d(width)
        self.conv2 = _convolution(width, width, kernel=3, stride=stride, dilation=dilation)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3, self.bn3 = _convolution(width, outputs, kernel=1), FrozenBatchNorm2d(outputs)
        self.downsample = _shortcut(channels, outputs, stride)

    def forward(self, values: Tensor) -> Tensor:
        """(B, channels, h, w) to (B, 4 · width, h / stride, w / stride)."""
        shortcut = values if self.downsample is None else normalized_convolution(values, *self.downsample)
        values = F.relu(normalized_convolution(values, self.conv1, self.bn1), inplace=True)
        values = F.relu(normalized_convolution(values, self.conv2, self.bn2), inplace=True)
        values = normalized_convolution(values, self.conv3, self.bn3)
        values += shortcut
        return F.relu(values, inplace=True)


class CaffeBottleneck(Bottleneck):
    """The same block with the stride in its first 1 x 1 convolution; arguments as for `Bottleneck`."""

    def __init__(self, channels: int, width: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(channels, width, stride=stride, dilation=dilation)
        self.conv1 = _convolution(channels, width, kernel=1, stride=stride)
        self.conv2 = _convolution(width, width, kernel=3, dilation=dilation)


def _convolution(channels: int, outputs: int, *, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = kernel // 2 * dilation
    return nn.Conv2d(channels, outputs, kernel, stride, padding, dilation, bias=False)


def _shortcut(channels: int, outputs: int, stride: int) -> nn.Sequential | None:
    """A projection if the input's shape differs from the output's."""
    if stride == 1 and channels == outputs:
        return None
    return nn.Sequential(_convolution(channels, outputs, kernel=1, stride=stride), FrozenBatchNorm2d(outputs))


class ResNet(Backbone):
    """The network without its classifier.

    The stem and the first stage do not train, as in DETR. All norms are frozen and folded into the convolutions when the forward runs.

    Args:
        depth: 18, 34, 50 or 101.
        dilated: "DC5": the last stage keeps stride 16 and dilates its convolutions instead (depth 50 and 101).
        stages: 4 for the whole network, 3 to end at stride 16 ("C4").
        levels: how many of the coarsest stages to return.

    Raises:
        ConfigurationError: a dilated network of basic blocks, which no paper uses.
    """

    bottleneck: ClassVar[type[Bottleneck]] = Bottleneck

    def __init__(self, *, depth: int, dilated: bool = False, stages: int = 4, levels: int = 1) -> None:
        super().__init__()
        if dilated and depth < 50:
            raise ConfigurationError(f"ResNet-{depth} has no dilated form: choose depth 50 or 101, or dilated=False")
        block: type[BasicBlock | Bottleneck] = BasicBlock if depth < 50 else self.bottleneck
        self.conv1, self.bn1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False), FrozenBatchNorm2d(64)
        self.stage_names = [f"layer{stage + 1}" for stage in range(stages)]
        channels = 64
        for stage, name in enumerate(self.stage_names):
            dilate = dilated and stage == 3
            width = 64 * 2**stage
            # The first block reduces the resolution, or would without dilation: only the blocks after it are dilated.
            first = block(channels, width, stride=1 if stage == 0 or dilate else 2)
            channels = width * block.expansion
            others = range(_BLOCKS[depth][stage] - 1)
            blocks = [
                self.bottleneck(channels, width, dilation=2) if dilate else block(channels, width) for _ in others
            ]
            setattr(self, name, nn.Sequential(first, *blocks))
        self.unused_weights = ("fc.", *(f"layer{stage + 1}." for stage in range(stages, 4)))
        self.channels = tuple(64 * 2**stage * block.expansion for stage in range(stages))[-levels:]
        self.strides = (4, 8, 16, 16 if dilated else 32)[:stages][-levels:]
        self.levels, self.frozen_norms = levels, True
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        freeze(self.conv1, self.get_submodule("layer1"))

    def features(self, pixels: Tensor) -> list[Tensor]:
        """See `Backbone.features`."""
        values = F.relu(normalized_convolution(pixels, self.conv1, self.bn1), inplace=True)
        values = F.max_pool2d(values, kernel_size=3, stride=2, padding=1)
        maps = []
        for name in self.stage_names:
            values = getattr(self, name)(values)
            if name in self.stage_names[-self.levels :]:  # fine stages are large, so only requested ones are kept
                maps.append(values)
        return maps


class CaffeResNet(ResNet):
    """The network as its authors trained it with Caffe: the stride of a bottleneck is in its first convolution.

    Arguments as for `ResNet`.
    """

    bottleneck = CaffeBottleneck
    colours = CAFFE_COLOURS
