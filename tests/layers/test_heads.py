"""Heads: what a state becomes, and in which precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from detrkit.layers.heads import MLP, DetectionHeads, LayerwiseHeads, inverse_sigmoid, precisely
from detrkit.structures import Decoded


def test_inverse_sigmoid_undoes_the_sigmoid() -> None:
    logits = torch.linspace(-6, 6, 25, dtype=torch.float64)
    torch.testing.assert_close(inverse_sigmoid(logits.sigmoid(), epsilon=1e-5), logits)


@pytest.mark.parametrize(("epsilon", "limit"), [(1e-3, 6.907755), (1e-5, 11.512925)])
def test_inverse_sigmoid_is_clamped(epsilon: float, limit: float) -> None:
    values = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5])
    wanted = torch.tensor([-limit, -limit, 0.0, limit, limit])
    torch.testing.assert_close(inverse_sigmoid(values, epsilon=epsilon), wanted)


def test_an_mlp_has_no_activation_at_its_end() -> None:
    ours = MLP(5, 7, 9, 3).double()
    theirs = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    with torch.no_grad():
        for own, foreign in zip(ours.parameters(), theirs.parameters(), strict=True):
            foreign.copy_(own)
    values = torch.randn(2, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(values), theirs(values))
    assert (ours(values) < 0).any()


def test_heads_are_shared_by_all_layers_and_images() -> None:
    heads = DetectionHeads(width=8, outputs=6).double()
    states = torch.randn(3, 2, 4, 8, dtype=torch.float64)
    output = heads(Decoded(states))
    for layer in range(3):
        for image in range(2):
            state = states[layer, image]
            torch.testing.assert_close(
                output.logits[layer, image], state @ heads.class_head.weight.T + heads.class_head.bias
            )
            wanted = 1 / (1 + (-heads.box_head(state)).exp())
            torch.testing.assert_close(output.boxes_cxcywh[layer, image], wanted)


def test_base_logits_are_added_before_the_sigmoid() -> None:
    heads = DetectionHeads(width=8, outputs=6)
    states, base = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 4)
    wanted = (heads.box_head(states) + base).sigmoid()
    torch.testing.assert_close(heads(Decoded(states, base)).boxes_cxcywh, wanted)


@pytest.mark.parametrize(
    ("dtype", "of_boxes"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_boxes_never_go_below_float32(dtype: torch.dtype, of_boxes: torch.dtype) -> None:
    heads = DetectionHeads(width=8, outputs=6).to(dtype)
    states = torch.randn(1, 2, 4, 8, dtype=dtype)
    output = heads(Decoded(states))
    assert output.boxes_cxcywh.dtype == of_boxes
    assert output.logits.dtype == dtype
    torch.testing.assert_close(output.boxes_cxcywh, heads.box_head(states).to(of_boxes).sigmoid())


def test_layerwise_heads_read_each_layer_by_its_own() -> None:
    heads = LayerwiseHeads(width=8, outputs=6, layers=3).double()
    states, base = (torch.randn(3, 2, 4, size, dtype=torch.float64) for size in (8, 4))
    output = heads(Decoded(states, base))
    for layer in range(3):
        class_head, box_head = heads.class_heads[layer], heads.box_heads[layer]
        torch.testing.assert_close(output.logits[layer], states[layer] @ class_head.weight.T + class_head.bias)
        torch.testing.assert_close(output.boxes_cxcywh[layer], (box_head(states[layer]) + base[layer]).sigmoid())
        torch.testing.assert_close(heads.box_logits(states[layer], layer), box_head(states[layer]))
    assert not torch.equal(heads.box_logits(states[0], 0), heads.box_logits(states[0], 1))


def test_shared_heads_read_every_layer_alike() -> None:
    heads, states = DetectionHeads(width=8, outputs=6), torch.randn(2, 4, 8)
    for layer in (0, 5):
        torch.testing.assert_close(heads.box_logits(states, layer), heads.box_head(states))


def test_layerwise_heads_want_as_many_layers_as_they_are() -> None:
    with pytest.raises(ValueError, match="zip"):
        LayerwiseHeads(width=8, outputs=6, layers=3)(Decoded(torch.randn(2, 2, 4, 8)))


@pytest.mark.parametrize("make", [DetectionHeads, lambda **sizes: LayerwiseHeads(**sizes, layers=1)])
def test_mixed_precision_ends_where_boxes_begin(make: Callable[..., nn.Module]) -> None:
    heads, states = make(width=8, outputs=6), torch.randn(1, 2, 4, 8)
    exact = heads(Decoded(states))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = heads(Decoded(states))
    assert found.logits.dtype == torch.bfloat16
    torch.testing.assert_close(found.boxes_cxcywh, exact.boxes_cxcywh)


def test_precise_heads_take_states_of_another_precision() -> None:
    head, states = MLP(8, 8, 4), torch.randn(3, 8).to(torch.bfloat16)
    torch.testing.assert_close(precisely(head, states), head(states.float()))
