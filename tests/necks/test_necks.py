"""Necks project every level by its own matrix, make the levels that are missing, and lay the right position codes beside them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import ConfigurationError
from detrkit.layers.padding import shrink_padding
from detrkit.necks.multi_scale import MultiScaleNeck
from detrkit.necks.projection import ProjectionNeck
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


def multi_scale(levels: int = 4) -> MultiScaleNeck:
    """Over two levels of stride 8 and 16; no weight is as it begins."""
    neck = MultiScaleNeck(
        channels=(3, 5), strides=(8, 16), width=32, levels=levels, position_encoding=Recorder()
    ).double()
    for parameter in neck.parameters():
        nn.init.normal_(parameter)
    return neck


def two_levels(padding: Tensor | None = None, height: int = 64, width: int = 96) -> tuple[FeatureMap, FeatureMap]:
    maps = [
        torch.randn(2, channels, height // stride, width // stride, dtype=torch.float64)
        for channels, stride in ((3, 8), (5, 16))
    ]
    first, second = (
        FeatureMap(level, shrink_padding(padding, level), stride) for level, stride in zip(maps, (8, 16), strict=True)
    )
    return first, second


def projected(part: nn.Module, features: Tensor, **options: int) -> Tensor:
    """A convolution, then a group norm of 32 groups written out."""
    assert isinstance(part, nn.Sequential)
    convolution, norm = part
    values = F.conv2d(features, convolution.weight, convolution.bias, **options)  # type: ignore[arg-type]
    groups = values.unflatten(1, (32, -1))
    mean, variance = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), keepdim=True, unbiased=False)
    normed = ((groups - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
    return normed * norm.weight[:, None, None] + norm.bias[:, None, None]  # type: ignore[operator, index]


class TestMultiScaleNeck:
    def test_the_first_extra_level_is_of_raw_features_and_the_next_of_that(self) -> None:
        neck, features = multi_scale(), two_levels()
        levels = neck(features)
        wanted = [projected(part, level.features) for part, level in zip(neck.projections[:2], features, strict=True)]
        wanted.append(projected(neck.projections[2], features[-1].features, stride=2, padding=1))
        wanted.append(projected(neck.projections[3], wanted[-1], stride=2, padding=1))
        assert [tuple(level.shape) for level in levels.maps] == [
            (2, 32, 8, 12),
            (2, 32, 4, 6),
            (2, 32, 2, 3),
            (2, 32, 1, 2),
        ]
        for found, expected in zip(levels.maps, wanted, strict=True):
            torch.testing.assert_close(found, expected)
        assert all(torch.equal(position, -level) for position, level in zip(levels.positions, levels.maps, strict=True))
        assert levels.paddings == (None,) * 4

    def test_padding_of_extra_levels_is_that_of_the_images(self) -> None:
        padding = torch.zeros(2, 64, 96, dtype=torch.bool)
        padding[0, :, 65:] = True  # the third cell of stride 32 begins at pixel 64, which is image
        padding[1, 32:], padding[1, :, 40:] = True, True
        neck = multi_scale()
        levels = neck(two_levels(padding), padding)
        assert levels.paddings[2] is not None
        assert levels.paddings[2].tolist() == [
            [[False, False, False], [False, False, False]],
            [[False, False, True], [True, True, True]],
        ]
        assert levels.paddings[3] is not None
        assert levels.paddings[3].tolist() == [[[False, False]], [[False, True]]]  # these begin at pixels 0 and 48
        recorder = neck.position_encoding
        assert isinstance(recorder, Recorder)
        for seen, given in zip(recorder.paddings, levels.paddings, strict=True):
            assert seen is given

    def test_it_does_not_come_from_the_level_before(self) -> None:
        padding = torch.zeros(2, 80, 112, dtype=torch.bool)
        padding[:, 20:] = True
        levels = multi_scale(levels=3)(two_levels(padding, 80, 112), padding)
        second, third = levels.paddings[1:]
        assert second is not None
        assert third is not None
        # Rows begin at pixels 0, 16, 32, ... and 0, 26, 53; the second of the level before is image.
        assert second[0, :, 0].tolist() == [False, False, True, True, True]
        assert third[0, :, 0].tolist() == [False, True, True]

    def test_projections_begin_as_xavier_says(self) -> None:
        neck = MultiScaleNeck(channels=(64, 128), strides=(8, 16), width=64, levels=3, position_encoding=Recorder())
        for part, fan in zip(neck.projections, (64 + 64, 128 + 64, 9 * (128 + 64)), strict=True):
            assert isinstance(part, nn.Sequential)
            bound = (6 / fan) ** 0.5
            assert 0.98 * bound < part[0].weight.abs().max().item() <= bound
            assert not part[0].bias.any()

    def test_one_level_needs_no_others(self) -> None:
        neck = MultiScaleNeck(channels=(5,), strides=(16,), width=32, levels=1, position_encoding=Recorder()).double()
        _, coarse = two_levels()
        (level,) = neck((coarse,)).maps
        torch.testing.assert_close(level, projected(neck.projections[0], coarse.features))

    def test_a_norm_of_ones_choice_or_none(self) -> None:
        features = two_levels()
        sizes = {"channels": (3, 5), "strides": (8, 16), "width": 6, "levels": 3, "position_encoding": Recorder()}
        bare = MultiScaleNeck(**sizes, norm=None).double()  # type: ignore[arg-type]
        assert set(bare.state_dict()) == {f"projections.{n}.0.{leaf}" for n in range(3) for leaf in ("weight", "bias")}
        normed = MultiScaleNeck(**sizes, norm=nn.BatchNorm2d).double()  # type: ignore[arg-type]
        normed.load_state_dict(bare.state_dict(), strict=False)
        convolutions = [part[0] for part in bare.projections]  # type: ignore[index]
        options = [{}, {}, {"stride": 2, "padding": 1}]
        inputs = [level.features for level in (*features, features[-1])]
        for index, convolution in enumerate(convolutions):
            wanted = F.conv2d(inputs[index], convolution.weight, convolution.bias, **options[index])  # type: ignore[arg-type]
            torch.testing.assert_close(bare(features).maps[index], wanted)
            torch.testing.assert_close(normed(features).maps[index], nn.BatchNorm2d(6).double()(wanted))

    def test_fewer_levels_than_the_backbone_has_are_refused(self) -> None:
        with pytest.raises(
            ConfigurationError,
            match=r"^the backbone has 2 levels but the neck makes only 1: take fewer from the backbone$",
        ):
            multi_scale(levels=1)

    def test_levels_of_another_backbone_are_refused(self) -> None:
        first, second = two_levels()
        for levels, strides in (((first,), r"\(8,\)"), ((second, first), r"\(16, 8\)")):
            message = rf"^the neck was built for levels of stride \(8, 16\) but got {strides}: give it the levels of its own backbone$"
            with pytest.raises(ConfigurationError, match=message):
                multi_scale()(levels)

    @pytest.mark.parametrize("size", [(56, 96), (96, 48)])
    def test_an_image_smaller_than_the_coarsest_cell_is_refused(self, size: tuple[int, int]) -> None:
        height, width = size
        with pytest.raises(ConfigurationError) as caught:
            multi_scale()(two_levels(None, height, width))
        assert str(caught.value) == (
            f"images of about {height} x {width} pixels are smaller than one cell of the coarsest level, 64 pixels: "
            "pad or enlarge them to at least that"
        )
        multi_scale()(two_levels(None, 64, 64))  # one whole cell is enough
