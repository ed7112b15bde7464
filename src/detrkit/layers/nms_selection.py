"""From a detector's output to detections, with suppression of neighbours within each class: for papers that keep it after training by matching."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from detrkit.boxes import cxcywh_to_xyxy
from detrkit.layers.precision import at_least_float32
from detrkit.structures import Detections, LayerOutput, Output


class SuppressedSelection(ABC):
    """The best pairs of query and class after non-maximum suppression; papers say how scores come from logits and which pairs compete.

    Args:
        named: indices of the class head's outputs that stand for a class.
        overlap: IoU above which a pair repeats a better one of its class.
        limit: the largest number of detections of an image.
    """

    def __init__(self, named: Sequence[int], *, overlap: float, limit: int = 100) -> None:
        self.named, self.overlap, self.limit = tuple(named), overlap, limit

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, Q, classes) in [0, 1] of logits (B, Q, K)."""

    def boxes_cxcywh(self, output: Output, labels: Tensor) -> Tensor:  # noqa: ARG002 - for papers with a box for each class
        """(B, Q, classes or 1, 4) the box of every query for each of the classes `labels`."""
        return output.boxes_cxcywh[-1][:, :, None]

    def competing(self, output: Output, scores: Tensor) -> Tensor:  # noqa: ARG002 - for papers with several levels
        """Which pairs (B, Q, classes) take part, bool; scores are those pairs' probabilities."""
        return scores > 0

    def score(self, probabilities: Tensor) -> Tensor:
        """What is reported for a probability."""
        return probabilities

    def number(self, scores: Tensor) -> int:
        """How many of the pairs with these descending scores are reported."""
        return min(self.limit, len(scores))

    def __call__(self, output: Output, original_sizes: Tensor) -> list[Detections]:
        """Detections of each image, sorted by descending score; boxes are cut off at the image, and those outside it are left out.

        Args:
            output: a detector's output.
            original_sizes: (B, 2) height and width in pixels of the images that the boxes refer to.

        Returns:
            B records.
        """
        labels = torch.tensor(self.named, device=output.logits.device)
        scores = self.probabilities(at_least_float32(output.logits[-1]))[..., list(self.named)]  # (B, Q, C)
        competing = self.competing(output, scores)
        sizes = original_sizes.to(output.boxes_cxcywh).flip(-1).repeat(1, 2)  # (B, 4) width, height twice
        boxes = cxcywh_to_xyxy(self.boxes_cxcywh(output, labels)) * sizes[:, None, None]
        boxes = boxes.expand(*scores.shape, 4)
        return [self._of_image(*parts, labels) for parts in zip(sizes, scores, boxes, competing, strict=True)]

    def _of_image(self, size: Tensor, scores: Tensor, boxes: Tensor, competing: Tensor, labels: Tensor) -> Detections:
        from torchvision.ops import batched_nms  # not above: only these papers need it

        queries, classes = competing.nonzero(as_tuple=True)
        boxes, scores = boxes[queries, classes], scores[queries, classes]
        kept = batched_nms(boxes, scores, classes, self.overlap)  # best first
        kept = kept[: self.number(scores[kept])]
        boxes = torch.minimum(boxes[kept].clamp(min=0), size)
        there = (boxes[:, 2:] > boxes[:, :2]).all(-1)
        kept, boxes = kept[there], boxes[there]
        return Detections(self.score(scores[kept]), labels[classes[kept]], boxes, queries[kept])

    def class_scores(self, logits: Tensor) -> Tensor:
        """(..., classes) what would be reported for each class, from logits (..., K)."""
        return self.score(self.probabilities(at_least_float32(logits)))

    def best_classes(self, output: Output | LayerOutput) -> tuple[Tensor, Tensor]:
        """Score and label of each query's best class, (B, Q) each."""
        logits = output.logits[-1] if isinstance(output, Output) else output.logits
        scores, places = self.probabilities(at_least_float32(logits))[..., list(self.named)].max(-1)
        return self.score(scores), torch.tensor(self.named, device=places.device)[places]
