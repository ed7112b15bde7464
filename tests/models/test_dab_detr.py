"""DAB-DETR: settings, how boxes move, and what the codes of encoder and decoder are scaled by."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import pytest
import torch
from models.by_heart import assert_learns_by_heart
from models.small_dab_detr import SMALL, WIDTH, small
from models.small_deformable_detr import batch
from support import make_memory
from torch import Tensor, nn

from detrkit.errors import ConfigurationError
from detrkit.layers.transformer import Encoder
from detrkit.matching.costs import pad_targets
from detrkit.models import dab_detr
from detrkit.models.catalog import build, criterion_for, selection_for
from detrkit.models.dab_detr import Config
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch, LayerOutput, Output, Stages, Target


class Call(NamedTuple):
    """What one decoder layer got and gave."""

    content: Tensor
    position: Tensor
    spatial: Tensor
    result: Tensor


def run(model: Detector, *, cut: bool = False) -> tuple[Stages, list[Call]]:
    """The stages of `batch()` and every call of a decoder layer; `cut` makes leaves of the results, so that no gradient passes a layer."""
    calls: list[Call] = []

    def keep(_: nn.Module, arguments: Any, named: Any, result: Tensor) -> Tensor:
        result = result.detach().requires_grad_() if cut else result
        calls.append(Call(*arguments[:2], named["spatial"], result))
        return result

    for layer in model.decoder.layers:
        layer.register_forward_hook(keep, with_kwargs=True)
    return model.stages(batch()), calls


def wave(values: Tensor, channels: int = WIDTH // 2, temperature: float = 10000.0) -> Tensor:
    """(..., channels) sines and cosines of fractions, from the paper's formula."""
    angles = [values * 2 * math.pi / temperature ** (2 * (channel // 2) / channels) for channel in range(channels)]
    return torch.stack([angle.cos() if channel % 2 else angle.sin() for channel, angle in enumerate(angles)], dim=-1)


def gradients(value: Tensor, *inputs: Tensor) -> list[Tensor | None]:
    """Gradients of a value's sum; None where it does not depend on an input."""
    return list(torch.autograd.grad(value.sum(), inputs, allow_unused=True, retain_graph=True))


class TestPublishedModels:
    @pytest.mark.parametrize(
        ("variant", "parameters"), [("dab-detr-r50", 43_449_117), ("dab-detr-r50-3patterns", 43_449_885)]
    )
    def test_number_of_trained_parameters(self, variant: str, parameters: int) -> None:
        with torch.device("meta"):
            model = build(variant)
        assert sum(each.numel() for each in model.parameters() if each.requires_grad) == parameters

    def test_the_defaults_are_the_papers(self) -> None:
        config = Config()
        assert (config.class_count, config.queries, config.width, config.attention_heads) == (91, 300, 256, 8)
        assert (config.hidden, config.encoder_layers, config.decoder_layers, config.dropout) == (2048, 6, 6, 0.0)
        assert (config.class_weight, config.class_cost, config.l1_weight, config.giou_weight) == (1.0, 2.0, 5.0, 2.0)
        assert (config.patterns, config.centers, config.temperature, config.least_side) == (0, "learned", 20.0, 0.0)
        assert (config.learned_content, config.learn_queries, config.box_head_per_layer) == (False, True, False)
        assert (config.modulate, config.detach_references, config.normed_references) == (True, True, False)

    def test_variants(self) -> None:
        changes: dict[str, dict[str, Any]] = {
            "": {},
            "-3patterns": {"patterns": 3, "queries": 900},
            "-dc5": {"backbone": "resnet50-dc5"},
            "-dc5-3patterns": {"backbone": "resnet50-dc5", "patterns": 3, "queries": 900},
            "-dc5-fixxy": {"backbone": "resnet50-dc5", "centers": "random"},
        }
        for name, change in changes.items():
            variant = dab_detr.VARIANTS[f"dab-detr-r50{name}"]
            assert variant.config == dataclasses.replace(Config(), **change)
            recipe = variant.recipe
            assert (recipe.learning_rate, recipe.backbone_learning_rate, recipe.weight_decay) == (1e-4, 1e-5, 1e-4)
            assert (recipe.epochs, recipe.drop_after, recipe.batch_size, recipe.gradient_clip) == (50, 0.8, 16, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"patterns": 3, "queries": 10},
            "queries must be a multiple of patterns (3), not 10: every anchor comes once with each pattern",
        ),
        ({"centers": "grid", "queries": 10}, "10 anchors do not fill a square grid: choose queries=9 or queries=16"),
        (
            {"centers": "grid", "queries": 36, "patterns": 3},
            "12 anchors do not fill a square grid: choose queries=27 or queries=48",
        ),
        ({"centers": "middle"}, "centers must be learned, random or grid, not 'middle'"),
        ({"temperature": 0.0}, "temperature must be at least 1, not 0.0"),
        ({"temperature": -20.0}, "temperature must be at least 1, not -20.0"),
        ({"least_side": 1.0}, "least_side must be a fraction of the image below 1, not 1.0"),
        ({"least_side": -0.5}, "least_side must be at least 0, not -0.5"),
        ({"patterns": -1}, "patterns must be at least 0, not -1"),
        ({"class_cost": -1.0}, "class_cost must be at least 0, not -1.0"),
        ({"class_weight": -1.0}, "class_weight must be at least 0, not -1.0"),
    ],
)
def test_settings_that_no_model_can_have(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Config(**changes)
    assert str(caught.value) == message


class TestStart:
    def test_boxes_begin_on_their_anchors(self) -> None:
        for change in ({}, {"box_head_per_layer": True}):
            model = build("dab-detr-compact", classes=["a", "b"], **(SMALL | change)).double()
            anchors = model.query_source
            wanted = torch.cat([anchors.center_logits, anchors.side_logits], dim=-1).sigmoid()
            stages = model.stages(batch())
            for boxes in (*stages.output.boxes_cxcywh, *stages.decoded.references):
                torch.testing.assert_close(boxes, wanted.expand(2, -1, -1))
            bias = model.heads.class_head.bias
            torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))

    def test_parameters(self) -> None:
        model = build("dab-detr-compact", **(SMALL | {"queries": 8000, "patterns": 20, "learned_content": True}))
        for part in (model.encoder, model.decoder):
            for name, value in part.named_parameters():
                if value.dim() > 1:
                    bound = math.sqrt(6 / sum(value.shape))
                    assert 0.9 * bound < value.abs().max().item() <= bound, name
        slopes = [value for name, value in model.named_parameters() if "activation" in name]
        assert [value.tolist() for value in slopes] == [[0.25]] * 4  # one layer of the encoder, three of the decoder
        for name, value in model.query_source.named_parameters():
            assert value.mean().item() == pytest.approx(0, abs=0.15), name
            assert value.std().item() == pytest.approx(1, abs=0.1), name


class TestEncoder:
    def test_position_codes_are_scaled_by_what_a_token_carries(self) -> None:
        config = Config(width=8, attention_heads=2, hidden=16, encoder_layers=2)
        encoder = dab_detr.encoder(config).double()
        padding = torch.zeros(2, 8, dtype=torch.bool)
        padding[1, 5:] = True
        tokens, positions = (torch.randn(2, 8, 8, dtype=torch.float64) for _ in range(2))
        before, after = (layer.double() for layer in encoder.position_scale.layers)
        wanted = tokens
        for slope, layer in zip((0.1, 0.6), encoder.layers, strict=True):
            nn.init.constant_(layer.feed_forward.activation.weight, slope)
            scale = after(before(wanted).clamp(min=0))
            place = wanted + positions * scale
            attended = layer.attention(place, place, wanted, ~padding[:, None, None])
            wanted = layer.norm(wanted + attended)
            hidden = layer.feed_forward.expand(wanted)
            hidden = hidden.clamp(min=0) + slope * hidden.clamp(max=0)
            wanted = layer.feed_forward.norm(wanted + layer.feed_forward.contract(hidden))
        found = encoder(make_memory(tokens, positions, padding, ((2, 4),)))
        torch.testing.assert_close(found.tokens, wanted)
        assert torch.equal(found.positions, positions)  # the decoder sees the codes without a scale

    def test_without_layers_there_is_nothing_to_scale(self) -> None:
        encoder = dab_detr.encoder(Config(encoder_layers=0))
        assert type(encoder) is Encoder
        assert not list(encoder.parameters())

    @pytest.mark.parametrize("temperature", [None, 5.0])
    def test_the_temperature_is_of_the_images_codes(self, temperature: float | None) -> None:
        model = small() if temperature is None else small(temperature=temperature)
        positions = model.stages(ImageBatch(torch.zeros(1, 3, 64, 96, dtype=torch.float64))).memory.positions
        for row, column in ((0, 0), (1, 2), (3, 5)):  # of 4 x 6 cells
            y, x = torch.tensor((row + 1) / 4).double(), torch.tensor((column + 1) / 6).double()
            wanted = torch.cat([wave(each, temperature=temperature or 20.0) for each in (y, x)])
            torch.testing.assert_close(positions[0, row * 6 + column], wanted, rtol=0, atol=1e-5)


class TestDecoder:
    @pytest.mark.parametrize(
        "changes",
        [{}, {"patterns": 2}, {"learned_content": True}, {"modulate": False}, {"least_side": 0.5}],
        ids=lambda changes: "".join(changes) or "paper",
    )
    def test_where_queries_look(self, changes: dict[str, Any]) -> None:
        model = small(**changes)
        stages, calls = run(model)
        decoder = model.decoder
        thin = 0
        for index, (call, boxes) in enumerate(zip(calls, stages.decoded.references, strict=True)):
            x, y, width, height = boxes.unbind(-1)
            code = torch.cat([wave(y), wave(x), wave(width), wave(height)], dim=-1)
            torch.testing.assert_close(call.position, decoder.position_head(code), rtol=0, atol=1e-5)
            spatial = code[..., :WIDTH]
            if index > 0 or changes.get("learned_content"):
                spatial = spatial * decoder.position_scale(call.content)
            if changes.get("modulate", True):
                wanted_width, wanted_height = decoder.side_head(call.content).sigmoid().unbind(-1)
                if "least_side" in changes:
                    thin += int((width < 0.5).sum()) * int((height > 0.5).sum())
                    width, height = width.clamp(min=0.5), height.clamp(min=0.5)
                by_height, by_width = (wanted_height / height)[..., None], (wanted_width / width)[..., None]
                spatial = torch.cat([spatial[..., : WIDTH // 2] * by_height, spatial[..., WIDTH // 2 :] * by_width], -1)
            torch.testing.assert_close(call.spatial, spatial, rtol=1e-5, atol=1e-5)
        assert thin > 0 or "least_side" not in changes  # sides on both sides of the limit were seen

    @pytest.mark.parametrize("normed", [False, True])
    @pytest.mark.parametrize("box_head_per_layer", [False, True])
    def test_each_layer_moves_its_boxes(self, box_head_per_layer: bool, normed: bool) -> None:
        model = small(box_head_per_layer=box_head_per_layer, normed_references=normed)
        stages, calls = run(model)
        references, boxes = stages.decoded.references, stages.output.boxes_cxcywh
        torch.testing.assert_close(references[0], stages.queries.references)
        for index, call in enumerate(calls):
            head = model.heads.box_heads[index] if box_head_per_layer else model.heads.box_head
            states = model.decoder.norm(call.result)
            torch.testing.assert_close(stages.decoded.states[index], states)
            torch.testing.assert_close(boxes[index], (head(states) + references[index].logit()).sigmoid())
            torch.testing.assert_close(stages.output.logits[index], model.heads.class_head(states))
            if index < 2:
                torch.testing.assert_close(calls[index + 1].content, call.result)
                moved = (head(states if normed else call.result) + references[index].logit()).sigmoid()
                torch.testing.assert_close(references[index + 1], moved)
                apart = (references[index + 1] - boxes[index]).abs().max()
                assert apart < 1e-6 if normed else apart > 0.01  # the same box, or another one

    def test_heads_of_their_own_differ(self) -> None:
        heads = small(box_head_per_layer=True).heads
        weights = [head.output.weight for head in heads.box_heads]
        assert len(weights) == 3
        for first, second in ((0, 1), (0, 2), (1, 2)):
            assert (weights[first] - weights[second]).abs().max() > 0.1

    @pytest.mark.parametrize("detached", [True, False])
    @pytest.mark.parametrize("normed", [False, True])
    def test_how_far_boxes_teach_through_references(self, detached: bool, normed: bool) -> None:
        model = small(detach_references=detached, normed_references=normed)
        stages, calls = run(model, cut=True)
        first, second = calls[0].result, calls[1].result
        sides, base, head = model.query_source.side_logits, stages.decoded.base_logits, model.heads.box_head
        norm = model.decoder.norm if normed else nn.Identity()
        of_first, of_second = (gradients(head(norm(result)), result)[0] for result in (first, second))
        ones = torch.full_like(sides, 2.0)  # of both images

        found = gradients(base[1], first, sides)
        torch.testing.assert_close(found, [of_first, ones])  # the first references are never detached
        found = gradients(base[2], second, first, sides)
        if detached:
            torch.testing.assert_close(found[0], of_second)
            assert not found[1].any()
            assert not found[2].any()
        else:
            torch.testing.assert_close(found, [of_second, of_first, ones])

        looked = gradients(calls[1].position, first, sides)
        assert [each is None for each in looked] == [detached, detached]
        assert gradients(calls[0].position, sides)[0].abs().max() > 1e-3

    def test_a_query_mask_keeps_queries_apart(self) -> None:
        model = small()
        memory = model.stages(batch()).memory
        queries = model.query_source(memory)
        mask = torch.ones(1, 1, 6, 6, dtype=torch.bool)
        mask[..., :4, 4:], mask[..., 4:, :4] = False, False
        apart = model.decoder(dataclasses.replace(queries, mask=mask), memory, model.heads)
        first = dataclasses.replace(queries, content=queries.content[:, :4], references=queries.references[:, :4])
        alone = model.decoder(first, memory, model.heads)
        torch.testing.assert_close(apart.states[:, :, :4], alone.states)
        torch.testing.assert_close(apart.base_logits[:, :, :4], alone.base_logits)


@pytest.mark.parametrize("box_head_per_layer", [False, True])
def test_mixed_precision_keeps_references_in_float32(box_head_per_layer: bool) -> None:
    model = small(box_head_per_layer=box_head_per_layer).float()
    boxes = torch.rand(6, 4) * 0.8 + 0.1
    boxes[2, 2:] = torch.tensor([1e-4, 0.5])
    model.query_source.place(boxes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stages = model.stages(batch().to(dtype=torch.float32))
    assert stages.output.logits.dtype == torch.bfloat16
    for each in (stages.output.boxes_cxcywh, stages.decoded.base_logits, *stages.decoded.references):
        assert each.dtype == torch.float32
        assert each.isfinite().all()
    assert stages.output.logits.isfinite().all()
    torch.testing.assert_close(stages.decoded.references[0], boxes.expand(2, -1, -1), rtol=1e-5, atol=1e-7)
    states = stages.decoded.states[0].float()
    moved = (model.heads.box_logits(states, 0) + stages.decoded.base_logits[0]).sigmoid()
    torch.testing.assert_close(stages.output.boxes_cxcywh[0], moved, rtol=1e-4, atol=1e-7)


def test_mixed_precision_ends_where_sides_begin() -> None:
    decoder = small().float().decoder
    code, content, boxes = torch.randn(2, 3, WIDTH), torch.randn(2, 3, WIDTH), torch.rand(2, 3, 4) + 1e-4
    exact = decoder.spatial(code, content, boxes, first=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoder.spatial(code, content, boxes, first=True)
    torch.testing.assert_close(found, exact)


class TestCriterionAndSelection:
    def test_classes_weigh_less_in_the_loss_than_in_matching(self) -> None:
        criterion = dab_detr.criterion(Config(class_count=3, decoder_layers=2))
        weights = {"class": 1.0, "l1": 5.0, "giou": 2.0}
        assert criterion.weights == {f"layers.{layer}.{name}": weights[name] for layer in range(2) for name in weights}
        assert {name: weight for name, (_, weight) in criterion.matcher.terms.items()} == weights | {"class": 2.0}

    def test_settings_reach_both(self) -> None:
        criterion = criterion_for(small(class_weight=0.5, class_cost=3.0, l1_weight=4.0, giou_cost=1.0))
        assert (criterion.weights["layers.2.class"], criterion.weights["layers.2.l1"]) == (0.5, 4.0)
        assert [criterion.matcher.terms[name][1] for name in ("class", "l1", "giou")] == [3.0, 5.0, 1.0]

    def test_the_overlap_of_tiny_boxes(self) -> None:
        """Of two equal boxes of a millionth of the image, half the union is the epsilon."""
        boxes = torch.tensor([[[[0.5, 0.5, 1e-3, 1e-3]]]], dtype=torch.float64)
        output = Output(torch.zeros(1, 1, 1, 3, dtype=torch.float64), boxes)
        target = Target(torch.tensor([1]), boxes[0, 0])
        criterion = dab_detr.criterion(Config(class_count=3, decoder_layers=1))
        assert criterion(output, [target]).terms["layers.0.giou"].item() == pytest.approx(0.5, rel=1e-6)
        cost = criterion.matcher.terms["giou"][0](output, pad_targets([target], boxes))
        assert cost.item() == pytest.approx(-0.5, rel=1e-6)

    def test_three_hundred_detections(self) -> None:
        output = LayerOutput(torch.randn(1, 200, 3), torch.rand(1, 200, 4))
        (found,) = selection_for(small())(output, torch.tensor([[10, 10]]))
        best = output.logits.flatten().sigmoid().sort(descending=True).values[:300]
        torch.testing.assert_close(found.scores, best)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(
            {"normed_references": False, "patterns": 2, "centers": "grid", "queries": 18}, marks=pytest.mark.slow
        ),
    ],
)
def test_a_batch_is_learned_by_heart(changes: dict[str, Any]) -> None:
    model = build("dab-detr-compact", classes=["a", "b", "c"], **({"queries": 10} | changes))
    assert_learns_by_heart(model, steps=100, clip=1.0)  # clipped as in its recipe
