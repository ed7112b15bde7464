"""Deformable DETR as in the paper and the authors' code: sizes, initialisation, references, proposals and the flow of gradients."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from models.small_deformable_detr import (
    CELLS,
    SMALL,
    batch,
    half_padding,
    memory_of,
    refining,
    small,
    two_stage,
)
from torch import Tensor, nn

from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.layers.proposals import token_centers
from detrkit.layers.transformer import Encoder
from detrkit.models import deformable_detr
from detrkit.models.catalog import build, criterion_for
from detrkit.models.deformable_detr import DeformableDecoder, DeformableEncoder
from detrkit.structures import ImageBatch, LayerOutput, Memory, Output, Proposals, Queries, Target


class TestPublishedModels:
    @pytest.mark.parametrize(
        ("variant", "parameters"),
        [
            ("deformable-detr-r50", 40_069_665),
            ("deformable-detr-r50-single-scale", 34_066_593),
            ("deformable-detr-r50-single-scale-dc5", 34_066_593),
            ("deformable-detr-r50-refine", 40_849_660),
            ("deformable-detr-r50-two-stage", 41_181_529),
        ],
    )
    def test_number_of_parameters(self, variant: str, parameters: int) -> None:
        with torch.device("meta"):
            model = build(variant)
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert parameters - trained == 222_400  # the stem's and the first stage's convolutions

    def test_settings(self) -> None:
        config = deformable_detr.VARIANTS["deformable-detr-r50"].config
        assert (config.class_count, config.queries, config.width, config.attention_heads, config.hidden) == (
            91,
            300,
            256,
            8,
            1024,
        )
        assert (config.levels, config.points, config.encoder_layers, config.decoder_layers) == (4, 4, 6, 6)
        assert (config.dropout, config.class_weight, config.l1_weight, config.giou_weight) == (0.1, 2.0, 5.0, 2.0)
        assert (config.refine, config.two_stage) == (False, False)
        changes = {
            "-single-scale": {"levels": 1},
            "-single-scale-dc5": {"levels": 1, "backbone": "resnet50-dc5"},
            "-refine": {"refine": True},
            "-two-stage": {"refine": True, "two_stage": True},
        }
        for name, change in changes.items():
            variant = deformable_detr.VARIANTS[f"deformable-detr-r50{name}"]
            assert variant.config == dataclasses.replace(config, **change)

    @pytest.mark.parametrize(("levels", "strides"), [(1, (32,)), (2, (16, 32)), (3, (8, 16, 32)), (5, (8, 16, 32))])
    def test_levels_of_the_backbone(self, levels: int, strides: tuple[int, ...]) -> None:
        with torch.device("meta"):
            model = build("deformable-detr-r50", levels=levels)
        assert model.backbone.strides == strides
        assert len(model.neck.projections) == levels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": 0}, r"^points must be at least 1, not 0$"),
        ({"levels": 0}, r"^levels must be at least 1, not 0$"),
        ({"width": 48}, r"^width 48 must be a multiple of 32 "),
        ({"width": 64, "attention_heads": 3}, r"^width 64 must be .* of the 3 attention heads$"),
    ],
)
def test_settings_that_no_model_can_have(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        deformable_detr.Config(**changes)


class TestTheStart:
    def test_classes_are_rare(self) -> None:
        for change in ({}, {"refine": True}, {"refine": True, "two_stage": True}):
            model = build("deformable-detr-compact", **(SMALL | change))
            biases = [
                value for name, value in model.named_parameters() if name.endswith("bias") and ".class_head" in name
            ]
            assert len(biases) == (1, 3, 4)[len(change)]
            for bias in biases:
                torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))

    def test_boxes_begin_on_their_references_an_eighth_wide_where_these_have_no_width(self) -> None:
        last = {}
        for name, change in {"plain": {}, "refine": {"refine": True}}.items():
            model = build("deformable-detr-compact", **(SMALL | change))
            heads = [model.heads.box_head] if name == "plain" else list(model.heads.box_heads)
            assert not any(head.layers[-1].weight.any() for head in heads)
            last[name] = [head.layers[-1].bias.tolist() for head in heads]
        assert last == {"plain": [[0, 0, -2, -2]], "refine": [[0, 0, -2, -2], [0, 0, 0, 0], [0, 0, 0, 0]]}
        model = build("deformable-detr-compact-two-stage", **SMALL)
        for head in [*model.heads.box_heads, model.query_source.proposals.box_head]:
            assert not head.layers[-1].weight.any()
            assert not head.layers[-1].bias.any()

    def test_copies_begin_equal_and_are_no_views(self) -> None:
        model = build("deformable-detr-compact-two-stage", **SMALL)
        for heads, other in (
            (model.heads.class_heads, model.query_source.proposals.class_head),
            (model.heads.box_heads, model.query_source.proposals.box_head),
        ):
            first = dict(heads[0].named_parameters())
            for copy in [*heads[1:], other]:
                for name, value in copy.named_parameters():
                    assert torch.equal(value, first[name]), name
                    assert value.data_ptr() != first[name].data_ptr()

    def test_matrices_are_xavier_and_embeddings_normal(self) -> None:
        model = build("deformable-detr-compact", **(SMALL | {"queries": 400, "levels": 3}))
        seen = []
        for part in (model.encoder, model.decoder, model.query_source):
            for name, value in part.named_parameters():
                if value.dim() > 1 and not name.startswith(("embedding", "level_code")):
                    bound = math.sqrt(6 / sum(value.shape))
                    zero = ".offsets." in name or ".weights." in name  # these are initialised differently
                    largest = value.abs().max().item()
                    assert largest == 0 if zero else 0.9 * bound < largest <= bound, name
                    seen.append(name)
        assert len(seen) == 6 + 3 * 8 + 1
        for embedding in (model.query_source.embedding.weight, model.encoder.level_code):
            assert embedding.mean().item() == pytest.approx(0, abs=0.2)
            assert embedding.std().item() == pytest.approx(1, abs=0.1)
        assert not model.query_source.reference_points.bias.any()


class Recorder(nn.Module):
    """A layer that changes nothing and records its arguments."""

    def __init__(self, result: int) -> None:
        super().__init__()
        self.result, self.seen = result, list[tuple[Any, ...]]()

    def forward(self, *arguments: Any, references: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        self.seen.append((*arguments, references, mask))
        found = arguments[0]
        return found.tokens if isinstance(found, Memory) else found


class TestEncoder:
    def test_positions_tell_levels_apart_and_references_are_shares_of_the_padded_maps(self) -> None:
        layer, memory = Recorder(0), memory_of(padding=half_padding())
        encoder = DeformableEncoder([layer], width=8, levels=2).double()
        found = encoder(memory)
        assert torch.equal(found.tokens, memory.tokens)
        _, positions, references, *_ = layer.seen[0]
        codes = torch.cat([encoder.level_code[:1].expand(8, -1), encoder.level_code[1:].expand(2, -1)])
        torch.testing.assert_close(positions, memory.positions + codes)
        assert torch.equal(found.positions, positions)  # decoders of other papers read them
        assert references.shape == (1, CELLS, 2, 2)
        # Half of the width is not padding on both levels, and half of the height on the finer one.
        centers = token_centers(memory)
        for level, ratio in enumerate(([0.5, 0.5], [0.5, 1.0])):
            torch.testing.assert_close(references[:, :, level], centers * torch.tensor(ratio))
        torch.testing.assert_close(
            references[0, 0, 0], torch.tensor([0.5 / 4, 0.5 / 2])
        )  # where it lies on its own map

    def test_without_layers_memory_stays_as_it_is(self) -> None:
        model = build("deformable-detr-compact")
        assert isinstance(model.encoder, Encoder)
        memory = memory_of()
        assert torch.equal(model.encoder(memory).tokens, memory.tokens)


class TestDecoder:
    @pytest.mark.parametrize("coordinates", [2, 4])
    def test_layers_get_references_as_shares_of_the_padded_maps(self, coordinates: int) -> None:
        layer, memory = Recorder(0), memory_of(padding=half_padding())
        references = torch.rand(1, 3, coordinates)
        queries = Queries(torch.zeros(1, 3, 8), torch.zeros(1, 3, 8), references)
        DeformableDecoder([layer], refine=False)(queries, memory, build("deformable-detr-compact").heads)
        scaled = layer.seen[0][3]
        for level, ratio in enumerate(([0.5, 0.5], [0.5, 1.0])):
            wanted = references * torch.tensor(ratio * (coordinates // 2))
            torch.testing.assert_close(scaled[:, :, level], wanted)

    def test_without_refinement_all_layers_start_from_the_same_points(self) -> None:
        model = small()
        stages = model.stages(batch())
        points = stages.queries.references
        assert points is not None
        assert points.shape == (2, 5, 2)
        assert len(stages.decoded.references) == 3
        assert all(torch.equal(references, points) for references in stages.decoded.references)
        for state, boxes in zip(stages.decoded.states, stages.output.boxes_cxcywh, strict=True):
            logits = model.heads.box_head(state)
            wanted = torch.cat([logits[..., :2] + points.logit(), logits[..., 2:]], dim=-1).sigmoid()
            torch.testing.assert_close(boxes, wanted)

    def test_with_refinement_a_layer_starts_from_the_boxes_of_the_one_before(self) -> None:
        model = refining()
        stages = model.stages(batch())
        references, boxes = stages.decoded.references, stages.output.boxes_cxcywh
        assert [each.shape[-1] for each in references] == [2, 4, 4]
        assert references[0] is stages.queries.references
        for layer in (1, 2):
            torch.testing.assert_close(references[layer], boxes[layer - 1])
            assert not references[layer].requires_grad
            moved = (model.heads.box_heads[layer](stages.decoded.states[layer]) + boxes[layer - 1].logit()).sigmoid()
            torch.testing.assert_close(boxes[layer], moved)

    def test_a_layers_boxes_do_not_teach_the_heads_before_it(self) -> None:
        model = refining()
        output = model(batch())
        for layer in range(3):
            model.zero_grad()
            output.boxes_cxcywh[layer].square().sum().backward(retain_graph=True)
            taught = [
                any(bool(value.grad is not None and value.grad.any()) for value in head.parameters())
                for head in model.heads.box_heads
            ]
            assert taught == [index == layer for index in range(3)]
            assert model.decoder.layers[0].self_norm.weight.grad.any()  # all layers learn through the states

    def test_the_first_references_learn(self) -> None:
        for model in (small(), refining()):
            model(batch()).boxes_cxcywh[-1].square().sum().backward()
            gradient = model.query_source.reference_points.weight.grad
            assert gradient is not None
            assert gradient.abs().max() > 0


def test_learned_queries_are_position_then_content() -> None:
    model = small()
    queries = model.stages(batch()).queries
    position, content = model.query_source.embedding.weight.split(64, dim=1)
    linear = model.query_source.reference_points
    for image in range(2):
        assert torch.equal(queries.position[image], position)
        assert torch.equal(queries.content[image], content)
        wanted = 1 / (1 + (-(position @ linear.weight.T + linear.bias)).exp())
        torch.testing.assert_close(queries.references[image], wanted)
    assert queries.proposals is None


def test_criterion_and_selection_follow_the_configuration() -> None:
    config = deformable_detr.Config(class_count=3, decoder_layers=2, l1_weight=4.0)
    weights = {"class": 2.0, "l1": 4.0, "giou": 2.0}
    layers = {f"layers.{layer}.{name}": weight for layer in range(2) for name, weight in weights.items()}
    one_stage = deformable_detr.criterion(config, small())
    assert one_stage.weights == layers
    assert one_stage.no_object == 3
    two_stages = deformable_detr.criterion(dataclasses.replace(config, two_stage=True), small())
    assert two_stages.weights == layers | {f"proposals.{name}": weight for name, weight in weights.items()}
    selection = deformable_detr.selection(config, build("deformable-detr-compact", classes=["a", "b"]).card.categories)
    (found,) = selection(LayerOutput(torch.randn(1, 4, 3), torch.rand(1, 4, 4)), torch.tensor([[10, 10]]))
    assert len(found.scores) == 8  # of two classes with names; the third has none


class TestWhatIsRefused:
    def test_references_that_are_not_numbers(self) -> None:
        """A NaN among the weights of the references reaches every box, and the matcher says so."""
        model = small()
        with torch.no_grad():
            model.query_source.reference_points.weight[0, 0] = math.nan
        target = Target(torch.tensor([0]), torch.full((1, 4), 0.5))
        with pytest.raises(NonFiniteError) as caught:
            criterion_for(model)(model(batch()), [target, target])
        assert str(caught.value).startswith("image 0 of the batch: the matching cost is not finite in the terms ")
        assert "l1, giou, because the model's predictions are not; lower the learning rate" in str(caught.value)

    def test_proposals_that_are_not_numbers(self) -> None:
        output = two_stage()(batch())
        logits = output.proposals.all.logits.detach().clone()
        logits[1, 0, 0] = math.nan
        broken = Output(
            output.logits, output.boxes_cxcywh, Proposals(LayerOutput(logits, output.proposals.all.boxes_cxcywh))
        )
        target = Target(torch.tensor([0]), torch.full((1, 4), 0.5))
        with pytest.raises(NonFiniteError, match=r"^image 1 of the batch: .* in the terms class, because the model's"):
            criterion_for(two_stage())(broken, [target, target])

    def test_an_image_smaller_than_the_coarsest_cell(self) -> None:
        model = build("deformable-detr-compact", levels=5)
        with pytest.raises(
            ConfigurationError, match=r"^images of about 64 x 96 pixels are smaller than one cell .* 128 "
        ):
            model(ImageBatch(torch.randn(1, 3, 64, 96)))


@pytest.mark.parametrize("make", [small, refining, two_stage])
def test_mixed_precision_keeps_references_in_float32(make: Any) -> None:
    model = make().float()
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        stages = model.stages(ImageBatch(pixels))
    assert stages.output.logits.dtype == torch.bfloat16
    assert stages.output.boxes_cxcywh.dtype == torch.float32
    assert stages.decoded.base_logits.dtype == torch.float32
    assert all(references.dtype == torch.float32 for references in stages.decoded.references)


def test_one_class_and_few_queries_give_few_detections() -> None:
    model = build("deformable-detr-compact-two-stage", classes=["a"], queries=3).eval()
    with torch.no_grad():
        output = model(ImageBatch(torch.randn(1, 3, 64, 96)))
    (found,) = deformable_detr.selection(deformable_detr.Config(), model.card.categories)(
        output, torch.tensor([[640, 960]])
    )
    assert sorted(found.queries.tolist()) == [0, 1, 2]
