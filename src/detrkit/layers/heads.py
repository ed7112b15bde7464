"""What turns a decoder state into a prediction."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.precision import at_least_float32
from detrkit.structures import Decoded, Output


def inverse_sigmoid(values: Tensor, *, epsilon: float) -> Tensor:
    """The number whose sigmoid is `values`, both clamped away from 0 and 1.

    Args:
        values: any shape, in [0, 1] (values outside are clamped first).
        epsilon: smallest numerator and denominator; the authors' codes use 1e-3 and 1e-5, and their weights expect theirs.
    """
    values = values.clamp(0, 1)
    return torch.log(values.clamp(min=epsilon) / (1 - values).clamp(min=epsilon))


class MLP(nn.Module):
    """Linear layers with a ReLU between each two.

    Args:
        sizes: width of the input, of every hidden layer, and of the output.
    """

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in itertools.pairwise(sizes))

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
        self.classes = nn.Linear(width, outputs)
        self.boxes = MLP(width, width, width, 4)

    def forward(self, decoded: Decoded) -> Output:
        """Predictions of every layer at once.

        Returns:
            logits (L, B, Q, K) and boxes_cxcywh (L, B, Q, 4); boxes in float32 or better, whatever the states' type.
        """
        with torch.autocast(decoded.states.device.type, enabled=False):  # mixed precision ends where coordinates begin
            box_logits = at_least_float32(self.boxes(decoded.states.to(self.classes.weight.dtype)))
        if decoded.base_logits is not None:
            box_logits = box_logits + decoded.base_logits
        return Output(logits=self.classes(decoded.states), boxes_cxcywh=box_logits.sigmoid())
