"""The input of every loss term: predictions and the objects that they are matched to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrkit.matching.hungarian import Matches
from detrkit.structures import Output, Target


@dataclass(frozen=True)
class Matched:
    """Predictions with their objects; R is the number of predictions of an image, M the number of matched pairs.

    Attributes:
        output: the predictions, and whatever else the paper's output holds of them.
        labels: (L, B, R) int64, the label of each prediction's object, or the no-object label.
        matches: which prediction is matched to which object.
        predicted_boxes_cxcywh: (L, M, 4) boxes of the matched predictions.
        wanted_boxes_cxcywh: (L, M, 4) boxes of their objects.
        no_object: the label of predictions without an object.
        divisor: scalar that sums are divided by, usually the number of objects.
        counted: (B, R) bool, the rows that count in the class loss; None where all do.
    """

    output: Output
    labels: Tensor
    matches: Matches
    predicted_boxes_cxcywh: Tensor
    wanted_boxes_cxcywh: Tensor
    no_object: int
    divisor: Tensor
    counted: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """(L, B, R, K) raw class scores."""
        return self.output.logits

    def of_pairs(self, values: Tensor) -> Tensor:
        """Selects (L, M, ...) values of matched predictions from (L, B, R, ...) values of all."""
        return values[self.matches.layers, self.matches.images, self.matches.queries]


LossTerm = Callable[[Matched], Tensor]  # returns (L,)


def gather(
    output: Output,
    targets: Sequence[Target],
    matches: Matches,
    *,
    no_object: int,
    divisor: Tensor,
    counted: Tensor | None = None,
) -> Matched:
    """Gathers labels and boxes of the matched pairs, once for all terms.

    Args:
        output: the predictions.
        targets: the objects of each image.
        matches: the matched pairs of predictions and objects.
        no_object: the label of predictions without an object.
        divisor: see `Matched`.
        counted: see `Matched`.
    """
    labels = output.logits.new_full(output.logits.shape[:3], no_object, dtype=torch.int64)
    pairs = (matches.layers, matches.images, matches.queries)
    all_labels = torch.cat([target.labels for target in targets]).to(labels, non_blocking=True)
    labels[pairs] = all_labels[matches.batch_objects]
    predicted = output.boxes_cxcywh[pairs]  # (L, M, 4)
    all_boxes = torch.cat([target.boxes_cxcywh for target in targets]).to(predicted, non_blocking=True)
    wanted = all_boxes[matches.batch_objects]
    return Matched(output, labels, matches, predicted, wanted, no_object, divisor, counted)
