"""What is given in place of a weight file has a sentence of its own, with what to give instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import detrkit
from detrkit.backbones import build_backbone
from detrkit.errors import CheckpointError


def complaint(path: Path | str) -> str:
    with pytest.raises(CheckpointError) as caught:
        detrkit.load(path)
    return str(caught.value)


@pytest.mark.parametrize("given", ["https://example.org/a/b.pth", "http://example.org/b.safetensors"])
def test_an_address(given: str) -> None:
    wanted = (
        f"{given} is an address, and detrkit downloads only what it lists itself: download the file and give its path"
    )
    assert complaint(given) == wanted
    assert complaint(Path(given)) == wanted  # paths have one slash of two


def test_names_of_variants_and_families() -> None:
    assert complaint("light-detr-compact").startswith("'light-detr-compact' is the name of a variant, but a weight")
    assert complaint("light_detr") == (
        "'light_detr' is the name of a family of models, but a weight file is needed: give one that training wrote, or that was downloaded"
    )


def test_a_slip_of_the_pen(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"")
    (tmp_path / "best.safetensor.txt").write_bytes(b"")
    path = tmp_path / "best.safetensor"
    assert complaint(path) == f"there is no weight file {path}: did you mean 'best.safetensors'?"
    path = tmp_path / "other.pth"
    assert complaint(path) == f"there is no weight file {path}: check the path"
    path = tmp_path / "none" / "best.safetensors"
    assert complaint(path) == f"there is no weight file {path}: check the path"


def test_a_folder_of_runs(tmp_path: Path) -> None:
    for name, file in (("b", "best.safetensors"), ("a", "last.safetensors"), ("c", "other.txt")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(b"")
    assert complaint(tmp_path) == (
        f"{tmp_path} holds 2 folders with models: give one of them, such as {tmp_path / 'a'}"
    )


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("photo.jpg", b"\xff\xd8\xff\xe0"),
        ("photo.pth", b"\x89PNG\r\n\x1a\n"),
        ("photo.JPEG", b""),
        ("photo.webp", b"RIFF\x00\x00\x00\x00WEBP"),
        ("photo", b"II*\x00"),
    ],
)
def test_a_picture(tmp_path: Path, name: str, start: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(start + bytes(range(256)))
    assert complaint(path) == (
        f"{path} is a picture, and a model is needed: give the .safetensors or .pth file of one, on the command line before the pictures"
    )


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        (
            "model.onnx",
            "\x08\x07pytorch",
            "is an ONNX model, and detrkit builds its models from weights of PyTorch: give the .safetensors or .pth file that it was made from",
        ),
        (
            "detections.json",
            "[]",
            "is a JSON file, and weights are needed: give the .safetensors or .pth file of a model",
        ),
        (
            "weights.pth",
            "version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "only says where Git LFS keeps the file: fetch it with `git lfs pull`, or download it",
        ),
        ("weights.pth", "\n<!DOCTYPE html>", "is a web page, not the file that it leads to: download the weights themselves"),
    ],
)  # fmt: skip
def test_other_files(tmp_path: Path, name: str, content: str, wanted: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert complaint(path) == f"{path} {wanted}"


@pytest.mark.parametrize(("backbone", "network"), [("resnet18", "ResNet"), ("resnet50", "ResNet")])
@pytest.mark.parametrize("prefix", ["", "module.body."])
def test_weights_of_a_backbone(tmp_path: Path, backbone: str, network: str, prefix: str) -> None:
    path = tmp_path / "weights.safetensors"
    source = build_backbone(backbone)
    save_file({f"{prefix}{name}": each.contiguous() for name, each in source.state_dict().items()}, path)
    assert complaint(path) == (
        f"{path} holds a {network} for classifying images, and a detector is needed: train one that begins with these weights "
        "(`detrkit train VARIANT --backbone-weights FILE`), or give a detector's file"
    )


@pytest.mark.parametrize(
    ("file", "network"),
    [
        ("mobilenet_v2_imagenet", "MobileNetV2"),
        ("resnet18_imagenet_stem_to_layer3", "ResNet"),
        ("squeezenet1_1_imagenet", "SqueezeNet"),
    ],
)
def test_published_weights_of_a_backbone(shared: Path, file: str, network: str) -> None:
    assert f" holds a {network} for classifying images" in complaint(shared / "weights" / f"{file}.safetensors")


def test_the_state_of_a_run_names_the_model_beside_it(tmp_path: Path) -> None:
    model = detrkit.build("detr-compact", queries=5)
    torch.save(
        {"state_dict": {f"model.{name}": each for name, each in model.state_dict().items()}}, tmp_path / "a.ckpt"
    )
    assert "or training wrote, or give `variant`" in complaint(tmp_path / "a.ckpt")
    (tmp_path / "last.safetensors").write_bytes(b"")
    assert "or training wrote (last.safetensors beside it), or give" in complaint(tmp_path / "a.ckpt")
