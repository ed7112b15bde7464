"""DETR against `transformers`' own, with the same random weights, through a file that it saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import detrkit
from detrkit.structures import ImageBatch, Target

transformers = pytest.importorskip("transformers", reason="needs the dev extra: pip install detrkit[dev]")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, detrkit.Detector]:
    torch.manual_seed(1)
    config = transformers.DetrConfig(
        backbone_config=transformers.ResNetConfig(out_features=["stage4"]),
        use_timm_backbone=False,
        num_queries=30,
        encoder_layers=2,
        decoder_layers=3,
        auxiliary_loss=True,
        id2label={0: "cat", 1: "dog", 2: "N/A"},
    )
    theirs = transformers.DetrForObjectDetection(config).eval()
    for module in theirs.modules():  # fresh statistics would hide a wrong norm
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    return theirs, detrkit.load(folder / "model.safetensors")


def batch() -> ImageBatch:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(2, 3, 224, 288, generator=generator)
    padding = torch.zeros(2, 224, 288, dtype=torch.bool)
    padding[0, 170:], padding[1, :, 200:] = True, True
    return ImageBatch(pixels.masked_fill(padding[:, None], 0), padding)


LABELS = [
    {"class_labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.5]])},
    {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.2]])},
]


def test_outputs_and_losses_agree(pair: tuple[torch.nn.Module, detrkit.Detector]) -> None:
    theirs, ours = pair
    images = batch()
    targets = [Target(labels=each["class_labels"], boxes_cxcywh=each["boxes"]) for each in LABELS]
    with torch.no_grad():
        expected = theirs(pixel_values=images.pixels, pixel_mask=~images.padding, labels=LABELS)
        output = ours(images)
        losses = detrkit.criterion_for(ours)(output, targets)
    theirs_by_layer = [*expected.auxiliary_outputs, {"logits": expected.logits, "pred_boxes": expected.pred_boxes}]
    for layer, wanted in zip(output.layers, theirs_by_layer, strict=True):
        torch.testing.assert_close(layer.logits, wanted["logits"], atol=1e-4, rtol=0)
        torch.testing.assert_close(layer.boxes_cxcywh, wanted["pred_boxes"], atol=4e-5, rtol=0)
    names = {"loss_ce": "class", "loss_bbox": "l1", "loss_giou": "giou"}
    for theirs_name, name in names.items():
        for layer, suffix in enumerate(("_0", "_1", "")):
            value = expected.loss_dict[theirs_name + suffix].item()
            assert losses.terms[f"layers.{layer}.{name}"].item() == pytest.approx(value, rel=1e-4)
    assert losses.total.item() == pytest.approx(expected.loss.item(), rel=1e-4)


def test_names_come_from_their_settings(pair: tuple[torch.nn.Module, detrkit.Detector]) -> None:
    card = pair[1].card
    assert card.variant == "detr-r50"
    assert [(category.id, category.name, category.index) for category in card.categories] == [
        (0, "cat", 0),
        (1, "dog", 1),
    ]


def test_dilation_comes_from_their_settings(pair: tuple[torch.nn.Module, detrkit.Detector], tmp_path: Path) -> None:
    """timm's backbone, which their published files have, keeps torchvision's names; dilation stands in the settings."""
    theirs, ours = pair
    from safetensors.torch import save_file

    from detrkit.checkpoints.detr import HUGGING_FACE_TIMM

    state = HUGGING_FACE_TIMM.to_foreign({name: value.contiguous() for name, value in ours.state_dict().items()})
    save_file({name: value.contiguous().clone() for name, value in state.items()}, tmp_path / "model.safetensors")
    settings = theirs.config.to_dict() | {"dilation": True}
    (tmp_path / "config.json").write_text(
        json.dumps({key: settings[key] for key in ("dilation", "encoder_attention_heads")})
    )
    loaded = detrkit.load(tmp_path / "model.safetensors")
    assert loaded.card.variant == "detr-r50-dc5"
    state = loaded.state_dict()
    for name, value in ours.state_dict().items():
        assert torch.equal(state[name], value), name
