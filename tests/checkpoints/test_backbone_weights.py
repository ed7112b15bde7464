"""ImageNet weights: real files with torchvision's names fill a backbone, and files of other networks are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import detrkit
from detrkit.backbones import build_backbone
from detrkit.checkpoints import load_backbone_weights, save_authors
from detrkit.errors import CheckpointError
from detrkit.structures import ImageBatch

MOBILENET = "mobilenet_v2_imagenet.safetensors"
RESNET18 = "resnet18_imagenet_stem_to_layer3.safetensors"


def complaint(backbone: str, path: Path) -> str:
    network = build_backbone(backbone)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_backbone_weights(network, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    return str(caught.value)


def torchvision_features(network: nn.Module, path: Path, pixels: Tensor) -> Tensor:
    """The features of torchvision's own network, with batch norms, for a file's weights."""
    missing, strange = network.load_state_dict(
        {name: tensor.float() for name, tensor in load_file(path).items()}, strict=False
    )
    assert all(name.endswith("num_batches_tracked") or name.startswith(("layer4", "fc")) for name in missing)
    assert strange == []
    network.eval()
    if hasattr(network, "features"):
        return network.features(pixels)
    stem = (network.conv1, network.bn1, network.relu, network.maxpool)
    return nn.Sequential(*stem, network.layer1, network.layer2, network.layer3)(pixels)


@pytest.mark.parametrize(("backbone", "file"), [("mobilenet_v2", MOBILENET), ("resnet18-c4", RESNET18)])
def test_real_weights_give_what_torchvision_gives(shared: Path, backbone: str, file: str) -> None:
    path, network = shared / "weights" / file, build_backbone(backbone)
    load_backbone_weights(network, path)
    pixels = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        wanted = torchvision_features(
            getattr(torchvision.models, backbone.removesuffix("-c4"))(weights=None), path, pixels
        )
        (found,) = network(ImageBatch(pixels))
    torch.testing.assert_close(found.features, wanted, rtol=1e-4, atol=1e-4)
    assert wanted.std() > 0.1  # trained features, not those of a dead network


@pytest.mark.parametrize(("backbone", "file"), [("mobilenet_v2", MOBILENET), ("resnet18-c4", RESNET18)])
def test_half_precision_is_widened_without_loss(shared: Path, backbone: str, file: str) -> None:
    stored, network = load_file(shared / "weights" / file), build_backbone(backbone)
    load_backbone_weights(network, shared / "weights" / file)
    assert any(tensor.dtype == torch.float16 for tensor in stored.values())
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == torch.float32
        theirs = "features." + name.removeprefix("blocks.") if backbone == "mobilenet_v2" else name
        assert torch.equal(tensor, stored[theirs].float()), name


def test_what_does_not_train_still_does_not(shared: Path) -> None:
    network = build_backbone("mobilenet_v2")
    before = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    load_backbone_weights(network, shared / "weights" / MOBILENET)
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == before[name]
        assert parameter.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet18-c4"])
def test_a_whole_network_fills_what_there_is(tmp_path: Path, backbone: str, name: str) -> None:
    weights = torchvision.models.resnet18(weights=None).state_dict()
    assert "fc.weight" in weights
    assert "bn1.num_batches_tracked" in weights
    if name.endswith("pth"):
        torch.save({"state_dict": weights}, tmp_path / name)
    else:
        save_file(weights, tmp_path / name)
    network = build_backbone(backbone)
    load_backbone_weights(network, str(tmp_path / name))
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[key]), key


def test_a_backbone_of_our_own_keeps_its_counters(tmp_path: Path) -> None:
    trained = build_backbone("compact")
    trained(ImageBatch(torch.randn(2, 3, 32, 32)))
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    network = build_backbone("compact")
    load_backbone_weights(network, tmp_path / "weights.pth")
    state = network.state_dict()
    for key, tensor in trained.state_dict().items():
        assert torch.equal(state[key], tensor), key


class TestWhatIsRefused:
    @pytest.mark.parametrize("backbone", ["resnet18"])
    def test_a_file_without_the_last_stage(self, shared: Path, backbone: str) -> None:
        path = shared / "weights" / RESNET18
        assert complaint(backbone, path) == (
            f"{path} lacks 25 tensors of this backbone, such as 'layer4.0.bn1.bias': choose the variant that ends before it (-c4)"
        )

    @pytest.mark.parametrize(
        ("backbone", "file"),
        [("resnet50", MOBILENET), ("mobilenet_v2", RESNET18), ("resnet34-c4", RESNET18), ("compact", MOBILENET)],
    )
    def test_a_file_of_another_network(self, shared: Path, backbone: str, file: str) -> None:
        path = shared / "weights" / file
        found = complaint(backbone, path)
        assert found.startswith(f"{path} lacks ")
        assert found.endswith(": give weights of the same network")

    @pytest.mark.parametrize("form", ["own", "authors"])
    def test_a_whole_detector(self, tmp_path: Path, form: str) -> None:
        model = detrkit.build("detr-r18")
        path = tmp_path / f"detector.{'safetensors' if form == 'own' else 'pth'}"
        (detrkit.save if form == "own" else save_authors)(model, path)
        assert complaint("resnet18", path) == (
            f"{path} holds a whole detector, not the weights of a backbone: start from it with weights (--weights FILE)"
        )

    def test_a_prefix_that_all_names_share_is_no_detector(self, tmp_path: Path) -> None:
        weights = torchvision.models.resnet18(weights=None).state_dict()
        path = tmp_path / "weights.pth"
        torch.save({f"backbone.{name}": value for name, value in weights.items()}, path)
        backbone = build_backbone("resnet18")
        load_backbone_weights(backbone, path)
        assert torch.equal(backbone.state_dict()["conv1.weight"], weights["conv1.weight"])

    def test_a_deeper_network(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        torch.save(torchvision.models.resnet34(weights=None).state_dict(), path)
        assert complaint("resnet18", path) == (
            f"{path} is of another network: 'layer1.2.bn1.bias' does not fit; give weights of the same network"
        )

    def test_another_shape(self, tmp_path: Path) -> None:
        weights = torchvision.models.resnet18(weights=None).state_dict()
        weights["layer2.0.conv1.weight"] = torch.zeros(128, 64, 1, 1)
        path = tmp_path / "weights.pth"
        torch.save(weights, path)
        assert complaint("resnet18", path) == (
            f"{path} is of another network: 'layer2.0.conv1.weight' does not fit; give weights of the same network"
        )

    def test_a_missing_file(self, tmp_path: Path) -> None:
        assert (
            complaint("resnet18", tmp_path / "none.pth")
            == f"there is no weight file {tmp_path / 'none.pth'}: check the path"
        )
