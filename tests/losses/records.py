"""Records of matched predictions, made from labels or boxes alone."""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.losses.matched import Matched
from detrkit.matching.hungarian import Matches
from detrkit.structures import Output


def labelled(
    logits: Tensor, labels: Tensor, divisor: float | Tensor = 1.0, *, no_object: int, counted: Tensor | None = None
) -> Matched:
    """Every prediction whose label is not no-object is matched; all layers must have the same number of these."""
    layers, images, queries = (labels != no_object).nonzero(as_tuple=True)
    pairs = [index.reshape(len(logits), -1) for index in (layers, images, queries)]
    matches = Matches(*pairs, torch.zeros_like(pairs[0]), torch.zeros_like(pairs[0]))
    boxes = logits.new_full((*logits.shape[:3], 4), 0.5)
    chosen = boxes[tuple(pairs)]
    return Matched(Output(logits, boxes), labels, matches, chosen, chosen, no_object, torch.as_tensor(divisor), counted)


def boxed(predicted: Tensor, wanted: Tensor, divisor: float | Tensor) -> Matched:
    """Pairs of boxes (L, M, 4); every prediction of one image is matched."""
    layers, pairs = predicted.shape[:2]
    index = torch.arange(pairs).expand(layers, -1)
    rows = torch.arange(layers)[:, None].expand(-1, pairs)
    matches = Matches(rows, torch.zeros_like(index), index, index, index)
    labels = torch.zeros(layers, 1, pairs, dtype=torch.int64)
    logits = predicted.new_zeros(layers, 1, pairs, 2)
    return Matched(Output(logits, predicted[:, None]), labels, matches, predicted, wanted, 2, torch.as_tensor(divisor))
