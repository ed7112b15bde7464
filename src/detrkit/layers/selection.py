"""From a detector's output to the detections of each image, without a threshold, suppression of neighbours or knowledge of the data set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy
from detrkit.layers.precision import at_least_float32
from detrkit.structures import Detections, LayerOutput, Output


class SoftmaxSelection:
    """One detection per query: its most probable class, ignoring no-object (DETR's post-processing).

    Args:
        named: indices of the class head's outputs that stand for a class; the others are ignored. None allows all but the last one,
            which is no-object.
    """

    def __init__(self, named: Sequence[int] | None = None) -> None:
        self.named = None if named is None else tuple(named)

    def __call__(self, output: Output | LayerOutput, original_sizes: Tensor) -> list[Detections]:
        """Detections of each image, sorted by descending score.

        Args:
            output: a detector's output, of which the last layer is used, or the output of one layer.
            original_sizes: (B, 2) height and width in pixels of the images that the boxes refer to.

        Returns:
            B records of Q detections each.
        """
        layer = output.layers[-1] if isinstance(output, Output) else output
        scores, labels = _best_of(self.class_scores(layer.logits), self.named)  # (B, Q)
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        labels = labels.gather(-1, order)
        boxes = _pixels(layer.boxes_cxcywh, original_sizes).gather(1, order[..., None].expand(-1, -1, 4))
        return [Detections(*parts) for parts in zip(scores, labels, boxes, order, strict=True)]

    def class_scores(self, logits: Tensor) -> Tensor:
        """(..., K - 1) scores of all classes but no-object, from class scores (..., K)."""
        return at_least_float32(logits).softmax(-1)[..., :-1]

    def best_classes(self, output: Output) -> tuple[Tensor, Tensor]:
        """Score and label of each query's best class, (B, Q) each; the score is 0 where no-object is more probable."""
        probabilities = at_least_float32(output.logits[-1]).softmax(-1)
        scores, labels = _best_of(probabilities[..., :-1], self.named)
        return scores.masked_fill(scores <= probabilities[..., -1], 0.0), labels


class TopKSelection:
    """The best pairs of query and class; a query can appear with several classes (Deformable DETR's post-processing).

    Args:
        named: indices of the class head's outputs that stand for a class; None allows all.
        limit: largest number of detections per image; there are fewer if there are fewer pairs.
    """

    def __init__(self, named: Sequence[int] | None = None, *, limit: int = 100) -> None:
        self.named = None if named is None else tuple(named)
        self.limit = limit

    def __call__(self, output: Output | LayerOutput, original_sizes: Tensor) -> list[Detections]:
        """Detections of each image, sorted by descending score.

        Args:
            output: a detector's output, of which the last layer is used, or the output of one layer.
            original_sizes: (B, 2) height and width in pixels of the images that the boxes refer to.

        Returns:
            B records of min(limit, Q · classes) detections each.
        """
        layer = output.layers[-1] if isinstance(output, Output) else output
        probabilities = self.class_scores(layer.logits)  # (B, Q, K)
        if self.named is not None:
            probabilities = probabilities[..., list(self.named)]
        classes = probabilities.shape[-1]
        count = min(self.limit, probabilities.shape[1] * classes)
        scores, pairs = probabilities.flatten(1).topk(count, dim=-1)  # (B, count)
        queries, labels = pairs // classes, pairs % classes
        if self.named is not None:
            labels = torch.tensor(self.named, device=labels.device)[labels]
        boxes = _pixels(layer.boxes_cxcywh, original_sizes).gather(1, queries[..., None].expand(-1, -1, 4))
        return [Detections(*parts) for parts in zip(scores, labels, boxes, queries, strict=True)]

    def class_scores(self, logits: Tensor) -> Tensor:
        """(..., K) scores of all classes, from class scores (..., K) of which each stands for itself."""
        return at_least_float32(logits).sigmoid()

    def best_classes(self, output: Output) -> tuple[Tensor, Tensor]:
        """Score and label of each query's best class, (B, Q) each."""
        return _best_of(self.class_scores(output.logits[-1]), self.named)


def _best_of(probabilities: Tensor, named: tuple[int, ...] | None) -> tuple[Tensor, Tensor]:
    """Highest probability among the named classes and its index, (B, Q) each; None allows all."""
    if named is None:
        scores, labels = probabilities.max(-1)
        return scores, labels
    scores, labels = probabilities[..., list(named)].max(-1)
    return scores, torch.tensor(named, device=labels.device)[labels]


def _pixels(boxes_cxcywh: Tensor, sizes: Tensor) -> Tensor:
    """Converts (B, Q, 4) fractions to corners in pixels, given (B, 2) heights and widths."""
    height, width = sizes.to(boxes_cxcywh).unbind(-1)
    return cxcywh_to_xyxy(boxes_cxcywh) * torch.stack([width, height, width, height], dim=-1)[:, None]
