"""Losses on class scores, for all decoder layers at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.layers.precision import at_least_float32


def cross_entropy_with_no_object(logits: Tensor, labels: Tensor, no_object_weight: float) -> Tensor:
    """Cross-entropy of every query, queries without an object counting less (DETR, section 3.1).

    Args:
        logits: (L, B, Q, K); the last output is no-object.
        labels: (L, B, Q) int64 in [0, K - 1].
        no_object_weight: weight of queries whose label is no-object; others weigh 1.

    Returns:
        (L,) mean over the queries of each layer, weighted: Σ w · nll / Σ w.
    """
    logits = at_least_float32(logits)
    loss = F.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")  # (L, B, Q)
    # The authors keep the weight in float32, also in a float64 model.
    light = torch.tensor(no_object_weight, dtype=torch.float32, device=logits.device).to(logits.dtype)
    weights = torch.where(labels == logits.shape[-1] - 1, light, 1.0)
    return (weights * loss).sum((1, 2)) / weights.sum((1, 2))


def focal_loss(
    logits: Tensor, labels: Tensor, divisor: Tensor | float, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017, equation 5), summed over queries and classes.

    Args:
        logits: (L, B, Q, K), one output a class.
        labels: (L, B, Q) int64 in [0, K]; K means no object.
        divisor: what the sum is divided by, usually the number of objects.
        alpha: weight of the class that is there; the others get 1 - alpha.
        gamma: how strongly easy decisions are played down.

    Returns:
        (L,) sum / divisor of each layer.
    """
    logits = at_least_float32(logits)
    # Nearly all of (query, class) pairs are background: take all as that, then put right the few that are not.
    loss = ((1 - alpha) * _weighed_background(logits, gamma)).sum((1, 2, 3))  # (L,)
    layer, image, query = (labels < logits.shape[-1]).nonzero(as_tuple=True)
    present = logits[layer, image, query, labels[layer, image, query]]  # scores of the classes that are there
    difference = alpha * _weighed_background(-present, gamma) - (1 - alpha) * _weighed_background(present, gamma)
    return loss.index_add(0, layer, difference) / divisor


def _weighed_background(logits: Tensor, gamma: float) -> Tensor:
    """p^γ · -log(1 - p): what a score costs that should be 0."""
    return logits.sigmoid() ** gamma * F.softplus(logits)
