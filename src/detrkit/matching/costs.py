"""Terms of the cost of matching a query to an object, for all layers and images at once.

Targets come padded to the largest number of objects in the batch, so that every term is one tensor operation; the costs of the
padding are computed but never used. Nothing here has a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from detrkit.boxes import cxcywh_to_xyxy, generalized_iou_xyxy
from detrkit.layers.precision import at_least_float32
from detrkit.structures import Output, Target


@dataclass(frozen=True)
class PaddedTargets:
    """The objects of a batch as two tensors; N is the largest number of objects in an image.

    Attributes:
        labels: (B, N) int64, 0 where padded.
        boxes_cxcywh: (B, N, 4), a box in the middle where padded.
        counts: the true number of objects in each image.
    """

    labels: Tensor
    boxes_cxcywh: Tensor
    counts: tuple[int, ...]


def pad_targets(targets: Sequence[Target], like: Tensor) -> PaddedTargets:
    """Pads the targets, in the type and on the device of `like`."""
    counts = tuple(len(target.labels) for target in targets)
    all_labels = [target.labels.to(like.device, torch.int64, non_blocking=True) for target in targets]
    labels = pad_sequence(all_labels, batch_first=True)
    all_boxes = [target.boxes_cxcywh.to(like, non_blocking=True) for target in targets]
    boxes = pad_sequence(all_boxes, batch_first=True, padding_value=0.5)
    return PaddedTargets(labels, boxes, counts)


def softmax_class_cost(output: Output, targets: PaddedTargets) -> Tensor:
    """Minus the probability of the object's class (DETR, section 3.1), (L, B, Q, N)."""
    probabilities = at_least_float32(output.logits).softmax(-1)
    return -_at_labels(probabilities, targets)


def focal_class_cost(output: Output, targets: PaddedTargets, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The focal loss of the object's class if it is present, minus its loss as background (Deformable DETR), (L, B, Q, N)."""
    probabilities = at_least_float32(_at_labels(output.logits, targets)).sigmoid()  # of the objects' labels only
    epsilon = 1e-8  # inside the logarithms, as in the authors' code
    present = alpha * (1 - probabilities) ** gamma * -(probabilities + epsilon).log()
    absent = (1 - alpha) * probabilities**gamma * -(1 - probabilities + epsilon).log()
    return present - absent


def l1_cost(output: Output, targets: PaddedTargets) -> Tensor:
    """Sum of the four absolute differences of centre and size, (L, B, Q, N)."""
    return (output.boxes_cxcywh[:, :, :, None] - targets.boxes_cxcywh[None, :, None]).abs().sum(-1)


def giou_cost(output: Output, targets: PaddedTargets, epsilon: float = 0.0) -> Tensor:
    """Minus the generalised IoU, (L, B, Q, N); `epsilon` is added to its divisors."""
    predicted, wanted = cxcywh_to_xyxy(output.boxes_cxcywh), cxcywh_to_xyxy(targets.boxes_cxcywh)
    return -generalized_iou_xyxy(predicted[:, :, :, None], wanted[None, :, None], epsilon)


def _at_labels(scores: Tensor, targets: PaddedTargets) -> Tensor:
    """Selects the (L, B, Q, N) scores of the objects' classes from (L, B, Q, K) scores."""
    layers, _, queries, outputs = scores.shape
    # A label out of range would crash a process on a GPU here, before an error could name it.
    labels = targets.labels.clamp(0, outputs - 1)
    index = labels[None, :, None].expand(layers, -1, queries, -1)
    return scores.gather(-1, index)
