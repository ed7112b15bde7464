"""SAM-DETR: what the aligner takes from a box, attention around salient points, and the boxes that layers move."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from models.by_heart import assert_learns_by_heart
from models.small_deformable_detr import batch
from torch import Tensor, nn

from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.layers.position_encoding import CellCenterEncoding
from detrkit.layers.transformer import Encoder
from detrkit.models import sam_detr
from detrkit.models.catalog import build, criterion_for, selection_for
from detrkit.models.detector import Detector
from detrkit.models.sam_detr import (
    Aligned,
    AlignedAttention,
    AlignedDecoderLayer,
    Config,
    SampledContent,
)
from detrkit.prediction.predictor import detect_batch
from detrkit.structures import ImageBatch, LayerOutput, Memory, Stages

WIDTH, HEADS = 64, 4
SMALL = {"width": WIDTH, "hidden": 64, "attention_heads": HEADS, "encoder_layers": 1, "decoder_layers": 3, "queries": 6}
LEVELS = {"backbone": "compact", "levels": 3}


def small(**changes: Any) -> Detector:
    """In float64 and eval mode; box heads, which start at zero, move boxes."""
    model = build("sam-detr-compact", classes=["a", "b", "c"], **(SMALL | changes))
    for _, box_head in model.heads.pairs():
        nn.init.normal_(box_head.output.weight, std=0.2)
        nn.init.normal_(box_head.output.bias, std=0.5)
    return model.double().eval()


def run(model: Detector) -> tuple[Stages, list[tuple[Any, Tensor]]]:
    """The stages of `batch()`, and the arguments and results of every decoder layer."""
    calls: list[tuple[Any, Tensor]] = []

    def keep(_: nn.Module, arguments: Any, result: Tensor) -> None:
        calls.append((arguments, result))

    for layer in model.decoder.layers:
        layer.register_forward_hook(keep)
    return model.stages(batch()), calls


def wave(values: Tensor, channels: int) -> Tensor:
    """(..., channels) sines and cosines of fractions, from the paper's formula."""
    angles = [values * 2 * math.pi / 10000 ** (2 * (channel // 2) / channels) for channel in range(channels)]
    return torch.stack([angle.cos() if channel % 2 else angle.sin() for channel, angle in enumerate(angles)], dim=-1)


def code_of(points: Tensor, width: int = WIDTH) -> Tensor:
    return torch.cat([wave(points[..., 1], width // 2), wave(points[..., 0], width // 2)], dim=-1)


def gradient(value: Tensor, source: Tensor) -> Tensor | None:
    return torch.autograd.grad(value.sum(), source, allow_unused=True, retain_graph=True)[0]


class TestPublishedModels:
    def test_the_defaults_are_the_papers(self) -> None:
        config = Config()
        assert (config.class_count, config.queries, config.width, config.attention_heads) == (91, 300, 256, 8)
        assert (config.hidden, config.encoder_layers, config.decoder_layers, config.dropout) == (2048, 6, 6, 0.1)
        assert (config.levels, config.points, config.gaussian, config.normed_levels) == (1, 4, False, False)
        assert (config.cross_attention, config.learn_queries) == (True, True)
        assert config.term_weights == {"class": 2.0, "l1": 5.0, "giou": 2.0}

    def test_variants(self) -> None:
        forms: dict[str, dict[str, Any]] = {
            "": {},
            "-dc5": {"backbone": "resnet50-dc5"},
            "-multiscale": {"levels": 3, "normed_levels": True},
        }
        for (name, changes), gaussian in itertools.product(forms.items(), (False, True)):
            variant = sam_detr.VARIANTS[f"sam-detr-r50{name}{'-smca' if gaussian else ''}"]
            assert variant.config == Config(**changes, gaussian=gaussian)
            assert (variant.recipe.epochs, variant.recipe.batch_size) == (50, 8 if "dc5" in name else 16)
            assert [weights.tag for weights in variant.weights] == ["12 epochs", "50 epochs"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": 4}, "levels must be at most 3, all from the backbone, not 4"),
        ({"levels": 0}, "levels must be at least 1, not 0"),
        (
            {"gaussian": True, "cross_attention": False},
            "gaussian=True needs cross-attention: leave it out, or leave out cross_attention=False",
        ),
        (
            {"width": 48, "attention_heads": 4},
            "width 48 must be a multiple of 32 (groups of the neck's norms), at least 64, and a multiple of the 4 attention heads",
        ),
    ],
)  # fmt: skip
def test_settings_that_no_model_can_have(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Config(**changes)
    assert str(caught.value) == message


class TestStart:
    def test_boxes_begin_where_they_are_learned(self) -> None:
        model = build("sam-detr-compact", classes=["a", "b"], **SMALL).double().eval()
        stages, wanted = model.stages(batch()), model.query_source.logits.sigmoid().expand(2, -1, -1)
        for boxes in (*stages.output.boxes_cxcywh, *stages.decoded.references):
            torch.testing.assert_close(boxes, wanted)
        for class_head, box_head in model.heads.pairs():
            torch.testing.assert_close(class_head.bias.sigmoid(), torch.full_like(class_head.bias, 0.01))
            assert not any(value.any() for value in box_head.output.parameters())
            assert torch.equal(class_head.weight, model.heads.class_heads[0].weight)

    def test_points_begin_near_the_middle_and_matrices_are_xavier(self) -> None:
        model = build("sam-detr-compact", classes=["a", "b"], **SMALL)
        for layer in model.decoder.layers:
            assert not layer.aligner.points.output.bias.any()
        for name, value in model.decoder.named_parameters():
            if value.dim() > 1:
                receptive = value[0, 0].numel()
                bound = math.sqrt(6 / (sum(value.shape[:2]) * receptive))
                assert 0.9 * bound < value.abs().max().item() <= bound, name

    def test_logits_of_boxes_are_normal(self) -> None:
        logits = build("sam-detr-compact", **SMALL | {"queries": 4000}).query_source.logits
        assert logits.mean().item() == pytest.approx(0, abs=0.05)
        assert logits.std().item() == pytest.approx(1, abs=0.05)

    @pytest.mark.parametrize("normed", [False, True])
    def test_levels_are_normed_or_not(self, normed: bool) -> None:
        kinds = [nn.Conv2d, nn.GroupNorm] if normed else [nn.Conv2d]
        model = small(normed_levels=normed)
        assert [[type(part) for part in each] for each in model.neck.projections] == [kinds]
        assert type(model.neck.position_encoding) is CellCenterEncoding

    def test_the_encoder_of_several_levels_has_half_the_hidden_width(self) -> None:
        one, several = small(), small(**LEVELS)
        assert type(one.encoder) is Encoder
        assert one.encoder.layers[0].feed_forward.expand.out_features == 64
        assert several.encoder.layers[0].feed_forward.expand.out_features == 32
        assert several.decoder.layers[0].feed_forward.expand.out_features == 64
        assert several.encoder.level_code.shape == (3, WIDTH)

    def test_queries_can_stay_as_they_are(self) -> None:
        assert not small(learn_queries=False).query_source.logits.requires_grad


class TestAttention:
    @pytest.mark.parametrize("gaussian", [False, True])
    @pytest.mark.parametrize("padded", [False, True])
    def test_written_out(self, padded: bool, gaussian: bool) -> None:
        module = AlignedAttention(width=8, attention_heads=2, dropout=0.0).double()
        nn.init.normal_(module.output.bias)
        content, position = torch.randn(2, 3, 2, 8).double(), torch.randn(2, 3, 2, 8).double()
        points, scales = torch.rand(2, 3, 2, 2).double(), torch.randn(2, 3, 2, 2).double()
        padding = torch.zeros(2, 3, 5, dtype=torch.bool)
        padding[1, 2:], padding[1, :, 4:] = True, True
        tokens, positions = torch.randn(2, 15, 8).double(), torch.randn(2, 15, 8).double()
        memory = Memory.of(tokens, positions, padding.flatten(1) if padded else None, ((3, 5),), torch.ones(2, 2))
        aligned = Aligned(content, position, points, scales if gaussian else None)
        found, weights = module(aligned, memory), module.weights(aligned, memory)
        keys = module.content_key(tokens) + module.position_key(positions)
        values = module.value(tokens).view(2, 15, 2, 4)
        for image, query in itertools.product(range(2), range(3)):
            rows, columns = (2, 4) if padded and image == 1 else (3, 5)
            seen = []
            for head in range(2):
                asked = module.content_query(content[image, query, head]) + module.position_query(
                    position[image, query, head]
                )
                scores = keys[image] @ asked / math.sqrt(8)  # as wide as the model in each head
                if gaussian:
                    x, y = points[image, query, head].tolist()
                    of_x, of_y = scales[image, query, head].tolist()
                    for row, column in itertools.product(range(3), range(5)):
                        away = (of_x * (column + 0.5 - x * columns)) ** 2 + (of_y * (row + 0.5 - y * rows)) ** 2
                        scores[row * 5 + column] -= away / 8.0
                if padded:
                    scores = scores.masked_fill(padding[image].flatten(), -torch.inf)
                torch.testing.assert_close(weights[image, head, query], scores.softmax(0))
                seen.append(scores.softmax(0) @ values[image, :, head])
            torch.testing.assert_close(found[image, query], module.output(torch.cat(seen)))

    def test_without_it_each_head_gives_what_lies_at_its_point(self) -> None:
        module = SampledContent(width=8, attention_heads=2).double()
        content, position = torch.randn(2, 3, 2, 8).double(), torch.randn(2, 3, 2, 8).double()
        found = module(Aligned(content, position, content[..., :2], None), None)
        for image, query in itertools.product(range(2), range(3)):
            heads = [module.value(content[image, query, head] + position[image, query, head]) for head in range(2)]
            torch.testing.assert_close(found[image, query], module.output(torch.cat(heads)))

    def test_the_setting_chooses(self) -> None:
        kinds = [type(small(cross_attention=each).decoder.layers[1].cross_attention) for each in (True, False)]
        assert kinds == [AlignedAttention, SampledContent]
        gates = [small(gaussian=each).decoder.layers[1].aligner.points.output.out_features for each in (False, True)]
        assert gates == [2 * HEADS, 4 * HEADS]


@pytest.mark.parametrize("changes", [{}, {"cross_attention": False}, {"gaussian": True}], ids=str)
def test_a_layer_written_out(changes: dict[str, Any]) -> None:
    model = small(**changes)
    memory = model.stages(batch()).memory
    assert memory.padding.any()
    layer: AlignedDecoderLayer = model.decoder.layers[1]
    content, boxes = torch.randn(2, 6, WIDTH).double(), torch.rand(2, 6, 4).double()
    position = code_of(boxes[..., :2])
    seen = layer.self_norm(content + layer.self_attention(content, position))
    aligned = layer.aligner(seen, boxes, memory)
    wanted = layer.feed_forward(layer.cross_norm(seen + layer.cross_attention(aligned, memory)))
    found = layer(content, boxes, memory)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)  # codes are computed in float32


class TestDecoder:
    def test_boxes_go_from_layer_to_layer(self) -> None:
        model = small()
        stages, calls = run(model)
        logits = model.query_source.logits.expand(2, -1, -1)
        torch.testing.assert_close(stages.queries.content, torch.zeros(2, 6, WIDTH).double())
        for index, ((content, references, *_), result) in enumerate(calls):
            torch.testing.assert_close(references, logits.sigmoid())
            torch.testing.assert_close(stages.decoded.references[index], references)
            torch.testing.assert_close(stages.decoded.states[index], result)
            torch.testing.assert_close(content, calls[index - 1][1] if index else stages.queries.content)
            moved = model.heads.box_heads[index](result)
            boxes = (moved + references.logit()).sigmoid()
            torch.testing.assert_close(stages.output.boxes_cxcywh[index], boxes)
            torch.testing.assert_close(stages.output.logits[index], model.heads.class_heads[index](result))
            logits = logits + moved

    def test_the_sum_of_moves_is_not_clamped(self) -> None:
        """What predicted boxes are relative to is, at a hundred thousandth."""
        model = small()
        for _, box_head in model.heads.pairs():
            nn.init.zeros_(box_head.output.weight)
        biases = ([20.0, -20.0, 20.0, 1.0], [-19.0, 19.0, 0.0, 1.0], [0.5] * 4)
        for (_, box_head), bias in zip(model.heads.pairs(), biases, strict=True):
            box_head.output.bias.data.copy_(torch.tensor(bias))
        nn.init.zeros_(model.query_source.logits)
        stages, _ = run(model)
        end = math.log(1e5)
        base = torch.tensor([[0.0] * 4, [end, -end, end, 1.0], [1.0, -1.0, end, 2.0]]).double()
        torch.testing.assert_close(
            stages.decoded.base_logits, base[:, None, None].expand(-1, 2, 6, -1), rtol=1e-4, atol=1e-4
        )
        wanted = (base + torch.tensor(biases)).sigmoid()
        torch.testing.assert_close(stages.output.boxes_cxcywh, wanted[:, None, None].expand(-1, 2, 6, -1))

    @pytest.mark.parametrize(
        ("levels", "layers", "wanted"),
        [
            (3, 6, [2, 2, 1, 1, 0, 0]),
            (3, 3, [2, 1, 0]),
            (3, 4, [2, 2, 1, 0]),
            (3, 2, [2, 1]),
            (2, 4, [1, 1, 0, 0]),
            (1, 2, [0, 0]),
        ],
    )
    def test_the_coarsest_level_comes_first(self, levels: int, layers: int, wanted: list[int]) -> None:
        model = small(backbone="compact", levels=levels, decoder_layers=layers)
        stages, calls = run(model)
        for (_, _, memory), _ in calls:
            level = wanted.pop(0)
            assert memory.level_sizes == (stages.memory.level_sizes[level],)
            assert torch.equal(memory.tokens, stages.memory.level(level).tokens)
        assert wanted == []

    def test_what_boxes_teach(self) -> None:
        model = small()
        stages, _ = run(model)
        boxes, logits = stages.output.boxes_cxcywh, model.query_source.logits
        base = stages.decoded.base_logits
        torch.testing.assert_close(gradient(base[0], logits), torch.full_like(logits, 2.0))  # of both images
        heads = [model.heads.box_heads[index].output.weight for index in range(3)]
        for layer in (1, 2):
            assert gradient(base[layer], heads[0]) is None or not gradient(base[layer], heads[0]).any()
            assert gradient(base[layer], logits) is None or not gradient(base[layer], logits).any()
            assert gradient(boxes[layer], heads[layer]).abs().max() > 1e-6
            assert (
                gradient(boxes[layer], heads[layer - 1]) is None or not gradient(boxes[layer], heads[layer - 1]).any()
            )

    @pytest.mark.parametrize("gaussian", [False, True])
    def test_where_queries_look_is_taught_by_the_gaussian_alone(self, gaussian: bool) -> None:
        model = small(gaussian=gaussian)
        stages = model.stages(batch())
        found = gradient(stages.output.logits[0], model.query_source.logits)
        assert (found is not None and found.any().item()) == gaussian

    def test_a_query_mask_keeps_queries_apart(self) -> None:
        model = small()
        stages = model.stages(batch())
        queries = stages.queries
        mask = torch.ones(1, 1, 6, 6, dtype=torch.bool)
        mask[..., :4, 4:], mask[..., 4:, :4] = False, False
        apart = model.decoder(dataclasses.replace(queries, mask=mask), stages.memory, model.heads)
        parts = {name: getattr(queries, name)[:, :4] for name in ("content", "references", "reference_logits")}
        alone = model.decoder(dataclasses.replace(queries, **parts), stages.memory, model.heads)
        torch.testing.assert_close(apart.states[:, :, :4], alone.states)
        assert (apart.states - stages.decoded.states).abs().max() > 1e-3


class TestCriterionAndSelection:
    def test_weights(self) -> None:
        criterion = sam_detr.criterion(Config(class_count=3, decoder_layers=2))
        weights = {"class": 2.0, "l1": 5.0, "giou": 2.0}
        assert criterion.weights == {f"layers.{layer}.{name}": weights[name] for layer in range(2) for name in weights}
        assert {name: weight for name, (_, weight) in criterion.matcher.terms.items()} == weights
        changed = criterion_for(small(giou_weight=0.5))
        assert changed.weights["layers.2.giou"] == changed.matcher.terms["giou"][1] == 0.5

    def test_a_hundred_detections(self) -> None:
        output = LayerOutput(torch.randn(1, 200, 3), torch.rand(1, 200, 4))
        (found,) = selection_for(small())(output, torch.tensor([[10, 10]]))
        torch.testing.assert_close(found.scores, output.logits.flatten().sigmoid().sort(descending=True).values[:100])


PARTS = (
    "query_source",
    "encoder",
    "decoder.layers.0.aligner.squeeze",
    "decoder.layers.0.aligner.points",
    "decoder.layers.1.aligner.content_gate",
    "decoder.layers.1.aligner.position_gate",
    "heads.box_heads.0",
)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("changes", [{}, {"gaussian": True}, {"cross_attention": False}, LEVELS], ids=str)
@pytest.mark.parametrize("part", PARTS)
def test_nan_is_reported(part: str, changes: dict[str, Any], padded: bool) -> None:
    """Nothing hangs or crashes where boxes and points are NaN."""
    model = small(**changes)
    with torch.no_grad():
        next(model.get_submodule(part).parameters()).fill_(torch.nan)
    images = batch() if padded else ImageBatch(batch().pixels)
    images = dataclasses.replace(images, original_sizes=torch.tensor([[64, 96], [48, 56]]))
    with pytest.raises(NonFiniteError, match="scores or boxes that are NaN or infinite"):
        detect_batch(model, selection_for(model), images)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, 1e30, -1e30])
@torch.no_grad()
def test_boxes_of_any_size_are_looked_at(value: float) -> None:
    model = small()
    model.query_source.logits.fill_(value)
    images = dataclasses.replace(batch(), original_sizes=torch.tensor([[64, 96], [48, 56]]))
    assert all(found.boxes_xyxy.isfinite().all() for found in detect_batch(model, selection_for(model), images))


@pytest.mark.parametrize(
    "changes",
    [{}, *(pytest.param(each, marks=pytest.mark.slow) for each in ({"cross_attention": False}, {"gaussian": True}))],
    ids=str,
)
def test_a_batch_is_learned_by_heart(changes: dict[str, Any]) -> None:
    assert_learns_by_heart(
        build("sam-detr-compact", classes=["a", "b", "c"], queries=10, **changes), steps=80, clip=1.0
    )
