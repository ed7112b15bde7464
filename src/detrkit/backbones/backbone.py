"""The base of all backbones: images in, feature maps of decreasing resolution out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from detrkit.cards import IMAGENET_COLOURS, Colours
from detrkit.layers.padding import shrink_padding
from detrkit.structures import FeatureMap, ImageBatch


class Backbone(nn.Module, ABC):
    """Base of all backbones. A subclass sets the attributes and implements `features`.

    Attributes:
        channels: C of each level that is returned, finest first.
        strides: pixels per cell of each level.
        frozen_norms: True if batch norms are frozen, so that the weights must be pretrained.
        unused_weights: prefixes of the keys in torchvision's file that this backbone does not use.
        colours: of the images that its pretrained weights are for.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    frozen_norms: bool
    unused_weights: tuple[str, ...]
    colours: Colours = IMAGENET_COLOURS

    @abstractmethod
    def features(self, pixels: Tensor) -> list[Tensor]:
        """All requested levels, finest first.

        Args:
            pixels: (B, 3, H, W), normalised.

        Returns:
            (B, C, h, w) for each of `strides`.
        """

    def forward(self, batch: ImageBatch) -> tuple[FeatureMap, ...]:
        """The requested levels, each with its padding."""
        # Takes half the time of channels-first on a CPU.
        pixels = batch.pixels.contiguous(memory_format=torch.channels_last)
        return tuple(
            FeatureMap(features, shrink_padding(batch.padding, features), stride)
            for features, stride in zip(self.features(pixels), self.strides, strict=True)
        )


def freeze(*modules: nn.Module) -> None:
    """Excludes the parameters of these modules from training."""
    for module in modules:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
