"""Backbones against torchvision's own networks with the same weights and random statistics, in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torchvision
from torch import Tensor, nn

from detrkit.backbones import BACKBONES, Backbone, build_backbone
from detrkit.backbones.compact import Compact
from detrkit.backbones.mobilenet import _relu6
from detrkit.backbones.resnet import ResNet
from detrkit.errors import ConfigurationError
from detrkit.structures import ImageBatch


def randomized(network: nn.Module) -> nn.Module:
    """torchvision's network in float64 and eval mode, with norms that are not the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.double().eval()


def with_weights_of(network: nn.Module, name: str, rename: Callable[[str], str] = str, **options: int) -> Backbone:
    backbone = build_backbone(name, **options).double()
    weights = {rename(key): value for key, value in network.state_dict().items()}
    backbone.load_state_dict({key: weights[key] for key in backbone.state_dict()})
    return backbone


def resnet_stages(network: torchvision.models.ResNet, pixels: Tensor) -> Iterator[Tensor]:
    values = network.maxpool(network.relu(network.bn1(network.conv1(pixels))))
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        values = stage(values)
        yield values


def pixels_of(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, dtype=torch.float64)


RESNETS = [
    ("resnet18", 18, False, (64, 128, 256, 512), (4, 8, 16, 32)),
    ("resnet34", 34, False, (64, 128, 256, 512), (4, 8, 16, 32)),
    ("resnet50", 50, False, (256, 512, 1024, 2048), (4, 8, 16, 32)),
    ("resnet101", 101, False, (256, 512, 1024, 2048), (4, 8, 16, 32)),
    ("resnet18-c4", 18, False, (64, 128, 256), (4, 8, 16)),
    ("resnet34-c4", 34, False, (64, 128, 256), (4, 8, 16)),
    ("resnet50-c4", 50, False, (256, 512, 1024), (4, 8, 16)),
    ("resnet101-c4", 101, False, (256, 512, 1024), (4, 8, 16)),
    ("resnet50-dc5", 50, True, (256, 512, 1024, 2048), (4, 8, 16, 16)),
    ("resnet101-dc5", 101, True, (256, 512, 1024, 2048), (4, 8, 16, 16)),
]


def test_no_resnet_is_left_out() -> None:
    others = {"resnet50-caffe", "resnet101-caffe"}  # which torchvision does not have; the authors of TSP do
    assert {row[0] for row in RESNETS} | others == {name for name in BACKBONES if name.startswith("resnet")}


def test_caffes_resnet_has_the_stride_in_its_first_convolution() -> None:
    with torch.device("meta"):
        plain, caffe = (BACKBONES[name](levels=4) for name in ("resnet50", "resnet50-caffe"))
    assert (caffe.channels, caffe.strides) == (plain.channels, plain.strides)
    assert {name: value.shape for name, value in caffe.state_dict().items()} == {
        name: value.shape for name, value in plain.state_dict().items()
    }
    for stage, stride in ((1, 1), (2, 2), (3, 2), (4, 2)):
        for network, strides in ((plain, (1, stride)), (caffe, (stride, 1))):
            block = network.get_submodule(f"layer{stage}.0")
            assert (block.conv1.stride[0], block.conv2.stride[0]) == strides
            assert block.downsample[0].stride[0] == stride


@pytest.mark.parametrize(("name", "depth", "dilated", "channels", "strides"), RESNETS, ids=[row[0] for row in RESNETS])
def test_every_level_of_every_resnet_equals_torchvision(
    name: str, depth: int, dilated: bool, channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    dilation = [False, False, dilated]
    network = getattr(torchvision.models, f"resnet{depth}")(weights=None, replace_stride_with_dilation=dilation)
    randomized(network)
    backbone = with_weights_of(network, name, levels=len(strides))
    assert (backbone.channels, backbone.strides) == (channels, strides)
    pixels = pixels_of(70, 51)
    with torch.no_grad():
        levels = backbone(ImageBatch(pixels))
        expected = list(resnet_stages(network, pixels))[: len(strides)]
    for level, values, stride in zip(levels, expected, strides, strict=True):
        torch.testing.assert_close(level.features, values)
        assert level.stride == stride
        assert level.padding is None
        # An odd size is rounded up at every halving.
        assert level.features.shape[-2:] == (-(-70 // stride), -(-51 // stride))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet50-dc5", 53 - 1 - (3 * 3 + 1)),  # convolutions, without the stem and the first stage
        ("resnet18", 20 - 1 - 2 * 2),
    ],
)
def test_gradients_of_a_resnet_equal_torchvision(name: str, count: int) -> None:
    if name == "resnet18":  # has basic blocks
        network = torchvision.models.resnet18(weights=None)
    else:
        network = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
    randomized(network)
    backbone = with_weights_of(network, name)
    pixels = pixels_of(64, 48)
    (level,), expected = backbone(ImageBatch(pixels)), list(resnet_stages(network, pixels))[-1]
    direction = torch.randn_like(expected)
    (level.features * direction).sum().backward()
    (expected * direction).sum().backward()
    theirs = dict(network.named_parameters())
    trained = {name: parameter for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert len(trained) == count
    for key, parameter in trained.items():
        torch.testing.assert_close(parameter.grad, theirs[key].grad)


def test_a_new_resnet_starts_like_torchvisions() -> None:
    backbone, expected = build_backbone("resnet50"), torchvision.models.resnet50(weights=None).state_dict()
    for name, values in backbone.state_dict().items():
        assert values.shape == expected[name].shape, name
        if values.dim() == 4:
            assert abs(values.mean()) < 4 * values.std() / values.numel() ** 0.5, name
            torch.testing.assert_close(values.std(), expected[name].std(), rtol=0.05, atol=0.0)
        else:
            assert torch.equal(values, expected[name]), name


@pytest.mark.parametrize("depth", [18, 34])
def test_basic_blocks_are_not_dilated(depth: int) -> None:
    with pytest.raises(ConfigurationError, match=f"ResNet-{depth} has no dilated form: choose depth 50 or 101"):
        ResNet(depth=depth, dilated=True)


def test_mobilenet_equals_torchvision() -> None:
    network = randomized(torchvision.models.mobilenet_v2(weights=None))
    blocks = network.features
    backbone = with_weights_of(network, "mobilenet_v2", lambda name: name.replace("features.", "blocks."), levels=4)
    assert (backbone.channels, backbone.strides) == ((24, 32, 96, 1280), (4, 8, 16, 32))
    values, expected = pixels_of(70, 51), []
    with torch.no_grad():
        levels = backbone(ImageBatch(values))
        for index, block in enumerate(blocks):
            values = block(values)
            if index in (3, 6, 13, 18):
                expected.append(values)
    for level, level_values, stride in zip(levels, expected, (4, 8, 16, 32), strict=True):
        torch.testing.assert_close(level.features, level_values)
        assert level.features.shape[-2:] == (-(-70 // stride), -(-51 // stride))


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_only_the_coarsest_levels_are_returned(name: str) -> None:
    both = build_backbone(name, levels=2).eval()
    one = build_backbone(name).eval()
    one.load_state_dict(both.state_dict())
    assert one.channels == both.channels[1:]
    assert one.strides == both.strides[1:]
    batch = ImageBatch(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        (last,), (_, also_last) = one(batch), both(batch)
    torch.testing.assert_close(last.features, also_last.features, atol=1e-5, rtol=1e-4)


def test_modes_do_not_change_a_network_with_frozen_norms() -> None:
    backbone = build_backbone("resnet18")
    batch = ImageBatch(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        (first,), (second,) = backbone.train()(batch), backbone.eval()(batch)
    torch.testing.assert_close(first.features, second.features, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("resnet18", ("conv1.", "layer1.")),
        ("resnet50-dc5", ("conv1.", "layer1.")),
        ("resnet50-c4", ("conv1.", "layer1.")),
        ("mobilenet_v2", ("blocks.0.", "blocks.1.")),
    ],
)
def test_the_stem_and_the_first_stage_do_not_train(name: str, frozen: tuple[str, ...]) -> None:
    backbone = build_backbone(name)
    assert backbone.frozen_norms
    for parameter_name, parameter in backbone.named_parameters():
        assert parameter.requires_grad != parameter_name.startswith(frozen), parameter_name


def test_frozen_weights_get_no_gradient_and_all_others_do() -> None:
    backbone = build_backbone("mobilenet_v2")
    backbone(ImageBatch(torch.randn(2, 3, 64, 64)))[0].features.square().sum().backward()
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name


def test_every_part_of_the_compact_network_learns() -> None:
    backbone = Compact(widths=(8, 16, 32))
    assert not backbone.frozen_norms
    assert (backbone.channels, backbone.strides) == ((32,), (16,))
    before = {name: value.clone() for name, value in backbone.state_dict().items() if "running" in name}
    (level,) = backbone(ImageBatch(torch.randn(4, 3, 64, 48)))
    assert level.features.shape == (4, 32, 4, 3)
    level.features.square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    after = backbone.state_dict()
    assert before
    assert not any(torch.equal(value, after[name]) for name, value in before.items())


def test_the_compact_network_by_hand() -> None:
    backbone = randomized(Compact(widths=(8, 16, 32), levels=3))
    pixels = pixels_of(40, 24)
    with torch.no_grad():
        maps = [level.features for level in backbone(ImageBatch(pixels))]
        values = backbone.stem(pixels).relu()
        expected = [values]
        for stage in backbone.stages:
            values = (stage.second(stage.first(values).relu()) + stage.shortcut(values)).relu()
            expected.append(values)
    for one, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert [tuple(values.shape[1:]) for values in maps] == [(8, 10, 6), (16, 5, 3), (32, 3, 2)]


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "compact"])
def test_weights_are_laid_out_channels_last(name: str) -> None:
    for parameter in build_backbone(name).parameters():
        if parameter.dim() == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last)


def test_the_layout_of_the_pixels_does_not_matter() -> None:
    backbone = build_backbone("resnet18").double()
    pixels = pixels_of(64, 64)
    with torch.no_grad():
        (first,) = backbone(ImageBatch(pixels))
        (second,) = backbone(ImageBatch(pixels.to(memory_format=torch.channels_last)))
    torch.testing.assert_close(first.features, second.features)


def test_levels_have_their_padding() -> None:
    padding = torch.zeros(2, 64, 64, dtype=torch.bool)
    padding[1, 32:] = True
    fine, coarse = Compact(widths=(8, 16, 32), levels=2)(ImageBatch(torch.randn(2, 3, 64, 64), padding))
    assert fine.padding is not None
    assert coarse.padding is not None
    assert fine.padding.sum((1, 2)).tolist() == [0, 32]
    assert coarse.padding.sum((1, 2)).tolist() == [0, 8]
    assert coarse.padding[1, 2:].all()


def test_an_unknown_backbone_names_the_closest() -> None:
    with pytest.raises(ConfigurationError) as caught:
        build_backbone("resnet50-dc4")
    assert str(caught.value) in {
        "there is no backbone 'resnet50-dc4': did you mean 'resnet50-dc5'?",
        "there is no backbone 'resnet50-dc4': did you mean 'resnet50-c4'?",
    }


def test_relu6_has_the_values_and_the_gradient_of_torch() -> None:
    values = torch.tensor([-1.0, 0.0, 0.5, 5.9, 6.0, 7.0], dtype=torch.float64)
    gradients = []
    for function in (_relu6, torch.nn.functional.relu6):
        leaf = values.clone().requires_grad_()
        result = function(leaf * 1)
        assert result.tolist() == [0.0, 0.0, 0.5, 5.9, 6.0, 6.0]
        (result * torch.arange(1.0, 7.0)).sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)
    assert _relu6(values.clone()).tolist() == [0.0, 0.0, 0.5, 5.9, 6.0, 6.0]
