"""Losses on class scores, for all decoder layers at once."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.layers.precision import at_least_float32
from detrkit.layers.processes import averaged
from detrkit.losses.matched import Matched


def cross_entropy_with_no_object(matched: Matched, *, no_object_weight: float) -> Tensor:
    """Cross-entropy of every query, in which queries without an object count less (DETR, section 3.1).

    The divisor is the sum of the weights in the batch, not the number of objects. Where several processes share the batch, all of them have
    to compute this term.

    Args:
        matched: predictions and their labels, which lie in [0, K - 1]; the last output is no-object.
        no_object_weight: weight of queries whose label is no-object; the others have weight 1.

    Returns:
        (L,) weighted mean over the queries of each layer: Σ w · nll / Σ w.
    """
    logits = at_least_float32(matched.logits)
    loss = F.cross_entropy(logits.movedim(-1, 1), matched.labels, reduction="none")  # (L, B, R)
    # The authors keep the weight in float32, also in a float64 model.
    weight_without_object = float(np.float32(no_object_weight))
    weights = torch.ones_like(loss).masked_fill(matched.labels == matched.no_object, weight_without_object)
    if matched.counted is not None:
        weights = weights.masked_fill(~matched.counted, 0.0)
    total = averaged(weights.sum((1, 2)), at_least=torch.finfo(weights.dtype).tiny)
    return (weights * loss).sum((1, 2)) / total


def focal_loss(matched: Matched, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017, equation 5), summed over queries and classes.

    Args:
        matched: predictions with one output per class, and their objects.
        alpha: weight of the object's class; the other classes have weight 1 - alpha.
        gamma: how strongly the loss of easy decisions is reduced.

    Returns:
        (L,) sum / divisor of each layer.
    """
    logits = at_least_float32(matched.logits)
    # Nearly all pairs of query and class are background: treat all as background, then correct the few that are not.
    background = ((1 - alpha) * _background_loss(logits, gamma)).sum(-1)  # (L, B, R)
    if matched.counted is not None:
        background = background.masked_fill(~matched.counted, 0.0)
    labels = matched.of_pairs(matched.labels)[..., None]  # (L, M, 1)
    present = matched.of_pairs(logits).gather(-1, labels)[..., 0]  # (L, M), logits of the objects' classes
    correction = alpha * _background_loss(-present, gamma) - (1 - alpha) * _background_loss(present, gamma)
    if matched.counted is not None:
        rows = matched.counted[matched.matches.images, matched.matches.queries]  # (L, M)
        correction = correction.masked_fill(~rows, 0.0)
    return (background.sum((1, 2)) + correction.sum(1)) / matched.divisor


def _background_loss(logits: Tensor, gamma: float) -> Tensor:
    """p^γ · -log(1 - p): the loss of a score that should be 0, before the weight alpha."""
    return logits.sigmoid() ** gamma * F.softplus(logits)
