"""Conditional DETR against `transformers`' own, with the same random weights, through a file that it saved.

Outputs of every layer and the losses agree: reference points, scaled spatial queries, the first layer's positions, focal loss over the number
of boxes, L1 and GIoU are defined alike. Where `transformers` (5.23) departs from the authors' code, which we follow:

- `auxiliary_loss=True` changes the model: its decoder then passes the normed states on to the next layer and norms the last ones twice. The
  authors norm states for the heads alone. So it runs without auxiliary outputs here, and layers are read by hooks.
- Weights: its class term counts 1 in the loss, whatever `cls_loss_coefficient` says; the paper's 2. The matching cost has 2 in both.
- Position codes of the image are computed in the model's precision, the authors' in float32 always: the same in a float32 model.
- Start: no class bias for rare objects, no zeroed last layer of the box head, no Xavier matrices in the transformer.
- Training: dropout also on the encoder's input, by default none on attention weights and within feed-forward networks; its own ResNet does
  not train at all (it looks for "stage.1" where names have "stages.1"). None of this shows in eval mode.
- `cardinality_error` counts scores over a half; the authors still count as if the last class were no-object. We have no such number.
- Dilation exists for timm's backbone alone, which its published files have.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import detrkit
from detrkit.checkpoints.conditional_detr import HUGGING_FACE, HUGGING_FACE_TIMM
from detrkit.errors import CheckpointError
from detrkit.structures import ImageBatch, Output, Target

transformers = pytest.importorskip("transformers", reason="needs the dev extra: pip install detrkit[dev]")

LAYERS = 3
# Attention that looks everywhere alike would hide a wrong product of queries and keys.
SHARPENED = tuple(f"encoder_attn.{part}_proj.weight" for part in ("q_content", "q_pos", "q_pos_sine", "k_pos"))
LABELS = [
    {"class_labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.5]])},
    {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.2]])},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("theirs")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> nn.Module:
    """A small model of theirs with weights that let every part matter, saved to the folder."""
    torch.manual_seed(1)
    config = transformers.ConditionalDetrConfig(
        backbone_config=transformers.ResNetConfig(out_features=["stage4"]),
        use_timm_backbone=False,
        num_queries=20,
        d_model=64,
        encoder_layers=2,
        decoder_layers=LAYERS,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        id2label={0: "cat", 1: "dog", 2: "N/A"},
    )
    model = transformers.ConditionalDetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "backbone" not in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
            if name.endswith(SHARPENED):
                parameter.mul_(6)
        model.model.query_position_embeddings.weight.normal_()  # as small as it starts, all queries would be alike
    for module in model.modules():  # fresh statistics would hide a wrong norm
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    model.save_pretrained(folder)
    return model  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def ours(theirs: nn.Module, folder: Path) -> detrkit.Detector:
    return detrkit.load(folder / "model.safetensors")


def batch() -> ImageBatch:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(2, 3, 224, 288, generator=generator)
    padding = torch.zeros(2, 224, 288, dtype=torch.bool)
    padding[0, 170:], padding[1, :, 200:] = True, True
    return ImageBatch(pixels.masked_fill(padding[:, None], 0), padding)


@pytest.fixture(scope="module")
def expected(theirs: Any) -> tuple[Tensor, Tensor]:
    """Class scores and boxes of all their layers, (L, B, Q, K) and (L, B, Q, 4)."""
    decoder, states, images = theirs.model.decoder, [], batch()
    assert images.padding is not None
    handles = [layer.register_forward_hook(lambda _, given, result: states.append(result)) for layer in decoder.layers]
    with torch.no_grad():
        last = theirs(pixel_values=images.pixels, pixel_mask=~images.padding)
        normed = decoder.layernorm(torch.stack(states))
        boxes = theirs.bbox_predictor(normed)
        boxes[..., :2] += decoder.ref_point_head(theirs.model.query_position_embeddings.weight)
        logits, boxes = theirs.class_labels_classifier(normed), boxes.sigmoid()
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(logits[-1], last.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(boxes[-1], last.pred_boxes, atol=1e-6, rtol=0)
    return logits, boxes


@pytest.fixture(scope="module")
def output(ours: detrkit.Detector) -> Output:
    with torch.no_grad():
        return ours(batch())


def test_outputs_of_every_layer_agree(expected: tuple[Tensor, Tensor], output: Output) -> None:
    logits, boxes = expected
    assert output.logits.shape[0] == LAYERS
    torch.testing.assert_close(output.logits, logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.boxes_cxcywh, boxes, atol=4e-5, rtol=0)
    assert logits.std(dim=2).min() > 0.01  # queries that all say the same would agree too easily
    assert (logits[1:] - logits[:-1]).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_losses_of_every_layer_agree(
    theirs: Any, ours: detrkit.Detector, expected: tuple[Tensor, Tensor], output: Output
) -> None:
    config = copy.deepcopy(theirs.config)
    config.auxiliary_loss = True
    logits, boxes = expected
    total, terms, _ = theirs.loss_function(logits[-1], LABELS, logits.device, boxes[-1], config, logits, boxes)
    targets = [Target(labels=each["class_labels"], boxes_cxcywh=each["boxes"]) for each in LABELS]
    criterion = detrkit.criterion_for(ours)
    losses = criterion(output, targets)
    names = {"loss_ce": "class", "loss_bbox": "l1", "loss_giou": "giou"}
    assert len(losses.terms) == LAYERS * len(names)
    for theirs_name, name in names.items():
        for layer, suffix in enumerate(("_0", "_1", "")):
            value = terms[theirs_name + suffix].item()
            assert losses.terms[f"layers.{layer}.{name}"].item() == pytest.approx(value, rel=1e-4), (name, layer)
    of_classes = sum(losses.terms[f"layers.{layer}.class"].item() for layer in range(LAYERS))
    assert losses.total.item() == pytest.approx(total.item() + of_classes, rel=1e-4)  # ours counts them twice


def test_settings_come_from_their_file(ours: detrkit.Detector) -> None:
    card = ours.card
    assert card.variant == "conditional-detr-r50"
    names = ("attention_heads", "queries", "width", "hidden", "encoder_layers", "decoder_layers", "class_count")
    assert [card.config[name] for name in names] == [4, 20, 64, 96, 2, LAYERS, 3]
    assert [(each.id, each.name, each.index) for each in card.categories] == [(0, "cat", 0), (1, "dog", 1)]


def test_their_names_lead_back_to_their_file(ours: detrkit.Detector, folder: Path) -> None:
    wanted = load_file(folder / "model.safetensors")
    again = HUGGING_FACE.to_foreign(ours.state_dict())
    assert set(again) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(again[name], tensor), name


@pytest.mark.parametrize(
    ("settings", "variant"),
    [
        ({"dilation": False}, "conditional-detr-r50"),
        ({"dilation": True}, "conditional-detr-r50-dc5"),
        ({"backbone_config": {"model_type": "timm_backbone", "output_stride": 16}}, "conditional-detr-r50-dc5"),
        ({"backbone_config": {"model_type": "timm_backbone", "output_stride": 32}}, "conditional-detr-r50"),
    ],
)
def test_dilation_of_timms_backbone_comes_from_their_settings(
    ours: detrkit.Detector, tmp_path: Path, settings: dict[str, Any], variant: str
) -> None:
    """timm's ResNet keeps torchvision's names; whether it is dilated stands in the settings alone."""
    weights = HUGGING_FACE_TIMM.to_foreign(ours.state_dict())
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"encoder_attention_heads": 4, **settings}))
    loaded = detrkit.load(tmp_path / "model.safetensors")
    assert loaded.card.variant == variant
    assert loaded.backbone.strides == ((16,) if variant.endswith("dc5") else (32,))
    state = loaded.state_dict()
    for name, value in ours.state_dict().items():
        assert torch.equal(state[name], value), name


def test_weights_without_settings_leave_dilation_open(ours: detrkit.Detector, tmp_path: Path) -> None:
    weights = HUGGING_FACE_TIMM.to_foreign(ours.state_dict())
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="could be any of conditional-detr-r50, conditional-detr-r50-dc5"):
        detrkit.load(tmp_path / "model.safetensors")
