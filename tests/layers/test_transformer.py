"""Encoder and decoder layers against torch's own, and against the paper's figure written out where positions matter."""

from __future__ import annotations

import pytest
import torch
from support import make_memory
from torch import Tensor, nn

from detrkit.layers.attention import MultiHeadAttention, padding_mask
from detrkit.layers.dropout import dropout
from detrkit.layers.transformer import DecoderLayer, Encoder, EncoderLayer, FeedForward

WIDTH, HEADS, HIDDEN = 12, 3, 20
SIZE = {"width": WIDTH, "attention_heads": HEADS, "hidden": HIDDEN}


def randomized(layer: nn.Module) -> nn.Module:
    """In float64, every parameter random: norms and biases that are 1 and 0 would hide mistakes."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.4)
    return layer.double()


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def copy(pairs: list[tuple[nn.Module, nn.Module]]) -> None:
    """Weights from ours to torch's, whose attention calls its parameters otherwise."""
    for ours, theirs in pairs:
        if isinstance(ours, MultiHeadAttention):
            own, names = ours.state_dict(), {"in_proj_": "projection_", "out_proj.": "output."}
            weights = {key + leaf: own[name + leaf] for key, name in names.items() for leaf in ("weight", "bias")}
            theirs.load_state_dict(weights)
        else:
            theirs.load_state_dict(ours.state_dict())


def encoder_pair() -> tuple[EncoderLayer, nn.TransformerEncoderLayer]:
    ours = randomized(EncoderLayer(**SIZE, dropout=0.0))
    assert isinstance(ours, EncoderLayer)
    theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True, dtype=torch.float64)
    forward = ours.feed_forward
    copy([(ours.attention, theirs.self_attn), (ours.norm, theirs.norm1), (forward.norm, theirs.norm2)])
    copy([(forward.expand, theirs.linear1), (forward.contract, theirs.linear2)])
    return ours, theirs


def decoder_pair() -> tuple[DecoderLayer, nn.TransformerDecoderLayer]:
    ours = randomized(DecoderLayer(**SIZE, dropout=0.0))
    assert isinstance(ours, DecoderLayer)
    theirs = nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True, dtype=torch.float64)
    forward = ours.feed_forward
    copy([(ours.self_attention, theirs.self_attn), (ours.cross_attention, theirs.multihead_attn)])
    copy([(ours.self_norm, theirs.norm1), (ours.cross_norm, theirs.norm2), (forward.norm, theirs.norm3)])
    copy([(forward.expand, theirs.linear1), (forward.contract, theirs.linear2)])
    return ours, theirs


def padding_of(count: int) -> Tensor:
    padding = torch.zeros(2, count, dtype=torch.bool)
    padding[1, count // 2 :] = True
    return padding


@pytest.mark.parametrize("padding", [None, padding_of(8)], ids=["whole", "padded"])
def test_encoder_layer_without_positions_equals_torch(padding: Tensor | None) -> None:
    ours, theirs = encoder_pair()
    tokens = randn(2, 8, WIDTH).requires_grad_()
    found = ours(tokens, None, padding_mask(padding))
    wanted = theirs(tokens, src_key_padding_mask=padding)
    torch.testing.assert_close(found, wanted)
    weights = randn(2, 8, WIDTH)
    torch.testing.assert_close(*(torch.autograd.grad((result * weights).sum(), tokens) for result in (found, wanted)))


@pytest.mark.parametrize("padding", [None, padding_of(8)], ids=["whole", "padded"])
def test_decoder_layer_without_positions_equals_torch(padding: Tensor | None) -> None:
    ours, theirs = decoder_pair()
    content, tokens = randn(2, 5, WIDTH).requires_grad_(), randn(2, 8, WIDTH).requires_grad_()
    memory = make_memory(tokens, torch.zeros_like(tokens), padding, ((2, 4),))
    found = ours(content, None, memory)
    wanted = theirs(content, tokens, memory_key_padding_mask=padding)
    torch.testing.assert_close(found, wanted)
    weights = randn(2, 5, WIDTH)
    gradients = [torch.autograd.grad((result * weights).sum(), (content, tokens)) for result in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_positions_reach_queries_and_keys_of_the_encoder_but_not_values() -> None:
    ours, theirs = encoder_pair()
    tokens, positions, padding = randn(2, 8, WIDTH), randn(2, 8, WIDTH), padding_of(8)
    placed = tokens + positions
    attended = theirs.self_attn(placed, placed, tokens, key_padding_mask=padding, need_weights=False)[0]
    middle = theirs.norm1(tokens + attended)
    wanted = theirs.norm2(middle + theirs.linear2(theirs.linear1(middle).relu()))
    torch.testing.assert_close(ours(tokens, positions, padding_mask(padding)), wanted)


def test_positions_reach_queries_and_keys_of_the_decoder_but_not_values() -> None:
    ours, theirs = decoder_pair()
    content, position = randn(2, 5, WIDTH), randn(2, 5, WIDTH)
    memory = make_memory(randn(2, 8, WIDTH), randn(2, 8, WIDTH), padding_of(8), ((2, 4),))
    placed = content + position
    middle = theirs.norm1(content + theirs.self_attn(placed, placed, content, need_weights=False)[0])
    placed_memory = memory.tokens + memory.positions
    attended = theirs.multihead_attn(
        middle + position, placed_memory, memory.tokens, key_padding_mask=memory.padding, need_weights=False
    )[0]
    middle = theirs.norm2(middle + attended)
    wanted = theirs.norm3(middle + theirs.linear2(theirs.linear1(middle).relu()))
    torch.testing.assert_close(ours(content, position, memory), wanted)


def test_a_query_sees_whom_the_mask_lets_it_see() -> None:
    layer = DecoderLayer(width=8, attention_heads=2, hidden=16, dropout=0.0).double()
    content = torch.randn(1, 3, 8, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(1, 4, 8, dtype=torch.float64)
    mask = torch.tensor([[[True, True, False], [True, True, False], [True, False, True]]])
    memory = make_memory(tokens, torch.zeros_like(tokens), None, ((2, 2),))
    result = layer(content, torch.zeros_like(content), memory, mask=mask[:, None])
    for row in range(3):
        (gradient,) = torch.autograd.grad(result[0, row].pow(3).sum(), content, retain_graph=True)
        assert (gradient[0].abs().sum(-1) > 0).tolist() == mask[0, row].tolist()


def test_an_encoder_is_its_layers_in_order() -> None:
    layers = [randomized(EncoderLayer(**SIZE, dropout=0.0)) for _ in range(3)]
    memory = make_memory(randn(2, 8, WIDTH), randn(2, 8, WIDTH), padding_of(8), ((2, 4),))
    before = memory.tokens.clone()
    tokens = memory.tokens
    for layer in layers:
        tokens = layer(tokens, memory.positions, padding_mask(memory.padding))
    found = Encoder(layers)(memory)
    torch.testing.assert_close(found.tokens, tokens)
    assert torch.equal(memory.tokens, before)
    assert found.positions is memory.positions
    assert found.padding is memory.padding
    assert found.level_sizes == ((2, 4),)


def test_with_everything_dropped_only_residuals_and_norms_are_left() -> None:
    tokens, positions = randn(2, 8, WIDTH), randn(2, 8, WIDTH)
    memory = make_memory(tokens, positions, None, ((2, 4),))

    encoder = randomized(EncoderLayer(**SIZE, dropout=1.0))
    assert isinstance(encoder, EncoderLayer)
    torch.testing.assert_close(encoder(tokens, positions), encoder.feed_forward.norm(encoder.norm(tokens)))

    decoder = randomized(DecoderLayer(**SIZE, dropout=1.0))
    assert isinstance(decoder, DecoderLayer)
    content = randn(2, 5, WIDTH)
    wanted = decoder.feed_forward.norm(decoder.cross_norm(decoder.self_norm(content)))
    torch.testing.assert_close(decoder(content, content, memory), wanted)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_dropout_rests_in_eval_mode(kind: str) -> None:
    tokens, positions = randn(2, 8, WIDTH), randn(2, 8, WIDTH)
    memory = make_memory(tokens, positions, None, ((2, 4),))

    def run(layer: nn.Module) -> Tensor:
        if kind == "encoder":
            return layer(tokens, positions)
        return layer(tokens, positions, memory)

    make = EncoderLayer if kind == "encoder" else DecoderLayer
    dropping, plain = randomized(make(**SIZE, dropout=0.5)), make(**SIZE, dropout=0.0).double()
    plain.load_state_dict(dropping.state_dict())
    assert not torch.allclose(run(dropping), run(dropping))
    torch.testing.assert_close(run(dropping.eval()), run(plain))


def test_feed_forward_drops_after_the_activation_too() -> None:
    layer = randomized(FeedForward(width=WIDTH, hidden=HIDDEN, dropout=0.5))
    assert isinstance(layer, FeedForward)
    tokens = randn(1, 3, WIDTH)
    torch.manual_seed(1)
    found = layer.train()(tokens)
    torch.manual_seed(1)  # the same numbers again, taken step by step
    hidden = dropout(torch.relu(tokens @ layer.expand.weight.T + layer.expand.bias), 0.5)
    wanted = layer.norm(tokens + dropout(hidden @ layer.contract.weight.T + layer.contract.bias, 0.5))
    torch.testing.assert_close(found, wanted)
    assert not torch.equal(found, layer(tokens))


def test_another_activation_takes_the_place_of_the_relu() -> None:
    layer = randomized(FeedForward(width=WIDTH, hidden=HIDDEN, dropout=0.5, activation=nn.PReLU()))
    assert isinstance(layer, FeedForward)
    tokens = randn(1, 3, WIDTH)
    expanded = tokens @ layer.expand.weight.T + layer.expand.bias
    assert isinstance(layer.activation, nn.PReLU)
    hidden = torch.where(expanded > 0, expanded, expanded * layer.activation.weight)
    torch.manual_seed(1)
    found = layer.train()(tokens)
    torch.manual_seed(1)
    changed = dropout(hidden, 0.5) @ layer.contract.weight.T + layer.contract.bias
    torch.testing.assert_close(found, layer.norm(tokens + dropout(changed, 0.5)))
    wanted = layer.norm(tokens + hidden @ layer.contract.weight.T + layer.contract.bias)
    torch.testing.assert_close(layer.eval()(tokens), wanted)


def test_recomputing_the_hidden_layer_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = randomized(FeedForward(width=WIDTH, hidden=HIDDEN, dropout=0.3)).train()
    values = randn(2, 5, WIDTH)
    found = []
    for limit in (5, 6):  # from so many tokens on the hidden layer is computed again, with the same dropout
        monkeypatch.setattr(FeedForward, "recompute_from", limit)
        tokens = values.clone().requires_grad_()
        torch.manual_seed(2)
        result = layer(tokens)
        gradients = torch.autograd.grad(result.square().sum(), [tokens, *layer.parameters()])
        found.append((result, *gradients))
    for again, kept in zip(*found, strict=True):
        torch.testing.assert_close(again, kept)
