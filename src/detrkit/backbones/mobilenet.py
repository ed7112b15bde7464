"""MobileNetV2 (Sandler et al. 2018) in torchvision's layout, with frozen batch norms."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.backbones.backbone import Backbone, freeze
from detrkit.layers.frozen_batch_norm import FrozenBatchNorm2d, normalized_convolution

# The last block at each stride, with its channels. The last one is the 1 x 1 convolution that ImageNet's classifier reads.
_ENDS = {4: (3, 24), 8: (6, 32), 16: (13, 96), 32: (18, 1280)}


class MobileNetV2(Backbone):
    """torchvision's network without its classifier; parameter names are torchvision's.

    The stem and the first block do not train. All norms are frozen and folded into the convolutions when the forward runs.

    Args:
        levels: how many of the coarsest levels (strides 4, 8, 16, 32) to return.
    """

    def __init__(self, *, levels: int = 1) -> None:
        super().__init__()
        import torchvision  # imported here so that other backbones do not have to wait for it

        network = torchvision.models.mobilenet_v2(weights=None, norm_layer=FrozenBatchNorm2d)
        blocks: nn.Sequential = network.features
        self.blocks = blocks
        self.strides = tuple(_ENDS)[-levels:]
        self.channels = tuple(_ENDS[stride][1] for stride in self.strides)
        self.frozen_norms, self.unused_weights = True, ("classifier.",)
        freeze(blocks[0], blocks[1])

    def features(self, pixels: Tensor) -> list[Tensor]:
        """See `Backbone.features`."""
        ends = {_ENDS[stride][0] for stride in self.strides}
        values, maps = pixels, []
        for index, block in enumerate(self.blocks):
            values = _folded(block, values)
            if index in ends:
                maps.append(values)
        return maps


def _folded(block: Any, values: Tensor) -> Tensor:
    """A block of torchvision's network, with every norm folded into the convolution before it."""
    if hasattr(block, "use_res_connect"):
        result = _folded(block.conv, values)
        return values + result if block.use_res_connect else result
    parts = list(block) if isinstance(block, nn.Sequential) else [block]
    while parts:
        part = parts.pop(0)
        if isinstance(part, nn.Conv2d):
            values = normalized_convolution(values, part, parts.pop(0))
        elif isinstance(part, nn.Sequential):
            values = _folded(part, values)
        elif isinstance(part, nn.ReLU6):
            values = _relu6(values)
        else:
            values = part(values)
    return values


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
