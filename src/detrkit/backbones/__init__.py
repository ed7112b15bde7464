"""Backbones by name: from an image to levels of features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from detrkit.backbones.backbone import Backbone
from detrkit.backbones.compact import Compact
from detrkit.backbones.mobilenet import MobileNetV2
from detrkit.backbones.resnet import CaffeResNet, ResNet
from detrkit.backbones.timm_networks import PREFIX, TimmBackbone
from detrkit.errors import ConfigurationError, closest

__all__ = ["BACKBONES", "Backbone", "TimmBackbone", "build_backbone"]

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "resnet18": partial(ResNet, depth=18),
    "resnet18-c4": partial(ResNet, depth=18, stages=3),
    "resnet34": partial(ResNet, depth=34),
    "resnet34-c4": partial(ResNet, depth=34, stages=3),
    "resnet50": partial(ResNet, depth=50),
    "resnet50-c4": partial(ResNet, depth=50, stages=3),
    "resnet50-dc5": partial(ResNet, depth=50, dilated=True),
    "resnet50-caffe": partial(CaffeResNet, depth=50),
    "resnet101": partial(ResNet, depth=101),
    "resnet101-c4": partial(ResNet, depth=101, stages=3),
    "resnet101-dc5": partial(ResNet, depth=101, dilated=True),
    "resnet101-caffe": partial(CaffeResNet, depth=101),
    "mobilenet_v2": MobileNetV2,
    "compact": Compact,
    "compact-c4": partial(Compact, widths=(32, 64, 128)),
    "compact-c3": partial(Compact, widths=(32, 96)),  # its one block is wider, since nothing follows it
}


def build_backbone(name: str, *, levels: int = 1) -> Backbone:
    """A backbone with random weights, laid out channels-last.

    Args:
        name: a key of `BACKBONES`; `-dc5` dilates the last stage, `-c4` ends before it, both at stride 16; `-c3` ends at stride 8;
            `-caffe` has the stride of a bottleneck in its first convolution. Or `timm/` and the name of a network of timm's, see
            `TimmBackbone`.
        levels: how many of the coarsest levels it returns.

    Raises:
        ConfigurationError: there is no such backbone.
        MissingPackageError: it is one of timm's, which is not installed.
    """
    if name.startswith(PREFIX):
        return TimmBackbone(name, levels=levels).to(memory_format=torch.channels_last)
    if name not in BACKBONES:
        listing = f"choose one of {', '.join(BACKBONES)}, or a network of timm, such as {PREFIX}convnext_tiny"
        raise ConfigurationError(f"there is no backbone '{name}': {closest(name, BACKBONES, listing=listing)}")
    return BACKBONES[name](levels=levels).to(memory_format=torch.channels_last)
