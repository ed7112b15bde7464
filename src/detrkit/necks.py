"""From the backbone's levels to the width of the transformer."""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.errors import ConfigurationError
from detrkit.layers.padding import shrink_padding
from detrkit.structures import FeatureMap, Levels


class ProjectionNeck(nn.Module):
    """A 1 x 1 convolution for every level (DETR, section 3.2), and the position codes beside it.

    Args:
        channels: C of every level.
        width: D.
        position_encoding: takes features (B, D, h, w) and their padding, gives codes of the same shape.
    """

    def __init__(self, *, channels: tuple[int, ...], width: int, position_encoding: nn.Module) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(count, width, kernel_size=1) for count in channels)
        self.position_encoding = position_encoding

    def forward(self, features: tuple[FeatureMap, ...], image_padding: Tensor | None = None) -> Levels:  # noqa: ARG002 - no level of its own
        """Levels of equal width, each with its position codes and padding."""
        maps = tuple(
            projection(level.features) for projection, level in zip(self.projections, features, strict=True)
        )  # (B, D, h, w) each
        paddings = tuple(level.padding for level in features)
        positions = tuple(self.position_encoding(*pair) for pair in zip(maps, paddings, strict=True))
        return Levels(maps, positions, paddings)


class MultiScaleNeck(nn.Module):
    """Levels of several resolutions at the width of the transformer, each normed (Deformable DETR, appendix A.2).

    The backbone's levels get a 1 x 1 convolution; the next coarser one is a 3 x 3 convolution with stride 2 of the backbone's last, and
    any further one the same of the level before it.

    Args:
        channels: C of every level of the backbone, finest first.
        strides: pixels for one cell of every level of the backbone.
        width: D; a multiple of 32, the number of groups of the norms.
        levels: how many levels to make, at least as many as the backbone has.
        position_encoding: takes features (B, D, h, w) and their padding, gives codes of the same shape.

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
    ) -> None:
        super().__init__()
        if levels < len(channels):
            raise ConfigurationError(
                f"the backbone has {len(channels)} levels but only {levels} are wanted: take fewer from the backbone"
            )
        extra = levels - len(channels)
        parts = [nn.Conv2d(count, width, kernel_size=1) for count in channels]
        for index in range(extra):
            parts.append(nn.Conv2d(width if index else channels[-1], width, kernel_size=3, stride=2, padding=1))
        for part in parts:
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)  # type: ignore[arg-type]
        self.projections = nn.ModuleList(nn.Sequential(part, nn.GroupNorm(32, width)) for part in parts)
        self.position_encoding = position_encoding
        self.strides, self.coarsest = strides, strides[-1] * 2**extra

    def forward(self, features: tuple[FeatureMap, ...], image_padding: Tensor | None = None) -> Levels:
        """Levels of equal width, each with its position codes and padding.

        Args:
            features: the levels of the backbone.
            image_padding: (B, H, W) bool of the images themselves, for the levels that the backbone has not; None where nothing is padded.

        Raises:
            ConfigurationError: the levels are not those of the backbone, or the images are smaller than one cell of the coarsest level.
        """
        self._check(features)
        maps = [projection(level.features) for projection, level in zip(self.projections, features, strict=False)]
        paddings = [level.padding for level in features]
        for index, projection in enumerate(self.projections[len(features) :]):
            maps.append(projection(maps[-1] if index else features[-1].features))  # (B, D, h, w)
            paddings.append(shrink_padding(image_padding, maps[-1]))
        positions = tuple(self.position_encoding(*pair) for pair in zip(maps, paddings, strict=True))
        return Levels(tuple(maps), positions, tuple(paddings))

    def _check(self, features: tuple[FeatureMap, ...]) -> None:
        strides = tuple(level.stride for level in features)
        if strides != self.strides:
            raise ConfigurationError(
                f"the neck was built for levels of stride {self.strides} but got {strides}: give it those of its backbone"
            )
        height, width = features[0].features.shape[-2:]
        # In cells of the finest level, whose rounding is the least; an image that small tells the coarsest level nothing.
        if height * strides[0] < self.coarsest or width * strides[0] < self.coarsest:
            raise ConfigurationError(
                f"images of about {height * strides[0]} x {width * strides[0]} pixels are smaller than one cell of the coarsest level, "
                f"{self.coarsest} pixels: pad or enlarge them to at least that"
            )
