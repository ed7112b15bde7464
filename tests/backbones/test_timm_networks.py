"""Networks of timm as backbones, against timm's own `features_only` form with the same weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import detrkit
from detrkit.backbones import build_backbone
from detrkit.checkpoints import load_backbone_weights, to_official
from detrkit.errors import CheckpointError, ConfigurationError, MissingPackageError, OptionError
from detrkit.structures import ImageBatch
from detrkit.training.optimizer import build_optimizer, parameter_groups

# Small ones of each kind: batch norms, layer norms, channels last (MambaOut and Swin, which was made for one size), no pyramid, hooks of timm's own.
LEVELS = [
    ("test_resnet", 4, (4, 8, 16, 32), (32, 48, 192, 96)),
    ("test_convnext", 3, (8, 16, 32), (32, 48, 64)),
    ("test_convnext", 1, (32,), (64,)),
    ("test_mambaout", 2, (16, 32), (48, 64)),
    ("swin_tiny_patch4_window7_224", 3, (8, 16, 32), (192, 384, 768)),
    ("mobilenetv4_conv_small", 3, (8, 16, 32), (64, 96, 960)),
    ("test_vit", 1, (16,), (64,)),
    ("test_convnext-c4", 2, (8, 16), (32, 48)),
    ("test_resnet-c3", 1, (8,), (48,)),
]
SMALL = {"queries": 8, "width": 64, "hidden": 64, "encoder_layers": 1, "decoder_layers": 2}


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def with_random_statistics(network: nn.Module) -> nn.Module:
    """Norms that are not the identity."""
    for norm in (module for module in network.modules() if isinstance(module, _BatchNorm)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.running_mean, std=0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return network.eval()


def file_of(network: nn.Module, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return path


def plain(name: str) -> str:
    return name.removesuffix("-c4").removesuffix("-c3")


def any_size(name: str) -> dict[str, bool]:
    return {"dynamic_img_size": True} if timm.get_pretrained_cfg(plain(name)).fixed_input_size else {}


def whole(name: str) -> nn.Module:
    """timm's network with its classifier."""
    return with_random_statistics(timm.create_model(plain(name), **any_size(name)))


@pytest.mark.parametrize(("name", "levels", "strides", "channels"), LEVELS, ids=lambda value: str(value))
def test_levels_are_those_of_timm(
    name: str, levels: int, strides: tuple[int, ...], channels: tuple[int, ...], tmp_path: Path
) -> None:
    network = whole(name)
    backbone = build_backbone(f"timm/{name}", levels=levels).train()
    load_backbone_weights(backbone, file_of(network, tmp_path))
    assert (backbone.strides, backbone.channels) == (strides, channels)
    pixels = torch.randn(2, 3, 64, 96)
    features = timm.create_model(plain(name), features_only=True, **any_size(name)).eval()
    backbone_names = {key.removeprefix("net."): tensor for key, tensor in backbone.state_dict().items()}
    _, strange = features.load_state_dict(backbone_names, strict=False)
    assert strange == []
    reductions = features.feature_info.reduction()
    with torch.no_grad():
        expected = {
            stride: each for stride, each in zip(reductions, features(pixels), strict=True) if stride in strides
        }
        result = backbone.eval()(ImageBatch(pixels))
    assert [level.stride for level in result] == list(strides)
    for level, width in zip(result, channels, strict=True):
        own = expected[level.stride]
        own = own.permute(0, 3, 1, 2) if own.shape[1] != width else own
        assert level.features.shape[1:] == (width, 64 // level.stride, 96 // level.stride)
        assert_close(level.features, own, 1e-4)
    # What comes from the file is what timm's whole network has.
    own_tensors = {key.replace("_", "."): tensor for key, tensor in network.state_dict().items()}
    for key, tensor in backbone_names.items():
        assert torch.equal(tensor, own_tensors[key.removeprefix("model.").replace("_", ".")])


@pytest.mark.parametrize("name", ["test_convnext", "test_mambaout", "swin_tiny_patch4_window7_224", "hrnet_w18_small"])
def test_images_of_any_size_have_levels_and_padding_of_whole_cells(name: str) -> None:
    backbone = build_backbone(f"timm/{name}", levels=2).eval()
    padding = torch.zeros(1, 70, 101, dtype=torch.bool)
    padding[:, 33:] = padding[:, :, 64:] = True
    with torch.no_grad():
        levels = backbone(ImageBatch(torch.randn(1, 3, 70, 101), padding))
    assert [level.features.shape[-2:] for level in levels] == [(5, 7), (3, 4)]
    assert [level.features.isfinite().all().item() for level in levels] == [True, True]
    for level in levels:
        assert level.padding is not None
        rows = [bool(padding[0, row * 70 // level.padding.shape[1], 0]) for row in range(level.padding.shape[1])]
        columns = [
            bool(padding[0, 0, column * 101 // level.padding.shape[2]]) for column in range(level.padding.shape[2])
        ]
        assert level.padding[0].tolist() == [[row or column for column in columns] for row in rows]


def test_real_weights_give_what_our_own_network_gives(shared: Path) -> None:
    file = shared / "weights" / "resnet18_imagenet_stem_to_layer3.safetensors"
    ours, timms = build_backbone("resnet18-c4"), build_backbone("timm/resnet18-c4")
    for backbone in (ours, timms):
        load_backbone_weights(backbone, file)
        backbone.train()  # norms are frozen
    batch = ImageBatch(torch.randn(1, 3, 96, 64))
    (expected,), (level,) = ours(batch), timms(batch)
    assert (level.stride, timms.channels) == (16, ours.channels)
    assert_close(level.features, expected.features, 1e-4)


def test_batch_norms_stay_as_they_are_and_everything_else_learns() -> None:
    backbone = build_backbone("timm/test_resnet", levels=2)
    with_random_statistics(backbone)
    assert backbone.frozen_norms
    norms = {name: module for name, module in backbone.named_modules() if isinstance(module, _BatchNorm)}
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([each for each in backbone.parameters() if each.requires_grad], lr=0.1)
    sum(level.features.square().mean() for level in backbone.train()(ImageBatch(torch.randn(2, 3, 64, 64)))).backward()
    optimizer.step()
    of_norms = {f"{name}.{tensor}" for name, norm in norms.items() for tensor in norm.state_dict()}
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name in of_norms), name
    assert not build_backbone("timm/test_convnext").frozen_norms


def test_the_card_has_the_colours_of_the_pretrained_weights() -> None:
    model = detrkit.build("detr-compact", classes=["cat"], backbone="timm/test_convnext", **SMALL)
    assert (model.card.preprocessing.mean, model.card.preprocessing.deviation) == ((0.5,) * 3, (0.5,) * 3)
    given = detrkit.Preprocessing(64, 96, mean=(0.1, 0.2, 0.3), deviation=(1.0, 1.0, 1.0))
    model = detrkit.build("detr-compact", classes=["cat"], preprocessing=given, backbone="timm/test_convnext", **SMALL)
    assert (model.card.preprocessing.mean, model.card.preprocessing.deviation) == (given.mean, given.deviation)


@pytest.mark.parametrize("backbone", ["timm/test_convnext", "timm/test_resnet"])
def test_a_saved_model_is_the_same_when_it_is_loaded(backbone: str, tmp_path: Path) -> None:
    model = detrkit.build("deformable-detr-compact", classes=["cat"], backbone=backbone, **SMALL).eval()
    with_random_statistics(model.backbone)
    loaded = detrkit.load(detrkit.save(model, tmp_path / "model.safetensors"))
    assert loaded.card == model.card
    batch = ImageBatch(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        levels, expected = loaded.backbone(batch), model.backbone(batch)
    assert all(torch.equal(level.features, other.features) for level, other in zip(levels, expected, strict=True))


def test_export_takes_images_of_any_size() -> None:
    model = detrkit.build("detr-compact", classes=["cat"], backbone="timm/test_convnext", **SMALL).eval()
    count, size = torch.export.Dim("count", min=1), torch.export.Dim.DYNAMIC
    shapes = ([{0: count, 2: size, 3: size}, {0: count, 1: size, 2: size}],)
    example = ImageBatch(torch.randn(2, 3, 96, 128), torch.zeros(2, 96, 128, dtype=torch.bool))
    program = torch.export.export(model, (example,), dynamic_shapes=shapes).module()
    batch = ImageBatch(torch.randn(3, 3, 80, 101), torch.zeros(3, 80, 101, dtype=torch.bool))
    with torch.no_grad():
        assert_close(program(batch).logits, model(batch).logits, 1e-4)


def test_learning_rates_are_those_of_a_backbone_and_fall_with_depth() -> None:
    model = detrkit.build("detr-compact", classes=["cat"], backbone="timm/test_convnext", **SMALL)
    rates = {"lr": 1.0, "backbone_lr": 0.5}
    plain = {group["name"]: group["lr"] for group in parameter_groups(model, **rates)}
    assert plain == {"model": 1.0, "backbone": 0.5}
    optimizer = build_optimizer(model, **rates, weight_decay=0.0, layer_decay=0.5)
    rate_of = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    named = {name: rate_of[id(each)] for name, each in model.backbone.named_parameters()}
    assert named["net.stages_3.blocks.1.conv_dw.weight"] == 0.5
    assert named["net.stem_0.weight"] == min(named.values())
    firsts = [named[f"net.stages_{stage}.blocks.0.conv_dw.weight"] for stage in range(4)]
    assert firsts == sorted(set(firsts))


@pytest.mark.parametrize(
    ("name", "levels", "complaint"),
    [
        ("test_vit", 3, "timm/test_vit has features of stride 16, and the model needs 3 levels of stride 32 or less: choose another backbone"),
        ("test_vit-c3", 1, "timm/test_vit-c3 has features of stride 16, and the model needs a level of stride 8 or less: choose another backbone"),
        ("mvitv2_tiny", 1, "timm/mvitv2_tiny takes only images of 224 x 224 pixels: choose another backbone"),
        ("convnextt_tiny", 1, "timm has no network 'convnextt_tiny': did you mean 'convnext_tiny'?"),
        ("resnet26.other", 1, "timm has no weights 'other' of resnet26: its tags are bt_in1k"),
        ("mixer_s16_224", 1, None),
    ],
)  # fmt: skip
def test_networks_that_do_not_fit_are_refused(name: str, levels: int, complaint: str | None) -> None:
    with pytest.raises(OptionError) as caught:
        build_backbone(f"timm/{name}", levels=levels)
    assert complaint is None or str(caught.value) == complaint
    assert caught.value.options == ("backbone",)


def test_strides_that_a_model_needs_are_named() -> None:
    with pytest.raises(ConfigurationError, match="has maps of stride 4, 8, 16, and those of stride 8, 16 and 32"):
        detrkit.build("deformable-detr-compact", classes=["cat"], backbone="timm/test_convnext-c4", **SMALL)


def test_files_of_other_networks_are_refused(tmp_path: Path) -> None:
    backbone = build_backbone("timm/test_resnet")
    file = file_of(timm.create_model("test_convnext"), tmp_path)
    with pytest.raises(CheckpointError, match=r"lacks \d+ tensors of this backbone"):
        load_backbone_weights(backbone, file)
    deeper = timm.create_model("test_resnet").state_dict() | {"layer4.9.conv1.weight": torch.zeros(1)}
    save_file({name: each.contiguous() for name, each in deeper.items()}, file)
    with pytest.raises(CheckpointError, match=r"is of another network: 'layer4\.9\.conv1\.weight' does not fit"):
        load_backbone_weights(backbone, file)


def test_files_of_authors_are_read_as_timm_reads_them(tmp_path: Path) -> None:
    network, file = timm.create_model("convnext_atto"), tmp_path / "authors.pth"

    def authors_name(name: str) -> str:
        for old, new in (
            ("stages.", "stages."),
            ("conv_dw.", "dwconv."),
            ("mlp.fc", "pwconv"),
            ("head.norm.", "norm."),
            ("head.fc.", "head."),
        ):
            name = name.replace(old, new)
        if name.startswith("stem."):
            return name.replace("stem.", "downsample_layers.0.")
        if ".downsample." in name:
            _, stage, _, rest = name.split(".", 3)
            return f"downsample_layers.{stage}.{rest}"
        return name.replace(".blocks.", ".")

    torch.save({"model": {authors_name(name): each for name, each in network.state_dict().items()}}, file)
    backbone = build_backbone("timm/convnext_atto", levels=3)
    load_backbone_weights(backbone, file)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(backbone.eval()(ImageBatch(pixels))[-1].features, _before_head(network.eval(), pixels), 1e-5)


def _before_head(network: nn.Module, pixels: Tensor) -> Tensor:
    return network.forward_features(pixels)


def test_authors_have_no_names_for_it() -> None:
    model = detrkit.build("detr-compact", classes=["cat"], backbone="timm/test_convnext", **SMALL)
    with pytest.raises(
        CheckpointError, match=r"no authors have names .* timm/test_convnext: write it with detrkit.save"
    ):
        to_official(model.state_dict(), model)


def test_what_is_missing_is_said_where_timm_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = detrkit.build("detr-compact", classes=["cat"], backbone="timm/test_convnext", **SMALL)
    path, find = detrkit.save(model, tmp_path / "model.safetensors"), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else find(name))
    missing = "the backbone timm/test_convnext is one of timm, which is not installed: pip install 'detrkit[timm]'"
    with pytest.raises(CheckpointError) as of_file:
        detrkit.load(path)
    assert str(of_file.value) == f"{path} cannot be loaded here: {missing}"
    with pytest.raises(MissingPackageError) as of_build:
        detrkit.build("detr-compact", backbone="timm/test_convnext")
    assert str(of_build.value) == missing
