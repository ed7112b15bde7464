"""The heads that turn decoder states into predictions."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.precision import at_least_float32
from detrkit.structures import Decoded, Output


def inverse_sigmoid(values: Tensor, *, epsilon: float) -> Tensor:
    """The logits whose sigmoid is `values`; v and 1 - v are clamped away from 0.

    Args:
        values: any shape, in [0, 1] (values outside are clamped first).
        epsilon: smallest numerator and denominator; authors use 1e-3 or 1e-5, and their weights expect the same value.
    """
    values = values.clamp(0, 1)
    return torch.log(values.clamp(min=epsilon) / (1 - values).clamp(min=epsilon))


class MLP(nn.Module):
    """Linear layers with a ReLU after all but the last.

    Args:
        sizes: width of the input, of every hidden layer, and of the output.
    """

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(sizes))

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        return self.layers[-1]  # type: ignore[return-value]

    def forward(self, values: Tensor) -> Tensor:
        """(..., sizes[0]) to (..., sizes[-1])."""
        for layer in self.layers[:-1]:
            values = F.relu(layer(values))
        return self.layers[-1](values)  # type: ignore[no-any-return]


class DetectionHeads(nn.Module):
    """One class head and one box head, shared by all decoder layers.

    Args:
        width: D of the states.
        outputs: K, the number of class scores.
    """

    def __init__(self, *, width: int, outputs: int) -> None:
        super().__init__()
        self.class_head = nn.Linear(width, outputs)
        self.box_head = MLP(width, width, width, 4)

    def forward(self, decoded: Decoded) -> Output:
        """Predictions of every layer at once.

        Returns:
            logits (L, B, Q, K) and boxes_cxcywh (L, B, Q, 4); boxes are float32 or better, whatever the states' type.
        """
        return predictions(self.class_head(decoded.states), precisely(self.box_head, decoded.states), decoded)

    def pairs(self) -> list[tuple[nn.Linear, MLP]]:
        """Every class head with its box head."""
        return [(self.class_head, self.box_head)]

    def box_logits(self, states: Tensor, layer: int) -> Tensor:  # noqa: ARG002 - all layers share the head
        """What one layer's states add to the logits of their references, (B, Q, 4)."""
        return precisely(self.box_head, states)


class LayerwiseHeads(nn.Module):
    """A class head and a box head for every decoder layer, for decoders that refine boxes from layer to layer.

    Args:
        width: D of the states.
        outputs: K, the number of class scores.
        layers: L.
    """

    def __init__(self, *, width: int, outputs: int, layers: int) -> None:
        super().__init__()
        self.class_heads = nn.ModuleList(nn.Linear(width, outputs) for _ in range(layers))
        self.box_heads = nn.ModuleList(MLP(width, width, width, 4) for _ in range(layers))

    def forward(self, decoded: Decoded) -> Output:
        """Predictions of every layer; shapes as in `DetectionHeads`."""
        logits = [head(states) for head, states in zip(self.class_heads, decoded.states, strict=True)]
        boxes = [self.box_logits(states, layer) for layer, states in enumerate(decoded.states)]
        return predictions(torch.stack(logits), torch.stack(boxes), decoded)

    def pairs(self) -> list[tuple[nn.Linear, MLP]]:
        """Every class head with its box head, first layer to last."""
        return list(zip(self.class_heads, self.box_heads, strict=True))  # type: ignore[arg-type]

    def box_logits(self, states: Tensor, layer: int) -> Tensor:
        """What one layer's states add to the logits of their references, (B, Q, 4)."""
        return precisely(self.box_heads[layer], states)


def precisely(head: nn.Module, states: Tensor) -> Tensor:
    """A head's output in float32 or better: mixed precision ends where coordinates begin.

    Args:
        head: takes (..., D).
        states: (..., D).
    """
    with torch.autocast(states.device.type, enabled=False):
        return at_least_float32(head(states.to(next(head.parameters()).dtype)))


def predictions(logits: Tensor, box_logits: Tensor, decoded: Decoded) -> Output:
    """What heads return.

    Args:
        logits: (L, B, Q, K) class scores.
        box_logits: (L, B, Q, 4), relative to the references.
        decoded: what the heads looked at.
    """
    if decoded.base_logits is not None:
        box_logits = box_logits + decoded.base_logits
    return Output(logits=logits, boxes_cxcywh=box_logits.sigmoid())
