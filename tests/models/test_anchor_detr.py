"""Anchor DETR: codes of cells and points, the order of points and patterns, and what layers compare."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from models.by_heart import assert_learns_by_heart
from models.small_deformable_detr import batch
from torch import Tensor, nn

from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.models import anchor_detr
from detrkit.models.anchor_detr import AnchorPoints, Config, PointCodes, RowColumnCodes, RowColumnDecoderLayer
from detrkit.models.catalog import build, criterion_for, selection_for
from detrkit.models.detector import Detector
from detrkit.prediction.predictor import detect_batch
from detrkit.structures import LayerOutput, Memory

WIDTH = 64
SMALL = {"width": WIDTH, "hidden": 64, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 3, "queries": 6}


def small(**changes: Any) -> Detector:
    """In float64 and eval mode: two points with three patterns; the box head moves boxes."""
    model = build("anchor-detr-compact", classes=["a", "b", "c"], **(SMALL | changes))
    nn.init.normal_(model.heads.box_head.output.weight, std=0.2)
    return model.double().eval()


def wave(value: float, channels: int) -> Tensor:
    """Sines and cosines of a fraction, from the paper's formula."""
    angles = [value * 2 * math.pi / 10000 ** (2 * (channel // 2) / channels) for channel in range(channels)]
    return torch.tensor([math.cos(angle) if index % 2 else math.sin(angle) for index, angle in enumerate(angles)])


def code_of_point(codes: PointCodes, x: float, y: float) -> Tensor:
    return codes.point(torch.cat([wave(y, codes.width // 2), wave(x, codes.width // 2)]))


def code_of_line(codes: RowColumnCodes, value: float) -> Tensor:
    return codes.line(wave(value, codes.width))


def padding_of(*insides: tuple[int, int], height: int = 4, width: int = 6) -> Tensor:
    """Images of these rows and columns in maps of 4 x 6 cells."""
    padding = torch.ones(len(insides), height, width, dtype=torch.bool)
    for image, (rows, columns) in zip(padding, insides, strict=True):
        image[:rows, :columns] = False
    return padding


def gradient(value: Tensor, source: Tensor) -> Tensor | None:
    return torch.autograd.grad(value.sum(), source, allow_unused=True, retain_graph=True)[0]


class TestPublishedModels:
    def test_the_defaults_are_the_papers(self) -> None:
        config = Config()
        assert (config.class_count, config.queries, config.patterns, config.width) == (91, 900, 3, 256)
        assert (config.attention_heads, config.hidden, config.encoder_layers, config.decoder_layers) == (8, 1024, 6, 6)
        assert (config.dropout, config.row_column, config.learn_queries) == (0.0, True, True)
        assert config.term_weights == {"class": 2.0, "l1": 5.0, "giou": 2.0}

    def test_variants(self) -> None:
        for depth in ("50", "101"):
            for name, dilation in (("c5", ""), ("dc5", "-dc5")):
                variant = anchor_detr.VARIANTS[f"anchor-detr-r{depth}-{name}"]
                assert variant.config == Config(backbone=f"resnet{depth}{dilation}")
                assert (variant.recipe.epochs, variant.recipe.batch_size, variant.recipe.drop_after) == (50, 8, 0.8)
        plain = anchor_detr.VARIANTS["anchor-detr-r50-dc5-plain"].config
        assert plain == Config(backbone="resnet50-dc5", row_column=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"queries": 10},
            "queries must be a multiple of patterns (3), not 10: every point comes once with each pattern",
        ),
        ({"patterns": 0}, "patterns must be at least 1, not 0"),
        ({"width": 80, "attention_heads": 4}, "width 80 must be a multiple of 32 (groups of the neck's norm)"),
        (
            {"width": 64, "attention_heads": 5},
            "width 64 must be a multiple of 4 (sine and cosine of two axes) and of the 5 attention heads",
        ),
        ({"class_weight": -1.0}, "class_weight must be at least 0, not -1.0"),
    ],
)
def test_settings_that_no_model_can_have(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Config(**changes)
    assert str(caught.value) == message


class TestStart:
    def test_boxes_of_one_size_lie_around_their_points(self) -> None:
        model = build("anchor-detr-compact", classes=["a", "b"], **SMALL).double()
        side = 1 / (1 + math.exp(2))
        points = model.query_source.points.repeat(3, 1)
        wanted = torch.cat([points, torch.full_like(points, side)], dim=-1)
        for boxes in model.stages(batch()).output.boxes_cxcywh:
            torch.testing.assert_close(boxes, wanted.expand(2, -1, -1))
        bias = model.heads.class_head.bias
        torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))

    def test_points_fill_the_image_and_patterns_are_normal(self) -> None:
        source = AnchorPoints(points=4000, patterns=100, width=64)
        assert 0 <= source.points.min() < 0.01
        assert 0.99 < source.points.max() < 1
        assert source.points.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.03)
        assert source.patterns.weight.std().item() == pytest.approx(1, abs=0.05)

    def test_projections_of_row_column_attention_begin_as_one_matrix(self) -> None:
        attention = RowColumnDecoderLayer(width=64, attention_heads=4, hidden=64, dropout=0.0).cross_attention
        bound = math.sqrt(6 / (6 * 64))  # five projections are one matrix of 320 x 64
        for name in ("column_query", "row_query", "column_key", "row_key", "value"):
            projection = getattr(attention, name)
            assert 0.9 * bound < projection.weight.abs().max().item() <= bound
            assert not projection.bias.any()
        assert not attention.output.bias.any()


class TestCodes:
    def test_a_cell_has_the_code_of_its_center_in_the_image_without_padding(self) -> None:
        codes = PointCodes(width=16)
        insides = ((4, 6), (3, 5), (1, 2))
        found = codes(torch.zeros(3, 16, 4, 6), padding_of(*insides))
        for image, (rows, columns) in enumerate(insides):
            for row in range(4):
                for column in range(6):
                    # What lies behind padding has the place of the last cell before it.
                    y, x = (min(row, rows - 1) + 0.5) / rows, (min(column, columns - 1) + 0.5) / columns
                    wanted = code_of_point(codes, x, y)
                    torch.testing.assert_close(found[image, :, row, column], wanted, rtol=0, atol=1e-5)

    def test_a_cell_has_the_code_of_its_column_then_that_of_its_row(self) -> None:
        codes = RowColumnCodes(width=16)
        insides = ((4, 6), (3, 5), (1, 2))
        found = codes(torch.zeros(3, 16, 4, 6), padding_of(*insides))
        assert found.shape == (3, 32, 4, 6)
        for image, (rows, columns) in enumerate(insides):
            for row in range(4):
                for column in range(6):
                    y, x = (min(row, rows - 1) + 0.5) / rows, (min(column, columns - 1) + 0.5) / columns
                    wanted = torch.cat([code_of_line(codes, x), code_of_line(codes, y)])
                    torch.testing.assert_close(found[image, :, row, column], wanted, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("kind", [PointCodes, RowColumnCodes])
    def test_without_padding_all_images_have_the_same(self, kind: type[PointCodes]) -> None:
        codes = kind(width=16)
        features = torch.zeros(2, 16, 4, 6)
        found = codes(features, None)
        assert found.shape[0] == 2
        torch.testing.assert_close(found, codes(features, padding_of((4, 6), (4, 6))))

    def test_points_are_coded_as_cells_are(self) -> None:
        places = torch.tensor([[0.1, 0.7], [0.9, 0.25]])
        plain, lines = PointCodes(width=16), RowColumnCodes(width=16)
        for index, (x, y) in enumerate(places.tolist()):
            torch.testing.assert_close(plain.of_points(places)[index], code_of_point(plain, x, y), rtol=0, atol=1e-5)
            wanted = torch.cat([code_of_point(lines, x, y), code_of_line(lines, x), code_of_line(lines, y)])
            torch.testing.assert_close(lines.of_points(places)[index], wanted, rtol=0, atol=1e-5)

    def test_a_point_in_the_middle_of_a_cell_has_its_code(self) -> None:
        plain, lines = PointCodes(width=16), RowColumnCodes(width=16)
        features, place = torch.zeros(1, 16, 4, 6), torch.tensor([[3.5 / 6, 1.5 / 4]])
        torch.testing.assert_close(plain.of_points(place)[0], plain(features, None)[0, :, 1, 3], rtol=0, atol=1e-5)
        found = lines.of_points(place)[0, 16:]
        torch.testing.assert_close(found, lines(features, None)[0, :, 1, 3], rtol=0, atol=1e-5)

    @pytest.mark.parametrize("row_column", [True, False])
    def test_the_images_codes_reach_memory(self, row_column: bool) -> None:
        model = small(row_column=row_column)
        stages = model.stages(batch())
        memory, codes = stages.memory, model.neck.position_encoding
        assert type(codes) is (RowColumnCodes if row_column else PointCodes)
        padding = memory.padding_maps()[0]
        wanted = codes(torch.zeros(2, 1, 4, 6, dtype=torch.float64), padding)
        torch.testing.assert_close(memory.positions, wanted.flatten(2).mT)
        assert padding[1].any()


class TestQueries:
    @pytest.mark.parametrize("row_column", [True, False])
    def test_every_point_comes_once_with_each_pattern(self, row_column: bool) -> None:
        model = small(row_column=row_column)
        source, codes = model.query_source, model.neck.position_encoding
        assert (source.points.shape, source.patterns.weight.shape) == ((2, 2), (3, WIDTH))
        queries = model.stages(batch()).queries
        of_points = codes.of_points(source.points)
        for pattern in range(3):
            for point in range(2):
                row = pattern * 2 + point
                for image in range(2):
                    torch.testing.assert_close(queries.content[image, row], source.patterns.weight[pattern])
                    torch.testing.assert_close(queries.references[image, row], source.points[point])
                    torch.testing.assert_close(queries.position[image, row], of_points[point])

    def test_they_can_stay_as_they_are(self) -> None:
        model = small(learn_queries=False)
        assert [value.requires_grad for value in model.query_source.parameters()] == [False, False]
        assert all(value.requires_grad for value in model.neck.position_encoding.parameters())


class TestLayers:
    def test_of_the_encoder(self) -> None:
        model = small()
        levels = model.stages(batch())
        memory: Memory = dataclasses.replace(levels.memory, tokens=torch.randn_like(levels.memory.tokens))
        (layer,) = model.encoder.layers
        column, row = memory.positions[..., :WIDTH], memory.positions[..., WIDTH:]
        attended = layer.norm(memory.tokens + layer.attention(memory.tokens + column, memory.tokens + row, memory))
        found = model.encoder(memory)
        torch.testing.assert_close(found.tokens, layer.feed_forward(attended))
        assert torch.equal(found.positions, memory.positions)

    def test_of_the_decoder(self) -> None:
        model = small()
        memory, layer = model.stages(batch()).memory, model.decoder.layers[1]
        content = torch.randn(2, 6, WIDTH, dtype=torch.float64)
        point, column, row = (torch.randn(2, 6, WIDTH, dtype=torch.float64) for _ in range(3))
        seen = layer.self_attention(content + point, content + point, content)
        wanted = layer.self_norm(content + seen)
        wanted = layer.cross_norm(wanted + layer.cross_attention(wanted + column, wanted + row, memory))
        found = layer(content, torch.cat([point, column, row], dim=-1), memory)
        torch.testing.assert_close(found, layer.feed_forward(wanted))

    @pytest.mark.parametrize("row_column", [True, False])
    def test_states_go_from_layer_to_layer_and_to_the_heads_as_they_are(self, row_column: bool) -> None:
        model = small(row_column=row_column)
        stages = model.stages(batch())
        queries, content = stages.queries, stages.queries.content
        points = model.query_source.points.repeat(3, 1)
        for index, layer in enumerate(model.decoder.layers):
            content = layer(content, queries.position, stages.memory)
            torch.testing.assert_close(stages.decoded.states[index], content)
            torch.testing.assert_close(stages.output.logits[index], model.heads.class_head(content))
            moved = model.heads.box_head(content)
            base = torch.cat([points.logit(), torch.zeros_like(points)], dim=-1)
            torch.testing.assert_close(stages.output.boxes_cxcywh[index], (moved + base).sigmoid())
            torch.testing.assert_close(stages.decoded.references[index], points.expand(2, -1, -1))

    @pytest.mark.parametrize("row_column", [True, False])
    def test_a_query_mask_keeps_queries_apart(self, row_column: bool) -> None:
        model = small(row_column=row_column)
        stages = model.stages(batch())
        queries = stages.queries
        mask = torch.ones(1, 1, 6, 6, dtype=torch.bool)
        mask[..., :4, 4:], mask[..., 4:, :4] = False, False
        apart = model.decoder(dataclasses.replace(queries, mask=mask), stages.memory, model.heads)
        parts = {name: getattr(queries, name)[:, :4] for name in ("content", "position", "references")}
        alone = model.decoder(dataclasses.replace(queries, **parts), stages.memory, model.heads)
        torch.testing.assert_close(apart.states[:, :, :4], alone.states)
        assert (apart.states - stages.decoded.states).abs().max() > 1e-3


class TestPoints:
    def test_every_layers_boxes_teach_them(self) -> None:
        model = small()
        points = model.query_source.points
        decoded = model.stages(batch()).decoded
        slope = 3 * 2 / (points * (1 - points))  # three patterns, two images
        for base in decoded.base_logits:
            torch.testing.assert_close(gradient(base, points), slope)

    def test_their_codes_teach_them_and_the_network(self) -> None:
        model = small()
        stages = model.stages(batch())
        codes = model.neck.position_encoding
        sources = (model.query_source.points, codes.point.layers[0].weight, codes.line.layers[0].weight)
        for source in (*sources, model.query_source.patterns.weight):
            # Not their sum, which the norm behind each layer keeps constant.
            assert gradient(stages.output.logits[0], source).abs().max() > 1e-6

    def test_outside_of_the_image_boxes_stay_finite_and_send_no_gradient(self) -> None:
        model = small()
        with torch.no_grad():
            model.query_source.points.copy_(torch.tensor([[1.5, 0.5], [-0.25, 1.0]]))
        decoded = model.stages(batch()).decoded
        end = math.log(1e5)
        wanted = torch.tensor([[end, 0.0, 0.0, 0.0], [-end, end, 0.0, 0.0]], dtype=torch.float64).repeat(3, 1)
        torch.testing.assert_close(decoded.base_logits[2], wanted.expand(2, -1, -1))
        found = gradient(decoded.base_logits[0], model.query_source.points)
        assert found.abs().gt(0).tolist()[0] == [False, True]
        assert found[1, 0] == 0


class TestCriterionAndSelection:
    def test_weights(self) -> None:
        criterion = anchor_detr.criterion(Config(class_count=3, decoder_layers=2))
        weights = {"class": 2.0, "l1": 5.0, "giou": 2.0}
        assert criterion.weights == {f"layers.{layer}.{name}": weights[name] for layer in range(2) for name in weights}
        assert {name: weight for name, (_, weight) in criterion.matcher.terms.items()} == weights
        changed = criterion_for(small(class_weight=0.5))
        assert changed.weights["layers.2.class"] == changed.matcher.terms["class"][1] == 0.5

    def test_a_hundred_detections(self) -> None:
        output = LayerOutput(torch.randn(1, 200, 3), torch.rand(1, 200, 4))
        (found,) = selection_for(small())(output, torch.tensor([[10, 10]]))
        torch.testing.assert_close(found.scores, output.logits.flatten().sigmoid().sort(descending=True).values[:100])


@pytest.mark.parametrize("part", ["query_source", "encoder", "decoder", "neck.position_encoding"])
@pytest.mark.parametrize("row_column", [True, False])
def test_nan_is_reported(row_column: bool, part: str) -> None:
    model = small(row_column=row_column)
    with torch.no_grad():
        next(model.get_submodule(part).parameters()).fill_(torch.nan)
    images = dataclasses.replace(batch(), original_sizes=torch.tensor([[64, 96], [48, 56]]))
    with pytest.raises(NonFiniteError, match="scores or boxes that are NaN or infinite"):
        detect_batch(model, selection_for(model), images)


@pytest.mark.parametrize("row_column", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_batch_is_learned_by_heart(row_column: bool) -> None:
    model = build("anchor-detr-compact", classes=["a", "b", "c"], row_column=row_column, queries=12, patterns=2)
    assert_learns_by_heart(model, steps=120, clip=1.0)
