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
    wanted = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)  # (L, B, Q, K)
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    missed = probability * (1 - wanted) + (1 - probability) * wanted  # probability of the wrong answer
    balance = alpha * wanted + (1 - alpha) * (1 - wanted)
    return (balance * missed**gamma * cross_entropy).sum((1, 2, 3)) / divisor
