"""The neck projects every level by its own matrix and lays the right position codes beside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detrkit.necks import ProjectionNeck
from detrkit.structures import FeatureMap


class Recorder(nn.Module):
    """A position encoding that gives minus the features and remembers the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.paddings: list[Tensor | None] = []

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        self.paddings.append(padding)
        return -features


def test_every_level_has_a_projection_of_its_own() -> None:
    recorder = Recorder()
    neck = ProjectionNeck(channels=(3, 5), width=4, position_encoding=recorder).double()
    padding = torch.zeros(2, 3, 2, dtype=torch.bool)
    features = (
        FeatureMap(torch.randn(2, 3, 6, 4, dtype=torch.float64), None, 16),
        FeatureMap(torch.randn(2, 5, 3, 2, dtype=torch.float64), padding, 32),
    )
    levels = neck(features)
    for level, projection, found in zip(features, neck.projections, levels.maps, strict=True):
        assert isinstance(projection, nn.Conv2d)
        matrix = projection.weight[:, :, 0, 0]
        assert projection.bias is not None
        wanted = torch.einsum("bchw,dc->bdhw", level.features, matrix) + projection.bias[:, None, None]
        torch.testing.assert_close(found, wanted)
    assert all(torch.equal(position, -level) for position, level in zip(levels.positions, levels.maps, strict=True))
    assert levels.paddings == (None, padding)
    assert recorder.paddings == [None, padding]


def test_a_missing_level_is_not_passed_over() -> None:
    neck = ProjectionNeck(channels=(3, 5), width=4, position_encoding=Recorder())
    with pytest.raises(ValueError, match="zip"):
        neck((FeatureMap(torch.randn(1, 3, 2, 2), None, 16),))
