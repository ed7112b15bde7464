"""ResNet (He et al. 2016) in torchvision's layout (the stride sits in the 3 x 3 convolution), with frozen batch norms."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
import torchvision
from torch import Tensor

from detrkit.backbones.backbone import Backbone, freeze
from detrkit.layers.frozen_batch_norm import FrozenBatchNorm2d, normalized_convolution


class ResNet(Backbone):
    """torchvision's network without its classifier; parameter names are torchvision's.

    The stem and the first stage do not train, as in DETR. All norms are frozen and folded into the convolutions when the forward runs.

    Args:
        depth: 18, 34, 50 or 101.
        dilated: "DC5": the last stage keeps stride 16 and dilates its convolutions instead (depth 50 and 101).
        stages: 4 for the whole network, 3 to end at stride 16 ("C4").
        levels: how many of the coarsest stages to return.
    """

    def __init__(self, *, depth: int, dilated: bool = False, stages: int = 4, levels: int = 1) -> None:
        super().__init__()
        network = getattr(torchvision.models, f"resnet{depth}")(
            weights=None, norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=(False, False, dilated)
        )
        self.conv1, self.bn1, self.maxpool = network.conv1, network.bn1, network.maxpool
        names = [f"layer{stage + 1}" for stage in range(stages)]
        for name in names:
            setattr(self, name, getattr(network, name))
        self.stage_names = names
        self.unused_weights = ("fc.", *(f"layer{stage + 1}." for stage in range(stages, 4)))
        expansion = 1 if depth < 50 else 4
        self.channels = tuple(64 * 2**stage * expansion for stage in range(stages))[-levels:]
        self.strides = (4, 8, 16, 16 if dilated else 32)[:stages][-levels:]
        self.levels, self.frozen_norms = levels, True
        freeze(self.conv1, network.layer1)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """See `Backbone.features`."""
        values = self.maxpool(F.relu(normalized_convolution(pixels, self.conv1, self.bn1), inplace=True))
        found = []
        for name in self.stage_names:
            for block in getattr(self, name):
                values = _residual_block(block, values)
            if name in self.stage_names[-self.levels :]:  # a fine stage is large: it is not held for nothing
                found.append(values)
        return found


def _residual_block(block: Any, values: Tensor) -> Tensor:
    """A basic block of torchvision's (two convolutions) or a bottleneck (three), with its norms folded in."""
    pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    if hasattr(block, "conv3"):
        pairs.append((block.conv3, block.bn3))
    shortcut = values if block.downsample is None else normalized_convolution(values, *block.downsample)
    for convolution, norm in pairs[:-1]:
        values = F.relu(normalized_convolution(values, convolution, norm), inplace=True)
    values = normalized_convolution(values, *pairs[-1])
    values += shortcut
    return F.relu(values, inplace=True)
