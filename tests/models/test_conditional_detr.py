"""Conditional DETR's attention by hand, and how it starts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from models.by_heart import assert_learns_by_heart
from support import make_memory
from torch import Tensor, nn

from detrkit.layers.position_encoding import reference_code
from detrkit.models.catalog import build
from detrkit.models.conditional_detr import (
    Config,
    CrossAttention,
    FirstCrossAttention,
    SelfAttention,
)
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch, Memory

WIDTH, HEADS = 8, 2
SIZES = {"width": WIDTH, "attention_heads": HEADS, "dropout": 0.0}


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def memory_with_padding() -> Memory:
    padding = torch.zeros(2, 8, dtype=torch.bool)
    padding[1, 4:] = True
    return make_memory(randn(2, 8, WIDTH), randn(2, 8, WIDTH), padding, ((2, 4),))


def small(**changes: Any) -> Detector:
    torch.manual_seed(0)
    sizes = {"width": 64, "hidden": 64, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 3, "queries": 5}
    return build("conditional-detr-compact", classes=["a", "b", "c"], **(sizes | changes)).double().eval()


def batch() -> ImageBatch:
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, 48:], padding[1, :, 56:] = True, True
    return ImageBatch(
        torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), padding
    )


def test_the_defaults_are_the_papers() -> None:
    config = Config()
    assert (config.class_count, config.queries, config.width, config.attention_heads, config.hidden) == (
        91,
        300,
        256,
        8,
        2048,
    )
    assert (config.encoder_layers, config.decoder_layers, config.dropout) == (6, 6, 0.1)
    assert (config.class_weight, config.l1_weight, config.giou_weight) == (2.0, 5.0, 2.0)


@pytest.mark.parametrize("kind", [CrossAttention, FirstCrossAttention])
def test_scores_are_sums_of_a_content_and_a_spatial_product(kind: type[CrossAttention]) -> None:
    torch.manual_seed(0)
    attention, memory = kind(**SIZES).double(), memory_with_padding()
    content, position, spatial = randn(2, 3, WIDTH), randn(2, 3, WIDTH), randn(2, 3, WIDTH)
    content_query, content_key = attention.content_query(content), attention.content_key(memory.tokens)
    spatial_query, spatial_key = attention.spatial_query(spatial), attention.spatial_key(memory.positions)
    if isinstance(attention, FirstCrossAttention):
        content_query = content_query + attention.position_query(position)
        content_key = content_key + spatial_key
    visible = ~memory.padding[:, None, None]
    wanted = []
    for head in range(HEADS):
        part = slice(head * 4, head * 4 + 4)
        scores = content_query[..., part] @ content_key[..., part].transpose(1, 2)
        scores = (scores + spatial_query[..., part] @ spatial_key[..., part].transpose(1, 2)) / math.sqrt(8)
        weights = scores.masked_fill(~visible[:, 0], -torch.inf).softmax(-1)
        torch.testing.assert_close(attention.weights(content, position, spatial, memory, visible)[:, head], weights)
        wanted.append(weights @ attention.value(memory.tokens)[..., part])
    found = attention(content, position, spatial, memory, visible)
    torch.testing.assert_close(found, attention.output(torch.cat(wanted, dim=-1)))


def test_self_attention_adds_projected_positions_to_queries_and_keys_only() -> None:
    torch.manual_seed(0)
    attention, content, position = SelfAttention(**SIZES).double(), randn(2, 3, WIDTH), randn(2, 3, WIDTH)
    query = attention.content_query(content) + attention.position_query(position)
    key = attention.content_key(content) + attention.position_key(position)
    mask = torch.tensor([[True, False, True], [True, True, True], [False, True, True]])
    wanted = []
    for head in range(HEADS):
        part = slice(head * 4, head * 4 + 4)
        scores = (query[..., part] @ key[..., part].transpose(1, 2) / 2).masked_fill(~mask, -torch.inf)
        wanted.append(scores.softmax(-1) @ attention.value(content)[..., part])
        torch.testing.assert_close(attention.weights(content, position, mask)[:, head], scores.softmax(-1))
    torch.testing.assert_close(attention(content, position, mask), attention.output(torch.cat(wanted, dim=-1)))


def test_the_code_of_a_point_is_y_then_x() -> None:
    code = reference_code(torch.tensor([[[0.25, 0.5]]], dtype=torch.float64), width=8)[0, 0]
    y, x = 0.5 * 2 * math.pi, 0.25 * 2 * math.pi
    wanted = [
        each for angle in (y, x) for slow in (1, 100) for each in (math.sin(angle / slow), math.cos(angle / slow))
    ]
    torch.testing.assert_close(code, torch.tensor(wanted, dtype=torch.float64))


def test_a_layer_scales_its_spatial_query_by_what_the_layer_before_gave() -> None:
    model = small()
    memory = model.stages(batch()).memory
    queries = model.query_source(memory)
    spatial: list[Tensor] = []
    contents: list[Tensor] = []
    for layer in model.decoder.layers:
        layer.register_forward_pre_hook(lambda _, arguments, named: spatial.append(named["spatial"]), with_kwargs=True)
        layer.register_forward_hook(lambda _, arguments, result: contents.append(result))
    model.decoder(queries, memory, model.heads)
    code = reference_code(queries.references, width=64)
    torch.testing.assert_close(spatial[0], code)
    for index in (1, 2):
        torch.testing.assert_close(spatial[index], code * model.decoder.position_scale(contents[index - 1]))


def test_boxes_are_relative_to_the_reference_points() -> None:
    model = small()
    nn.init.normal_(model.heads.box_head.layers[-1].weight, std=0.2)
    stages = model.stages(batch())
    points = stages.queries.references
    assert all(reference is points for reference in stages.decoded.references)
    for states, boxes in zip(stages.decoded.states, stages.output.boxes_cxcywh, strict=True):
        logits = model.heads.box_head(states)
        wanted = torch.cat([logits[..., :2] + points.logit(), logits[..., 2:]], dim=-1).sigmoid()
        torch.testing.assert_close(boxes, wanted)


def test_the_start() -> None:
    model = small(queries=200)
    output = model(batch())
    torch.testing.assert_close(output.boxes_cxcywh[..., 2:], torch.full_like(output.boxes_cxcywh[..., 2:], 0.5))
    references = model.query_source(model.stages(batch()).memory).references
    torch.testing.assert_close(output.boxes_cxcywh[..., :2], references.expand(3, -1, -1, -1))
    torch.testing.assert_close(model.heads.class_head.bias.sigmoid(), torch.full((3,), 0.01, dtype=torch.float64))
    for name, value in [*model.decoder.named_parameters(), *model.query_source.reference_head.named_parameters()]:
        if value.dim() > 1:
            bound = math.sqrt(6 / sum(value.shape))
            assert 0.9 * bound < value.abs().max().item() <= bound or value.numel() < 200, name
    for layer in model.decoder.layers:
        assert not layer.self_attention.output.bias.any()
        assert not layer.cross_attention.output.bias.any()


def test_only_the_first_layer_has_positions_in_its_content() -> None:
    kinds = [type(layer.cross_attention) for layer in small().decoder.layers]
    assert kinds == [FirstCrossAttention, CrossAttention, CrossAttention]


def test_a_query_mask_keeps_queries_apart() -> None:
    model = small()
    memory = model.stages(batch()).memory
    queries = model.query_source(memory)
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    mask[..., :3, 3:], mask[..., 3:, :3] = False, False
    apart = model.decoder(dataclasses.replace(queries, mask=mask), memory, model.heads).states
    first = dataclasses.replace(
        queries, **{name: getattr(queries, name)[:, :3] for name in ("content", "position", "references")}
    )
    torch.testing.assert_close(apart[:, :, :3], model.decoder(first, memory, model.heads).states)


def test_a_batch_is_learned_by_heart() -> None:
    torch.manual_seed(0)
    model = build("conditional-detr-compact", classes=["a", "b", "c"], queries=5)
    assert_learns_by_heart(model, steps=60)
