"""Deformable DETR against `transformers`' own, with the same random weights, through a file that it saved.

Outputs of every layer, the encoder's proposals and the losses of the decoder's layers agree: levels, valid ratios, references, anchors, the
choice of proposals, refinement, focal loss over the number of boxes, L1 and GIoU are defined alike. Where `transformers` (5.23) departs from
the authors' code, which we follow:

- Refinement: its class heads are tied to the first layer's (the authors have one each), and a file then holds that one alone. Separate heads
  that a file brings stay separate. Both kinds of file are loaded and compared here.
- Two stages: its loss leaves the encoder's proposals untaught.
- Weights: its class term counts 1 in loss and matching, by default; the paper's 2.
- Position codes of the image are computed in the model's precision, the authors' in float32 always: the same in a float32 model.
- Start: no class bias for rare objects, no zeroed last layer of the box head.
- Training: dropout also on the encoder's input, by default none on attention weights and within feed-forward networks; its own ResNet does
  not train at all (it looks for "stage.1" where names have "stages.1"). Neither shows in eval mode.
- `cardinality_error` counts scores over a half; the authors still count as if the last class were no-object. We have no such number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import chosen_scores, in_the_order_of
from torch import Tensor, nn

import detrkit
from detrkit.structures import ImageBatch, LayerOutput, Output, Target

transformers = pytest.importorskip("transformers", reason="needs the dev extra: pip install detrkit[dev]")

FORMS: dict[str, dict[str, Any]] = {
    "deformable-detr-r18": {},
    "deformable-detr-r18 on one level": {"num_feature_levels": 1},
    "deformable-detr-r18 with refinement": {"with_box_refine": True},
    "deformable-detr-r18-two-stage": {"with_box_refine": True, "two_stage": True},
}
LABELS = [
    {"class_labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.5]])},
    {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.2]])},
]


def their_model(**settings: Any) -> nn.Module:
    """A small model of theirs with weights that let every part matter."""
    stages = ["stage4"] if settings.get("num_feature_levels") == 1 else ["stage2", "stage3", "stage4"]
    backbone = transformers.ResNetConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", out_features=stages
    )
    config = transformers.DeformableDetrConfig(
        backbone_config=backbone,
        num_queries=20,
        two_stage_num_proposals=20,
        d_model=64,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_n_points=2,
        decoder_n_points=2,
        auxiliary_loss=True,
        id2label={0: "cat", 1: "dog"},
        **settings,
    )
    model = transformers.DeformableDetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "backbone" not in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for module in model.modules():  # fresh statistics would hide a wrong norm
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=list(FORMS))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[nn.Module, detrkit.Detector]:
    torch.manual_seed(1)
    theirs, folder = their_model(**FORMS[request.param]), tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    ours = detrkit.load(folder / "model.safetensors")
    assert ours.card.variant == request.param.split()[0]
    return theirs, ours


def batch() -> ImageBatch:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(2, 3, 192, 256, generator=generator)
    padding = torch.zeros(2, 192, 256, dtype=torch.bool)
    padding[0, 150:], padding[1, :, 180:] = True, True
    return ImageBatch(pixels.masked_fill(padding[:, None], 0), padding)


def run(theirs: nn.Module, ours: detrkit.Detector) -> tuple[Any, detrkit.Output]:
    """What both give; ours in the order of theirs where proposals have the same score up to rounding."""
    images = batch()
    with torch.no_grad():
        expected = theirs(pixel_values=images.pixels, pixel_mask=~images.padding, labels=LABELS)
        stages = ours.stages(images)
    scores = chosen_scores(stages.queries)
    if scores is None:
        return expected, stages.output
    logits, boxes = (torch.stack(parts) for parts in zip(*layers_of(expected), strict=True))
    return expected, in_the_order_of(Output(logits, boxes), stages.output, scores)


def layers_of(expected: Any) -> list[tuple[Tensor, Tensor]]:
    """Class scores and boxes of their layers."""
    return [
        *((each["logits"], each["pred_boxes"]) for each in expected.auxiliary_outputs),
        (expected.logits, expected.pred_boxes),
    ]


def assert_layers_agree(layers: tuple[LayerOutput, ...], expected: Any) -> None:
    for layer, (logits, boxes) in zip(layers, layers_of(expected), strict=True):
        torch.testing.assert_close(layer.logits, logits, atol=1e-4, rtol=0)
        torch.testing.assert_close(layer.boxes_cxcywh, boxes, atol=4e-5, rtol=0)


def test_outputs_of_every_layer_agree(pair: tuple[nn.Module, detrkit.Detector]) -> None:
    expected, output = run(*pair)
    assert_layers_agree(output.layers, expected)
    logits = torch.stack([layer.logits for layer in output.layers])
    assert logits.std(dim=2).min() > 0.01  # queries that all say the same would agree too easily
    assert (logits[1:] - logits[:-1]).abs().amax() > 0.01


def test_proposals_agree(pair: tuple[nn.Module, detrkit.Detector]) -> None:
    expected, output = run(*pair)
    if expected.enc_outputs_class is None:
        assert output.proposals is None
        return
    assert output.proposals is not None
    torch.testing.assert_close(output.proposals.all.logits, expected.enc_outputs_class, atol=1e-4, rtol=0)
    boxes = expected.enc_outputs_coord_logits.sigmoid()
    torch.testing.assert_close(output.proposals.all.boxes_cxcywh, boxes, atol=4e-5, rtol=0)


def test_losses_of_the_decoders_layers_agree(pair: tuple[nn.Module, detrkit.Detector]) -> None:
    theirs, ours = pair
    expected, output = run(theirs, ours)
    config = {**ours.card.config, "class_weight": 1.0}
    criterion = detrkit.models.deformable_detr.criterion(detrkit.models.deformable_detr.Config(**config))
    targets = [Target(labels=each["class_labels"], boxes_cxcywh=each["boxes"]) for each in LABELS]
    losses = criterion(output, targets)
    layers: dict[str, Tensor] = {name: value for name, value in losses.terms.items() if name.startswith("layers.")}
    names = {"loss_ce": "class", "loss_bbox": "l1", "loss_giou": "giou"}
    assert len(layers) == 3 * len(names)
    for theirs_name, name in names.items():
        for layer, suffix in enumerate(("_0", "_1", "")):
            value = expected.loss_dict[theirs_name + suffix].item()
            assert layers[f"layers.{layer}.{name}"].item() == pytest.approx(value, rel=1e-4), (name, layer)
    total = sum(criterion.weights[name] * value for name, value in layers.items())
    assert float(total) == pytest.approx(expected.loss.item(), rel=1e-4)
    proposals = {
        name: value for name, value in losses.terms.items() if name not in layers
    }  # theirs says nothing of them
    assert bool(proposals) == (output.proposals is not None)
    of_proposals = float(sum(criterion.weights[name] * value for name, value in proposals.items()))
    assert float(losses.total) == pytest.approx(float(total) + of_proposals, rel=1e-5)
    assert not proposals or of_proposals > 0.1


def test_settings_come_from_their_file(pair: tuple[nn.Module, detrkit.Detector]) -> None:
    theirs, ours = pair
    config, settings = ours.card.config, theirs.config
    assert (config["attention_heads"], config["points"], config["queries"], config["hidden"]) == (4, 2, 20, 96)
    assert (config["levels"], config["refine"], config["two_stage"]) == (
        settings.num_feature_levels,
        settings.with_box_refine,
        settings.two_stage,
    )
    assert [(each.id, each.name, each.index) for each in ours.card.categories] == [(0, "cat", 0), (1, "dog", 1)]


def test_separate_class_heads_of_a_refining_model(tmp_path: Path) -> None:
    """The authors' weights, as older releases converted them, have one class head for each layer."""
    from safetensors.torch import load_file, save_file

    torch.manual_seed(1)
    their_model(with_box_refine=True).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    assert [name for name in weights if name.startswith("class_embed.") and name.endswith("weight")] == [
        "class_embed.0.weight"
    ]
    for layer in (1, 2):
        weights |= {f"class_embed.{layer}.weight": torch.randn(2, 64), f"class_embed.{layer}.bias": torch.randn(2)}
    save_file(weights, file, {"format": "pt"})
    theirs = transformers.DeformableDetrForObjectDetection.from_pretrained(tmp_path).eval()
    ours = detrkit.load(file)
    assert not torch.equal(ours.heads.class_heads[0].weight, ours.heads.class_heads[1].weight)
    expected, output = run(theirs, ours)
    assert_layers_agree(output.layers, expected)
