"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) with frozen batch norms.

Names and structure are those of torchvision's network, so that its weight files can be loaded. torchvision itself is not imported, because
that takes a second and more memory than the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.backbones.backbone import Backbone, freeze
from detrkit.layers.frozen_batch_norm import FrozenBatchNorm2d, normalized_convolution

# Table 2: expansion, channels, number of blocks, and stride of the first of them.
_GROUPS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM, _LAST = 32, 1280  # channels of the first and the last convolution
# The last block at each stride, with its channels. The last one is the 1 x 1 convolution that ImageNet's classifier reads.
_ENDS = {4: (3, 24), 8: (6, 32), 16: (13, 96), 32: (18, _LAST)}


class ActivatedConvolution(nn.Sequential):
    """A convolution, its norm and ReLU6.

    Args:
        channels: of the input.
        outputs: of the result.
        kernel: side of the convolution's kernel.
        stride: of the convolution.
        groups: of the convolution; as many as channels where each is filtered alone.
    """

    def __init__(self, channels: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            _convolution(channels, outputs, kernel=kernel, stride=stride, groups=groups), FrozenBatchNorm2d(outputs)
        )

    def forward(self, values: Tensor) -> Tensor:
        """(B, channels, h, w) to (B, outputs, h / stride, w / stride)."""
        return _relu6(normalized_convolution(values, *self))


class InvertedResidual(nn.Module):
    """More channels, a 3 x 3 convolution of each alone, fewer channels again without activation (section 3.3, figure 4).

    Args:
        channels: of the input.
        outputs: of the result.
        stride: of the 3 x 3 convolution.
        expansion: how many times as many channels there are inside.
    """

    def __init__(self, channels: int, outputs: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        wider = [ActivatedConvolution(channels, inner, kernel=1)] if expansion > 1 else []
        each_alone = ActivatedConvolution(inner, inner, kernel=3, stride=stride, groups=inner)
        self.conv = nn.Sequential(
            *wider, each_alone, _convolution(inner, outputs, kernel=1), FrozenBatchNorm2d(outputs)
        )
        self.has_shortcut = stride == 1 and channels == outputs

    def forward(self, values: Tensor) -> Tensor:
        """(B, channels, h, w) to (B, outputs, h / stride, w / stride)."""
        *activated, convolution, norm = self.conv
        result = values
        for part in activated:
            result = part(result)
        result = normalized_convolution(result, cast(nn.Conv2d, convolution), norm)
        return values + result if self.has_shortcut else result


class MobileNetV2(Backbone):
    """The network without its classifier; parameter names are torchvision's.

    The stem and the first block do not train. All norms are frozen and folded into the convolutions when the forward runs.

    Args:
        levels: how many of the coarsest levels (strides 4, 8, 16, 32) to return.
    """

    def __init__(self, *, levels: int = 1) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*_blocks())
        self.strides = tuple(_ENDS)[-levels:]
        self.channels = tuple(_ENDS[stride][1] for stride in self.strides)
        self.frozen_norms, self.unused_weights = True, ("classifier.",)
        freeze(self.blocks[0], self.blocks[1])

    def features(self, pixels: Tensor) -> list[Tensor]:
        """See `Backbone.features`."""
        ends = {_ENDS[stride][0] for stride in self.strides}
        values, maps = pixels, []
        for index, block in enumerate(self.blocks):
            values = block(values)
            if index in ends:
                maps.append(values)
        return maps


def _blocks() -> Iterator[nn.Module]:
    """The stem, the blocks of all groups, and the last convolution."""
    yield ActivatedConvolution(3, _STEM, kernel=3, stride=2)
    channels = _STEM
    for expansion, outputs, count, stride in _GROUPS:
        for place in range(count):
            yield InvertedResidual(channels, outputs, stride=stride if place == 0 else 1, expansion=expansion)
            channels = outputs
    yield ActivatedConvolution(channels, _LAST, kernel=1)


def _convolution(channels: int, outputs: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without bias, which the norm after it has; its weights begin as those of torchvision's network do."""
    convolution = nn.Conv2d(channels, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    return convolution


def _relu6(values: Tensor) -> Tensor:
    """ReLU6 in place. PyTorch's own keeps a copy of its input for the backward pass, which does not need it."""
    if torch.compiler.is_exporting() or not values.requires_grad:
        return F.relu6(values, inplace=not torch.compiler.is_exporting())
    return _Relu6.apply(values)  # type: ignore[no-any-return]


class _Relu6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values.clamp_(0, 6)
        ctx.mark_dirty(values)
        ctx.save_for_backward(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors  # strictly between 0 and 6 exactly where the input was
        return torch.ops.aten.hardtanh_backward(gradients[0], result, 0.0, 6.0)  # type: ignore[no-any-return]
