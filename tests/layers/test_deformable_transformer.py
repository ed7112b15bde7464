"""Deformable attention's points, weights and values by hand, and the order of things in its layers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support import make_memory
from torch import Tensor, nn

from detrkit.layers.deformable_transformer import (
    DeformableAttention,
    DeformableDecoderLayer,
    DeformableEncoderLayer,
)
from detrkit.structures import Memory

LEVELS = ((2, 4), (1, 2))  # height and width
CELLS = 2 * 4 + 1 * 2
SIZES = {"width": 8, "attention_heads": 2, "levels": 2, "points": 3}


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def randomized(layer: nn.Module) -> nn.Module:
    """In float64, every parameter random: those that begin at 0 or 1 would hide mistakes."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.4)
    return layer.double()


def memory_of(images: int = 2, width: int = 8, padding: Tensor | None = None) -> Memory:
    return make_memory(randn(images, CELLS, width), randn(images, CELLS, width), padding, LEVELS)


class TestTheStart:
    def test_heads_look_in_eight_directions_and_points_step_by_step(self) -> None:
        attention = DeformableAttention(width=16, attention_heads=8, levels=3, points=4)
        around = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
        wanted = [[[(k * x, k * y) for k in (1, 2, 3, 4)]] * 3 for x, y in around]
        offsets = attention.offsets.bias.view(8, 3, 4, 2)
        torch.testing.assert_close(offsets, torch.tensor(wanted, dtype=torch.float32), rtol=0, atol=1e-5)
        assert not attention.offsets.weight.any()

    def test_directions_between_the_axes_end_on_a_square(self) -> None:
        attention = DeformableAttention(width=12, attention_heads=6, levels=1, points=1)
        slope = 1 / 3**0.5  # of 60 degrees: cosine over sine
        wanted = [(1, 0), (slope, 1), (-slope, 1), (-1, 0), (-slope, -1), (slope, -1)]
        torch.testing.assert_close(attention.offsets.bias.view(6, 2), torch.tensor(wanted), rtol=0, atol=2e-6)

    def test_all_points_weigh_alike_and_projections_are_xavier(self) -> None:
        attention = DeformableAttention(width=64, attention_heads=8, levels=2, points=4)
        assert not attention.weights.weight.any()
        assert not attention.weights.bias.any()
        bound = (6 / 128) ** 0.5
        for layer in (attention.values, attention.output):
            assert 0.98 * bound < layer.weight.abs().max().item() <= bound
            assert not layer.bias.any()


class TestLocations:
    def attention(self) -> DeformableAttention:
        """Offsets count through heads, levels, points and (x, y), whatever the query."""
        attention = DeformableAttention(**SIZES).double()
        with torch.no_grad():
            attention.offsets.bias.copy_(torch.arange(2 * 2 * 3 * 2))
        return attention

    @staticmethod
    def offset(head: int, level: int, point: int) -> tuple[int, int]:
        first = ((head * 2 + level) * 3 + point) * 2
        return first, first + 1

    def test_around_a_point_offsets_count_in_cells(self) -> None:
        references = torch.rand(2, 5, 2, 2, dtype=torch.float64)
        found = self.attention().locations(randn(2, 5, 8), references, memory_of())
        assert found.shape == (2, 5, 2, 2, 3, 2)
        for head in range(2):
            for level, (height, width) in enumerate(LEVELS):
                for point in range(3):
                    x, y = self.offset(head, level, point)
                    wanted = references[:, :, level] + torch.tensor([x / width, y / height], dtype=torch.float64)
                    torch.testing.assert_close(found[:, :, head, level, point], wanted)

    def test_around_a_box_offsets_count_in_shares_of_half_its_sides(self) -> None:
        references = torch.rand(2, 5, 2, 4, dtype=torch.float64)
        found = self.attention().locations(randn(2, 5, 8), references, memory_of())
        for head in range(2):
            for level in range(2):
                for point in range(3):
                    x, y = self.offset(head, level, point)
                    box = references[:, :, level]
                    wanted_x = box[..., 0] + x / 3 * box[..., 2] / 2
                    wanted_y = box[..., 1] + y / 3 * box[..., 3] / 2
                    wanted = torch.stack([wanted_x, wanted_y], dim=-1)
                    torch.testing.assert_close(found[:, :, head, level, point], wanted)

    def test_one_by_hand(self) -> None:
        attention = DeformableAttention(width=4, attention_heads=1, levels=2, points=1)
        with torch.no_grad():
            attention.offsets.bias.copy_(torch.tensor([2.0, -1.0, 0.5, 3.0]))
        query, memory = torch.zeros(1, 1, 4), memory_of(1, 4)
        points = torch.tensor([0.5, 0.25]).expand(1, 1, 2, 2)
        found = attention.locations(query, points, memory)[0, 0, 0, :, 0]
        torch.testing.assert_close(found, torch.tensor([[0.5 + 2 / 4, 0.25 - 1 / 2], [0.5 + 0.5 / 2, 0.25 + 3 / 1]]))
        boxes = torch.tensor([0.5, 0.25, 0.2, 0.4]).expand(1, 1, 2, 4)
        found = attention.locations(query, boxes, memory)[0, 0, 0, :, 0]
        torch.testing.assert_close(found, torch.tensor([[0.7, 0.05], [0.55, 0.85]]))

    def test_they_follow_the_query(self) -> None:
        attention = randomized(DeformableAttention(**SIZES))
        query = randn(1, 2, 8)
        found = attention.locations(query, torch.zeros(1, 2, 2, 2, dtype=torch.float64), memory_of(1))
        offsets = (query @ attention.offsets.weight.T + attention.offsets.bias).view(1, 2, 2, 2, 3, 2)
        sizes = torch.tensor([[4.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
        torch.testing.assert_close(found, offsets / sizes[:, None])

    def test_mixed_precision_does_not_touch_them(self) -> None:
        attention = DeformableAttention(**SIZES)
        nn.init.normal_(attention.offsets.weight)
        query, references, memory = torch.randn(1, 4, 8), torch.rand(1, 4, 2, 4), memory_of(1).to(dtype=torch.float32)
        exact = attention.locations(query, references, memory)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = attention.locations(query, references, memory)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, exact)


class TestAttention:
    def test_a_sum_over_levels_and_points_weighted_within_each_head(self) -> None:
        """One head a channel, offsets zero: every head sees its channel at the reference of each level."""
        attention = DeformableAttention(width=2, attention_heads=2, levels=2, points=3).double()
        for layer in (attention.values, attention.output):
            nn.init.eye_(layer.weight)
        scores = randn(2, 2, 3)
        with torch.no_grad():
            attention.offsets.bias.zero_()
            attention.weights.bias.copy_(scores.flatten())
        memory = memory_of(1, 2)
        centers = torch.tensor([[2.5 / 4, 1.5 / 2], [0.5 / 2, 0.5]], dtype=torch.float64)  # of cells (1, 2) and (0, 0)
        found = attention(randn(1, 1, 2), centers[None, None], memory)[0, 0]
        shares = scores.flatten(1).softmax(-1).view(2, 2, 3).sum(-1)  # (heads, levels)
        first, second = memory.tokens[0, 4 + 2], memory.tokens[0, 8]
        for head in range(2):
            wanted = shares[head, 0] * first[head] + shares[head, 1] * second[head]
            torch.testing.assert_close(found[head], wanted)

    def test_behind_padding_not_even_the_bias_is_seen(self) -> None:
        attention = DeformableAttention(width=1, attention_heads=1, levels=1, points=1)
        with torch.no_grad():
            for parameter in attention.parameters():
                parameter.zero_()
            attention.values.bias.fill_(1.0)
            attention.output.weight.fill_(1.0)
        padding = torch.tensor([[False, False, True, True]])
        memory = make_memory(torch.randn(1, 4, 1), torch.randn(1, 4, 1), padding, ((1, 4),))
        x = torch.tensor([0.5, 1.5, 1.75, 2.0, 2.5, 3.5, -0.5]) / 4  # the last is outside the map
        references = torch.stack([x, torch.full_like(x, 0.5)], dim=-1)[None, :, None]
        wanted = torch.tensor([1.0, 1.0, 0.75, 0.5, 0.0, 0.0, 0.0])
        found = attention(torch.randn(1, 7, 1), references, memory)
        torch.testing.assert_close(found[0, :, 0], wanted)
        found = attention(torch.randn(1, 7, 1), references, dataclasses.replace(memory, padding=None))
        torch.testing.assert_close(found[0, :, 0], torch.tensor([1.0] * 6 + [0.0]))

    @pytest.mark.parametrize("value", [1e6, float("nan")])
    def test_tokens_behind_padding_change_nothing(self, value: float) -> None:
        attention = randomized(DeformableAttention(**SIZES))
        padding = torch.zeros(2, CELLS, dtype=torch.bool)
        padding[1, [2, 3, 6, 7, 9]] = True
        memory = memory_of(padding=padding)
        other = dataclasses.replace(memory, tokens=memory.tokens.masked_fill(padding[..., None], value))
        query, references = randn(2, 5, 8), torch.rand(2, 5, 2, 2, dtype=torch.float64)
        torch.testing.assert_close(attention(query, references, memory), attention(query, references, other))


def test_an_encoder_layer_attends_from_placed_tokens_to_bare_ones() -> None:
    layer = randomized(DeformableEncoderLayer(**SIZES, hidden=12, dropout=0.0))
    memory, positions = memory_of(), randn(2, CELLS, 8)
    references = torch.rand(2, CELLS, 2, 2, dtype=torch.float64)
    attended = layer.attention(memory.tokens + positions, references, memory)
    tokens = layer.norm(memory.tokens + attended)
    inner = torch.relu(layer.feed_forward.expand(tokens))
    wanted = layer.feed_forward.norm(tokens + layer.feed_forward.contract(inner))
    torch.testing.assert_close(layer(memory, positions, references), wanted)


def test_a_decoder_layer_attends_to_queries_then_to_memory() -> None:
    layer = randomized(DeformableDecoderLayer(**SIZES, hidden=12, dropout=0.0))
    memory, content, position = memory_of(), randn(2, 5, 8), randn(2, 5, 8)
    references = torch.rand(2, 5, 2, 4, dtype=torch.float64)
    placed = content + position
    states = layer.self_norm(content + layer.self_attention(placed, placed, content))
    states = layer.cross_norm(states + layer.cross_attention(states + position, references, memory))
    inner = torch.relu(layer.feed_forward.expand(states))
    wanted = layer.feed_forward.norm(states + layer.feed_forward.contract(inner))
    torch.testing.assert_close(layer(content, position, memory, references=references), wanted)


def test_dropout_is_for_training() -> None:
    layer = randomized(DeformableDecoderLayer(**SIZES, hidden=12, dropout=0.5))
    arguments, references = (randn(2, 5, 8), randn(2, 5, 8), memory_of()), torch.rand(2, 5, 2, 2, dtype=torch.float64)
    assert not torch.equal(layer(*arguments, references=references), layer(*arguments, references=references))
    layer.eval()
    torch.testing.assert_close(layer(*arguments, references=references), layer(*arguments, references=references))


def test_a_layer_compares_queries_that_its_mask_lets_see_each_other() -> None:
    layer = randomized(DeformableDecoderLayer(**SIZES, hidden=12, dropout=0.0))
    memory, content = memory_of(), randn(2, 3, 8).requires_grad_()
    references, mask = torch.rand(2, 3, 2, 4, dtype=torch.float64), torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 1]]) > 0
    result = layer(content, None, memory, references=references, mask=mask)
    for row in range(3):
        (gradient,) = torch.autograd.grad(result[0, row].pow(3).sum(), content, retain_graph=True)
        assert (gradient[0].abs().sum(-1) > 0).tolist() == mask[row].tolist()


def test_hooks_on_attention_fire_in_the_encoder_too() -> None:
    layer = randomized(DeformableEncoderLayer(**SIZES, hidden=12, dropout=0.0))
    queries: list[Tensor] = []
    layer.attention.register_forward_pre_hook(lambda _, arguments: queries.append(arguments[0]))
    memory, positions = memory_of(), randn(2, CELLS, 8)
    layer(memory, positions, torch.rand(2, CELLS, 2, 2, dtype=torch.float64))
    (query,) = queries
    assert torch.equal(query, memory.tokens + positions)


def test_updating_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = DeformableEncoderLayer(width=64, attention_heads=4, levels=2, points=2, hidden=96, dropout=0.0).eval()
    torch.nn.init.normal_(layer.attention.offsets.weight, std=0.3)
    tokens = torch.randn(2, 26, 64)
    padding = torch.zeros(2, 26, dtype=torch.bool)
    padding[1, 24:] = True
    memory = make_memory(tokens, torch.zeros_like(tokens), padding, ((4, 5), (2, 3)))
    references = torch.rand(2, 26, 2, 2)
    positions = torch.randn_like(tokens)
    whole = layer(memory, positions, references).detach()  # with gradients nothing is cut
    monkeypatch.setattr(DeformableEncoderLayer, "piece", 7)
    with torch.no_grad():
        in_pieces = layer(memory, positions, references)
    torch.testing.assert_close(in_pieces, whole)
