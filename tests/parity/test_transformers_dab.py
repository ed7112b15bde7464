"""DAB-DETR against `transformers`' own, with the same random weights, through a file that it saved.

Outputs of every layer, the losses and the gradients of anchors, patterns and box head agree, with patterns and without: anchors, codes of boxes,
scaled and modulated queries, the scaled positions of the encoder, moves of the references with and without gradient, focal loss over the number of
boxes, L1 and GIoU are defined alike. Where `transformers` (5.23) departs from the authors' code, which we follow:

- Its inverse sigmoid clamps at 1e-5, the authors' at 1e-3. So references stay away from the image's border here, except in one test.
- Its IoU and GIoU add nothing to their divisors, the authors' 1e-6: the same up to a few millionths, unless boxes are tiny.
- Weights: its class term counts 1 in the loss, as the authors' does, but whatever `cls_loss_coefficient` says (2 by default). So neither that
  setting nor those of the other terms is read from its files.
- Queries: `num_queries` counts anchors. Ours counts anchors times patterns.
- Fixed centres: `random_refpoints_xy` fixes nothing, and the drawn centres do not even last: starting all embeddings draws them again. Ours are
  drawn evenly and stay where they are, as the paper says.
- Start: anchors and patterns have a spread of 0.02, the authors' 1, so all anchors start in the middle of the image. No Xavier matrices in the
  transformer. The class bias stands for a probability of 1 / (1 + classes), the authors' for 0.01.
- Training: dropout of 0.1 (the authors have none), in the encoder also within feed-forward networks but not in the decoder. The whole backbone
  trains except for its norms; the authors freeze the stem and the first stage. None of this shows in eval mode.
- Its file has the box head once. The authors' has it twice, and so has what we write under its names.
- `cardinality_error` counts scores over a half; the authors still count as if the last class were no-object. We have no such number.
- It has settings that the authors' builds do not have: `keep_query_pos`, `normalize_before` and `sine_position_embedding_scale`. Files with
  the first two have further tensors and are refused. The last is not read: such a file would give other values here.
- Dilation exists for timm's backbone alone, which its published files have.

`auxiliary_loss=True` does not change the model, unlike Conditional DETR's; a test holds it to that.
"""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import detrkit
from detrkit.checkpoints.dab_detr import HUGGING_FACE, HUGGING_FACE_TIMM
from detrkit.errors import CheckpointError
from detrkit.structures import ImageBatch, Output, Target

transformers = pytest.importorskip("transformers", reason="needs the dev extra: pip install detrkit[dev]")

LAYERS = 3
TEMPERATURE = 35  # no default of either side
BORDER = 1e-3  # where the authors' inverse sigmoid clamps
# Attention that looks everywhere alike would hide a wrong product of queries and keys.
SHARPENED = tuple(
    f"cross_attn_{part}_proj.weight" for part in ("query_content", "query_pos_sine", "key_content", "key_pos")
)
LABELS = [
    {"class_labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.5]])},
    {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.2]])},
]
TARGETS = [Target(labels=each["class_labels"], boxes_cxcywh=each["boxes"]) for each in LABELS]


def their_model(**settings: Any) -> Any:
    """A small model of theirs with weights that let every part matter."""
    config = transformers.DabDetrConfig(
        backbone_config=transformers.ResNetConfig(out_features=["stage4"]),
        use_timm_backbone=False,
        hidden_size=64,
        encoder_layers=2,
        decoder_layers=LAYERS,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        temperature_height=TEMPERATURE,
        temperature_width=TEMPERATURE,
        auxiliary_loss=True,
        id2label={0: "cat", 1: "dog", 2: "N/A"},
        **settings,
    )
    model = transformers.DabDetrForObjectDetection(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "backbone" not in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.15)
            if name.endswith(SHARPENED):
                parameter.mul_(3)
        model.model.query_refpoint_embeddings.weight.normal_()  # as small as they start, all queries would be alike
        if config.num_patterns:
            model.model.patterns.weight.normal_()
    for module in model.modules():  # fresh statistics would hide a wrong norm
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return model


@dataclass(frozen=True)
class Pair:
    """Their model, the folder of its file, and what we load from it."""

    theirs: Any
    folder: Path
    ours: detrkit.Detector

    @property
    def patterns(self) -> int:
        return int(self.theirs.config.num_patterns)


FORMS = {"one anchor a query": {"num_queries": 20}, "patterns": {"num_queries": 7, "num_patterns": 3}}


@pytest.fixture(scope="module", params=list(FORMS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    torch.manual_seed(1)
    theirs, folder = their_model(**FORMS[request.param]), tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    return Pair(theirs, folder, detrkit.load(folder / "model.safetensors"))


def batch() -> ImageBatch:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(2, 3, 224, 288, generator=generator)
    padding = torch.zeros(2, 224, 288, dtype=torch.bool)
    padding[0, 170:], padding[1, :, 200:] = True, True
    return ImageBatch(pixels.masked_fill(padding[:, None], 0), padding)


def run_theirs(model: nn.Module) -> Any:
    images = batch()
    assert images.padding is not None
    return model(pixel_values=images.pixels, pixel_mask=~images.padding, labels=LABELS)


@pytest.fixture(scope="module")
def expected(pair: Pair) -> Any:
    with torch.no_grad():
        return run_theirs(pair.theirs)


@pytest.fixture(scope="module")
def output(pair: Pair) -> Output:
    with torch.no_grad():
        return pair.ours(batch())


def layers_of(expected: Any) -> tuple[Tensor, Tensor]:
    """Class scores and boxes of all their layers, (L, B, Q, K) and (L, B, Q, 4)."""
    layers = [*expected.auxiliary_outputs, {"logits": expected.logits, "pred_boxes": expected.pred_boxes}]
    return torch.stack([each["logits"] for each in layers]), torch.stack([each["pred_boxes"] for each in layers])


def assert_agrees(output: Output, expected: Any) -> None:
    logits, boxes = layers_of(expected)
    assert output.logits.shape[0] == LAYERS
    torch.testing.assert_close(output.logits, logits, atol=5e-5, rtol=0)
    torch.testing.assert_close(output.boxes_cxcywh, boxes, atol=1e-5, rtol=0)


def test_outputs_of_every_layer_agree(pair: Pair, expected: Any, output: Output) -> None:
    assert_agrees(output, expected)
    logits, _ = layers_of(expected)
    assert logits.std(dim=2).min() > 0.01  # queries that all say the same would agree too easily
    assert (logits[1:] - logits[:-1]).abs().amax(dim=(1, 2, 3)).min() > 0.01
    with torch.no_grad():
        references = torch.stack(pair.ours.stages(batch()).decoded.references)
    assert references.min() > BORDER  # nearer to the border, they would differ
    assert references.max() < 1 - BORDER


def test_auxiliary_outputs_do_not_change_their_model(pair: Pair, expected: Any) -> None:
    plain = transformers.DabDetrForObjectDetection.from_pretrained(pair.folder, auxiliary_loss=False).eval()
    with torch.no_grad():
        last = run_theirs(plain)
    assert last.auxiliary_outputs is None
    assert torch.equal(last.logits, expected.logits)
    assert torch.equal(last.pred_boxes, expected.pred_boxes)


def test_references_near_the_border_are_pulled_in_as_the_authors_do(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = copy.deepcopy(pair.theirs), copy.deepcopy(pair.ours)
    with torch.no_grad():
        theirs.model.query_refpoint_embeddings.weight[:2, 0] = -9
        theirs.model.query_refpoint_embeddings.weight[2, 3] = 9
        ours.query_source.center_logits[:2, 0] = -9
        ours.query_source.side_logits[2, 1] = 9
        output, differing = ours(batch()), run_theirs(theirs)
        assert (output.boxes_cxcywh[0] - layers_of(differing)[1][0]).abs().max() > 1e-3
        modelling = transformers.models.dab_detr.modeling_dab_detr
        monkeypatch.setattr(modelling, "inverse_sigmoid", functools.partial(modelling.inverse_sigmoid, eps=BORDER))
        assert_agrees(output, run_theirs(theirs))


def test_losses_of_every_layer_agree(pair: Pair, expected: Any, output: Output) -> None:
    losses = detrkit.criterion_for(pair.ours)(output, TARGETS)
    names = {"loss_ce": "class", "loss_bbox": "l1", "loss_giou": "giou"}
    assert len(losses.terms) == LAYERS * len(names)
    for theirs_name, name in names.items():
        for layer, suffix in enumerate(("_0", "_1", "")):
            value = expected.loss_dict[theirs_name + suffix].item()
            assert losses.terms[f"layers.{layer}.{name}"].item() == pytest.approx(value, rel=2e-5), (name, layer)
    assert losses.total.item() == pytest.approx(expected.loss.item(), rel=2e-5)


def test_gradients_agree(pair: Pair) -> None:
    """What a layer learns from the next layer's boxes is the same, too."""
    names = ["model.query_refpoint_embeddings.weight", "bbox_predictor.layers.0.weight", "class_embed.bias"]
    names += ["model.patterns.weight"] * (pair.patterns > 0)
    parameters = {name: pair.theirs.get_parameter(name) for name in names}
    expected = torch.autograd.grad(run_theirs(pair.theirs).loss, list(parameters.values()))
    own = {name: pair.ours.get_parameter(name) for name in HUGGING_FACE.from_foreign(parameters)}
    total = detrkit.criterion_for(pair.ours)(pair.ours(batch()), TARGETS).total
    found = HUGGING_FACE.to_foreign(dict(zip(own, torch.autograd.grad(total, list(own.values())), strict=True)))
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item())


def test_settings_come_from_their_file(pair: Pair) -> None:
    card = pair.ours.card
    assert card.variant == ("dab-detr-r50-3patterns" if pair.patterns else "dab-detr-r50")
    names = ("attention_heads", "width", "hidden", "encoder_layers", "decoder_layers", "class_count", "temperature")
    assert [card.config[name] for name in names] == [4, 64, 96, 2, LAYERS, 3, TEMPERATURE]
    assert (card.config["patterns"], card.config["queries"]) == ((3, 21) if pair.patterns else (0, 20))
    assert (card.config["centers"], card.config["backbone"]) == ("learned", "resnet50")
    weights = ("class_weight", "l1_weight", "giou_weight", "class_cost")
    assert [card.config[name] for name in weights] == [1, 5, 2, 2]
    assert [(each.id, each.name, each.index) for each in card.categories] == [(0, "cat", 0), (1, "dog", 1)]


def test_their_names_lead_back_to_their_file(pair: Pair) -> None:
    wanted = load_file(pair.folder / "model.safetensors")
    aliases = {
        f"model.decoder.bbox_embed.{name.removeprefix('bbox_predictor.')}": tensor
        for name, tensor in wanted.items()
        if name.startswith("bbox_predictor.")
    }
    assert len(aliases) == 6
    again = HUGGING_FACE.to_foreign(pair.ours.state_dict())
    assert set(again) == set(wanted) | set(aliases)
    for name, tensor in (wanted | aliases).items():
        assert torch.equal(again[name], tensor), name


def write(pair: Pair, folder: Path, settings: dict[str, Any] | None) -> Path:
    """A file with timm's names, which are torchvision's: whether its backbone is dilated stands in the settings alone."""
    weights = HUGGING_FACE_TIMM.to_foreign(pair.ours.state_dict())
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, folder / "model.safetensors")
    if settings is not None:
        (folder / "config.json").write_text(json.dumps({"encoder_attention_heads": 4, **settings}))
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    ("settings", "dilated"),
    [
        ({"dilation": False}, False),
        ({"dilation": True}, True),
        ({"backbone_config": {"model_type": "timm_backbone", "output_stride": 16}}, True),
        ({"backbone_config": {"model_type": "timm_backbone", "output_stride": 32}}, False),
    ],
)
@pytest.mark.parametrize("pair", ["patterns"], indirect=True)
def test_dilation_of_timms_backbone_comes_from_their_settings(
    pair: Pair, tmp_path: Path, settings: dict[str, Any], dilated: bool
) -> None:
    loaded = detrkit.load(write(pair, tmp_path, settings))
    assert loaded.card.variant == "dab-detr-r50" + "-dc5" * dilated + "-3patterns"
    assert loaded.backbone.strides == ((16,) if dilated else (32,))
    state = loaded.state_dict()
    for name, value in pair.ours.state_dict().items():
        assert torch.equal(state[name], value), name


def test_fixed_centers_come_from_their_settings(pair: Pair, tmp_path: Path) -> None:
    loaded = detrkit.load(write(pair, tmp_path, {"dilation": True, "random_refpoints_xy": True}))
    assert loaded.card.variant == ("dab-detr-r50-dc5-3patterns" if pair.patterns else "dab-detr-r50-dc5-fixxy")
    assert loaded.card.config["centers"] == "random"
    source = loaded.query_source
    assert torch.equal(source.center_logits, pair.theirs.model.query_refpoint_embeddings.weight[:, :2])
    assert (source.center_logits.requires_grad, source.side_logits.requires_grad) == (False, True)


@pytest.mark.parametrize("pair", ["one anchor a query"], indirect=True)
def test_two_temperatures_are_refused(pair: Pair, tmp_path: Path) -> None:
    path = write(pair, tmp_path, {"dilation": False, "temperature_height": 20, "temperature_width": 30})
    with pytest.raises(CheckpointError) as caught:
        detrkit.load(path)
    assert str(caught.value) == (
        f"{path}: the settings have temperature_height 20 and temperature_width 30: detrkit builds one temperature for both axes"
    )


def test_weights_without_settings_leave_dilation_open(pair: Pair, tmp_path: Path) -> None:
    path = write(pair, tmp_path, None)
    candidates = (
        "dab-detr-r50-3patterns, dab-detr-r50-dc5-3patterns"
        if pair.patterns
        else "dab-detr-r50, dab-detr-r50-dc5, dab-detr-r50-dc5-fixxy"
    )
    with pytest.raises(CheckpointError, match=f"could be any of {candidates}, between which"):
        detrkit.load(path)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"keep_query_pos": True},
            " does not fit dab-detr-r50: it has, besides those of that model, 4 tensors such as "
            "'decoder.layers.1.cross_attention.position_query.bias'; give the variant that it was trained as",
        ),
        (
            {"normalize_before": True},
            ": 2 tensors have no place in this model (model.encoder.norm.bias, model.encoder.norm.weight): "
            "the weights are of another model",
        ),
    ],
    ids=["positions in every layer", "a norm after the encoder"],
)
def test_a_model_with_further_parts_is_refused(tmp_path: Path, settings: dict[str, Any], problem: str) -> None:
    their_model(num_queries=5, **settings).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError) as caught:
        detrkit.load(path)
    assert str(caught.value) == f"{path}{problem}"
