"""What every backbone is: images in, feature maps of falling resolution out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from detrkit.layers.padding import shrink_padding
from detrkit.structures import FeatureMap, ImageBatch


class Backbone(nn.Module, ABC):
    """Base of all backbones. A subclass fills in the attributes and `features`.

    Attributes:
        channels: C of each level that is returned, finest first.
        strides: pixels for one cell of each level.
        frozen_norms: True where batch norms are frozen, so that the weights must come pretrained.
        unused_weights: beginnings of keys in torchvision's file that this backbone has no place for.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    frozen_norms: bool
    unused_weights: tuple[str, ...]

    @abstractmethod
    def features(self, pixels: Tensor) -> list[Tensor]:
        """Every level that is wanted, finest first.

        Args:
            pixels: (B, 3, H, W), normalised.

        Returns:
            (B, C, h, w) for each of `strides`.
        """

    def forward(self, batch: ImageBatch) -> tuple[FeatureMap, ...]:
        """Levels with the padding that belongs to them."""
        pixels = batch.pixels.contiguous(memory_format=torch.channels_last)  # half the time of channels-first on a CPU
        return tuple(
            FeatureMap(features, shrink_padding(batch.padding, features), stride)
            for features, stride in zip(self.features(pixels), self.strides, strict=True)
        )


def freeze(*modules: nn.Module) -> None:
    """Takes the parameters of these modules out of training."""
    for module in modules:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
