"""Levels of several resolutions, for multi-scale papers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from detrkit.errors import ConfigurationError
from detrkit.layers.padding import shrink_padding
from detrkit.structures import FeatureMap, Levels


def group_norm(width: int) -> nn.Module:
    """A norm over 32 groups of channels; the width is a multiple of 32."""
    return nn.GroupNorm(32, width)


class MultiScaleNeck(nn.Module):
    """Levels of several resolutions at the width of the transformer, each normed (Deformable DETR, appendix A.2).

    The backbone's levels get a 1 x 1 convolution; the next coarser level is a 3 x 3 convolution of the backbone's last level with
    stride 2, and any further level is such a convolution of the level before it.

    Args:
        channels: C of every level of the backbone, finest first.
        strides: image pixels per cell of every level of the backbone.
        width: D.
        levels: how many levels to make, at least as many as the backbone has.
        position_encoding: takes features (B, D, h, w) and their padding, returns codes of the same shape.
        norm: builds the norm after each convolution, given D; None for no norms.

    Raises:
        ConfigurationError: fewer levels than the backbone has.
    """

    def __init__(
        self,
        *,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        width: int,
        levels: int,
        position_encoding: nn.Module,
        norm: Callable[[int], nn.Module] | None = group_norm,
    ) -> None:
        super().__init__()
        if levels < len(channels):
            raise ConfigurationError(
                f"the backbone has {len(channels)} levels but the neck makes only {levels}: take fewer from the backbone"
            )
        extra = levels - len(channels)
        convolutions = [nn.Conv2d(count, width, kernel_size=1) for count in channels]
        for index in range(extra):
            convolutions.append(nn.Conv2d(width if index else channels[-1], width, kernel_size=3, stride=2, padding=1))
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        norms = [[] if norm is None else [norm(width)] for _ in convolutions]
        self.projections = nn.ModuleList(
            nn.Sequential(first, *rest) for first, rest in zip(convolutions, norms, strict=True)
        )
        self.position_encoding = position_encoding
        self.strides, self.coarsest_stride = strides, strides[-1] * 2**extra

    def forward(self, features: tuple[FeatureMap, ...], image_padding: Tensor | None = None) -> Levels:
        """Levels of equal width, each with its position codes and padding.

        Args:
            features: the levels of the backbone.
            image_padding: (B, H, W) bool of the images themselves, for levels that the backbone does not provide; None where nothing is padded.

        Raises:
            ConfigurationError: the levels are not the backbone's, or the images are smaller than one cell of the coarsest level.
        """
        self._check(features)
        maps = [projection(level.features) for projection, level in zip(self.projections, features, strict=False)]
        paddings = [level.padding for level in features]
        for index, projection in enumerate(self.projections[len(features) :]):
            maps.append(projection(maps[-1] if index else features[-1].features))  # (B, D, h, w)
            paddings.append(self.added_padding(maps[-1], image_padding, paddings[-1]))
        positions = tuple(self.position_encoding(*pair) for pair in zip(maps, paddings, strict=True))
        return Levels(tuple(maps), positions, tuple(paddings))

    def added_padding(
        self,
        features: Tensor,
        image_padding: Tensor | None,
        before: Tensor | None,  # noqa: ARG002 - for papers that shrink this one
    ) -> Tensor | None:
        """The padding of a level that the backbone does not provide, (B, h, w) bool or None.

        Args:
            features: (B, D, h, w), the level.
            image_padding: (B, H, W) bool of the images themselves, or None.
            before: padding of the next finer level, or None.
        """
        return shrink_padding(image_padding, features)

    def _check(self, features: tuple[FeatureMap, ...]) -> None:
        strides = tuple(level.stride for level in features)
        if strides != self.strides:
            raise ConfigurationError(
                f"the neck was built for levels of stride {self.strides} but got {strides}: give it the levels of its own backbone"
            )
        height, width = features[0].features.shape[-2:]
        # Measured in cells of the finest level, which round least. The coarsest level can learn nothing from images that are too small.
        if height * strides[0] < self.coarsest_stride or width * strides[0] < self.coarsest_stride:
            raise ConfigurationError(
                f"images of about {height * strides[0]} x {width * strides[0]} pixels are smaller than one cell of the coarsest level, "
                f"{self.coarsest_stride} pixels: pad or enlarge them to at least that"
            )
