"""One projection for every level of the backbone."""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.structures import FeatureMap, Levels


class ProjectionNeck(nn.Module):
    """A 1 x 1 convolution and position codes for every level (DETR, section 3.2).

    Args:
        channels: C of every level.
        width: D.
        position_encoding: takes features (B, D, h, w) and their padding, returns codes of the same shape.
    """

    def __init__(self, *, channels: tuple[int, ...], width: int, position_encoding: nn.Module) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(count, width, kernel_size=1) for count in channels)
        self.position_encoding = position_encoding

    def forward(self, features: tuple[FeatureMap, ...], image_padding: Tensor | None = None) -> Levels:  # noqa: ARG002 - it adds no levels
        """Levels of equal width, each with its position codes and padding."""
        # (B, D, h, w) each
        maps = tuple(projection(level.features) for projection, level in zip(self.projections, features, strict=True))
        paddings = tuple(level.padding for level in features)
        positions = tuple(self.position_encoding(*pair) for pair in zip(maps, paddings, strict=True))
        return Levels(maps, positions, paddings)
