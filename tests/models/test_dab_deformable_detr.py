"""DAB-Deformable-DETR: positions made from boxes, how boxes move, and where they start."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from models.by_heart import assert_learns_by_heart
from models.small_deformable_detr import batch
from support import make_memory
from torch import Tensor, nn

from detrkit.errors import ConfigurationError
from detrkit.layers.position_encoding import reference_code
from detrkit.matching.costs import pad_targets
from detrkit.models import dab_deformable_detr
from detrkit.models.catalog import build, criterion_for, selection_for
from detrkit.models.dab_deformable_detr import Config
from detrkit.models.detector import Detector
from detrkit.structures import LayerOutput, Output, Stages, Target

SMALL = {"width": 64, "hidden": 64, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 3, "queries": 6}


def small(**changes: Any) -> Detector:
    """In float64 and eval mode, with box heads that move, since they start at zero."""
    model = build("dab-deformable-detr-compact", classes=["a", "b", "c"], **(SMALL | changes))
    for head in model.heads.box_heads:
        nn.init.normal_(head.output.weight, std=0.2)
    return model.double().eval()


def run(model: Detector) -> tuple[Stages, list[dict[str, Tensor]]]:
    """The stages of `batch()`, and what each decoder layer got and gave."""
    calls: list[dict[str, Tensor]] = []

    def keep(_: nn.Module, arguments: Any, named: Any, result: Tensor) -> None:
        calls.append({"content": arguments[0], "position": arguments[1], "result": result, **named})

    for layer in model.decoder.layers:
        layer.register_forward_hook(keep, with_kwargs=True)
    return model.stages(batch()), calls


def test_number_of_trained_parameters() -> None:
    with torch.device("meta"):
        model = build("dab-deformable-detr-r50")
    assert sum(each.numel() for each in model.parameters() if each.requires_grad) == 47_183_594


def test_the_defaults_are_the_papers() -> None:
    config, recipe = Config(), dab_deformable_detr.VARIANTS["dab-deformable-detr-r50"].recipe
    assert dab_deformable_detr.VARIANTS["dab-deformable-detr-r50"].config == config
    assert (config.class_count, config.queries, config.width, config.attention_heads) == (91, 300, 256, 8)
    assert (config.hidden, config.levels, config.points, config.dropout) == (2048, 4, 4, 0.0)
    assert (config.encoder_layers, config.decoder_layers, config.backbone) == (6, 6, "resnet50")
    assert (config.class_weight, config.class_cost, config.l1_weight, config.giou_weight) == (1.0, 2.0, 5.0, 2.0)
    assert (config.patterns, config.centers) == (0, "learned")
    assert (recipe.learning_rate, recipe.backbone_learning_rate, recipe.slow_parts) == (1e-4, 1e-5, ())
    assert (recipe.epochs, recipe.drop_after, recipe.batch_size) == (50, 0.8, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"patterns": 7},
            "queries must be a multiple of patterns (7), not 300: every anchor comes once with each pattern",
        ),
        ({"patterns": -1}, "patterns must be at least 0, not -1"),
        ({"class_cost": -2.0}, "class_cost must be at least 0, not -2.0"),
        ({"points": 0}, "points must be at least 1, not 0"),
        ({"centers": "Grid"}, "centers must be learned, random or grid, not 'Grid'"),
        (
            {"centers": "grid", "patterns": 2},
            "150 anchors do not fill a square grid: choose queries=288 or queries=338",
        ),
        ({"centers": "grid"}, "300 anchors do not fill a square grid: choose queries=289 or queries=324"),
    ],
)
def test_settings_that_no_model_can_have(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Config(**changes)
    assert str(caught.value) == message


def test_a_width_that_the_neck_cannot_have() -> None:
    with pytest.raises(ConfigurationError, match=r"^width 48 must be a multiple of 32 "):
        Config(width=48)


@pytest.mark.parametrize("patterns", [0, 3])
def test_contents_are_learned_for_each_anchor_and_each_pattern(patterns: int) -> None:
    source = small(patterns=patterns).query_source
    memory = make_memory(*(torch.randn(2, 8, 64, dtype=torch.float64) for _ in range(2)), None, ((2, 4),))
    queries = source(memory)
    anchors = 6 // max(patterns, 1)
    assert source.content.weight.shape == (anchors, 64)
    for index in range(6):
        pattern, anchor = divmod(index, anchors)
        wanted = source.content.weight[anchor]
        if patterns:
            wanted = wanted + source.patterns.weight[pattern]
        for image in range(2):
            torch.testing.assert_close(queries.content[image, index], wanted)
            reference = torch.cat([source.center_logits[anchor], source.side_logits[anchor]]).sigmoid()
            torch.testing.assert_close(queries.references[image, index], reference)


@pytest.mark.parametrize("padded", [True, False])
def test_positions_are_codes_of_boxes_as_shares_of_the_padded_finest_level_or_of_the_image(padded: bool) -> None:
    model = small(patterns=2, padded_positions=padded)
    stages, calls = run(model)
    decoder, ratios = model.decoder, stages.memory.valid_ratios()
    torch.testing.assert_close(ratios[:, 0], torch.tensor([[1.0, 1.0], [56 / 96, 48 / 64]]))
    assert len(calls) == len(stages.decoded.references) == 3
    for index, (call, boxes) in enumerate(zip(calls, stages.decoded.references, strict=True)):
        for level in range(3):
            wanted = boxes * ratios[:, None, level].repeat(1, 1, 2)
            torch.testing.assert_close(call["references"][:, :, level], wanted)
        shares = (
            boxes * torch.tensor([[1.0] * 4, [56 / 96, 48 / 64] * 2], dtype=torch.float64)[:, None] if padded else boxes
        )
        position = decoder.position_head(reference_code(shares, width=64))
        if index > 0:
            torch.testing.assert_close(call["content"], calls[index - 1]["result"])
            position = position * decoder.position_scale(call["content"])
        torch.testing.assert_close(call["position"], position, rtol=1e-5, atol=1e-6)


def test_a_layer_starts_from_the_boxes_of_the_one_before_and_does_not_teach_them() -> None:
    model = small()
    stages, calls = run(model)
    references, boxes, anchors = stages.decoded.references, stages.output.boxes_cxcywh, model.query_source
    assert references[0] is stages.queries.references
    for index, call in enumerate(calls):
        torch.testing.assert_close(stages.decoded.states[index], call["result"])  # no norm after the decoder
        logits = model.heads.class_heads[index](call["result"])
        torch.testing.assert_close(stages.output.logits[index], logits)
        moved = (model.heads.box_heads[index](call["result"]) + references[index].logit()).sigmoid()
        torch.testing.assert_close(boxes[index], moved)
        if index > 0:
            torch.testing.assert_close(references[index], boxes[index - 1])
            assert not references[index].requires_grad
    base = stages.decoded.base_logits
    (of_first,) = torch.autograd.grad(base[0].sum(), anchors.side_logits, retain_graph=True)
    torch.testing.assert_close(of_first, torch.full_like(of_first, 2.0))  # once from each image
    (of_later,) = torch.autograd.grad(base[1:].sum(), anchors.side_logits, retain_graph=True)
    assert not of_later.any()
    for layer in range(3):
        model.zero_grad()
        boxes[layer].square().sum().backward(retain_graph=True)
        taught = [bool(head.output.bias.grad.any()) for head in model.heads.box_heads]
        assert taught == [index == layer for index in range(3)]
        assert anchors.side_logits.grad.abs().max() > 1e-6  # through the first layer's position


def test_references_near_the_edge_are_pulled_in() -> None:
    model = build("dab-deformable-detr-compact", classes=["a"], **SMALL).double().eval()
    model.query_source.place(torch.tensor([[0.5, 0.5, 1e-4, 0.9999]]).repeat(6, 1))
    stages = model.stages(batch())
    wanted = torch.tensor([0.0, 0.0, 1e-3 / 0.9999, 0.9999 / 1e-3]).double()
    wanted[2:] = wanted[2:].log()
    torch.testing.assert_close(stages.decoded.base_logits[0], wanted.expand(2, 6, 4), rtol=1e-5, atol=1e-6)


class TestStart:
    def test_the_first_layer_makes_boxes_smaller_than_their_anchors(self) -> None:
        model = build("dab-deformable-detr-compact", classes=["a", "b"], **SMALL).double()
        source = model.query_source
        assert not any(head.output.weight.any() for head in model.heads.box_heads)
        logits = torch.cat([source.center_logits, source.side_logits - 2], dim=-1)
        for boxes in model(batch()).boxes_cxcywh:  # later layers change nothing
            torch.testing.assert_close(boxes, logits.sigmoid().expand(2, -1, -1))
        for head in model.heads.class_heads:
            torch.testing.assert_close(head.bias.sigmoid(), torch.full_like(head.bias, 0.01))

    def test_matrices_of_positions_are_xavier(self) -> None:
        decoder = build("dab-deformable-detr-compact", **SMALL).decoder
        for head in (decoder.position_head, decoder.position_scale):
            for layer in head.layers:
                bound = math.sqrt(6 / sum(layer.weight.shape))
                assert 0.9 * bound < layer.weight.abs().max().item() <= bound


class TestCriterionAndSelection:
    def test_classes_weigh_less_in_the_loss_than_in_matching(self) -> None:
        criterion = criterion_for(small(class_cost=3.0, l1_weight=4.0, giou_cost=1.0))
        weights = {"class": 1.0, "l1": 4.0, "giou": 2.0}
        assert criterion.weights == {f"layers.{layer}.{name}": weights[name] for layer in range(3) for name in weights}
        assert {name: weight for name, (_, weight) in criterion.matcher.terms.items()} == {
            "class": 3.0,
            "l1": 5.0,
            "giou": 1.0,
        }

    def test_the_overlap_of_tiny_boxes(self) -> None:
        """Of two equal boxes of a millionth of the image, half the union is the epsilon."""
        boxes = torch.tensor([[[[0.5, 0.5, 1e-3, 1e-3]]]], dtype=torch.float64)
        output = Output(torch.zeros(1, 1, 1, 3, dtype=torch.float64), boxes)
        target = Target(torch.tensor([1]), boxes[0, 0])
        criterion = dab_deformable_detr.criterion(Config(class_count=3, decoder_layers=1))
        assert criterion(output, [target]).terms["layers.0.giou"].item() == pytest.approx(0.5, rel=1e-6)
        cost = criterion.matcher.terms["giou"][0](output, pad_targets([target], boxes))
        assert cost.item() == pytest.approx(-0.5, rel=1e-6)

    def test_a_hundred_detections(self) -> None:
        output = LayerOutput(torch.randn(1, 50, 3), torch.rand(1, 50, 4))
        (found,) = selection_for(small())(output, torch.tensor([[10, 10]]))
        best = output.logits.flatten().sigmoid().sort(descending=True).values[:100]
        torch.testing.assert_close(found.scores, best)


def test_mixed_precision_keeps_references_in_float32() -> None:
    model = small().float()
    boxes = torch.rand(6, 4) * 0.8 + 0.1
    boxes[2, 2:] = torch.tensor([1e-4, 0.5])
    model.query_source.place(boxes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stages = model.stages(batch().to(dtype=torch.float32))
    assert stages.output.logits.dtype == torch.bfloat16
    assert stages.output.logits.isfinite().all()
    for each in (stages.output.boxes_cxcywh, stages.decoded.base_logits, *stages.decoded.references):
        assert each.dtype == torch.float32
        assert each.isfinite().all()
    torch.testing.assert_close(stages.decoded.references[0], boxes.expand(2, -1, -1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "changes", [{}, pytest.param({"patterns": 2, "queries": 8, "centers": "grid"}, marks=pytest.mark.slow)]
)
def test_a_batch_is_learned_by_heart(changes: dict[str, Any]) -> None:
    model = build("dab-deformable-detr-compact", classes=["a", "b", "c"], **({"queries": 5} | changes))
    assert_learns_by_heart(model, steps=60)
