"""The losses of TSP-FCOS (section 4.1): one feature is matched to each object, among those that FCOS assigns to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import ConfigurationError
from detrkit.layers.fcos_head import FeaturesOfInterest
from detrkit.layers.precision import at_least_float32
from detrkit.layers.processes import averaged, process_count
from detrkit.losses.finite import check_batch
from detrkit.matching.cells import Cells, assign_cells, best_of_each, generalized_iou_of_distances
from detrkit.matching.hungarian import Matches, matches_of_a_layer
from detrkit.measures import CLASS_LOSS, MATCHED_CLASS_ACCURACY, OVERLAP_LOSS
from detrkit.structures import Losses, Output, Shown, Target

RESTRICTED_GIOU_COST = 2.0
UNMATCHED_WEIGHT = 0.1  # of a feature that FCOS assigns to an object and that another one is matched to
_ALPHA, _GAMMA = 0.25, 2.0


@dataclass(frozen=True)
class _Positives:
    """The P features that belong to objects.

    Attributes:
        images: (P,).
        queries: (P,) which of the image's features.
        objects: (P,) of the batch.
        matched: (P,) bool, the best feature of its object.
        centerness: (P,) of the feature's cell in its object.
        overlap_losses: (P,) 1 - generalised IoU.
        of_cells: (B, S) the object of each cell; -1 for none.
    """

    images: Tensor
    queries: Tensor
    objects: Tensor
    matched: Tensor
    centerness: Tensor
    overlap_losses: Tensor
    of_cells: Tensor


class FeatureCriterion(nn.Module):
    """Losses of the features of interest, and of the classifier that chooses them.

    Args:
        class_count: number of classes; objects' labels must be below it.
        class_weight: weight of the class losses.
        giou_weight: weight of the overlap loss.
        centerness_weight: weight of the centerness loss.
    """

    def __init__(self, *, class_count: int, class_weight: float, giou_weight: float, centerness_weight: float) -> None:
        super().__init__()
        self.class_count = class_count
        self.weights = {
            "cells.class": class_weight,
            "class": class_weight,
            "giou": giou_weight,
            "centerness": centerness_weight,
        }

    def forward(self, output: Output, targets: Sequence[Target]) -> Losses:
        """The loss of a batch.

        Args:
            output: the model's.
            targets: the objects of each image; images without objects are fine.

        Raises:
            ConfigurationError: the output is of another paper's model.
            NonFiniteError: a prediction or a target is NaN or infinite.
            ValueError: the number of targets is not the number of images, or a label is not one of the model's.
        """
        check_batch(output, targets, class_count=self.class_count)
        features, labels = _features(output), torch.cat([target.labels for target in targets])
        logits, positives = at_least_float32(output.logits[-1]), _positives(output, targets)
        matched, centerness = positives.matched, positives.centerness
        numbers = [centerness.new_tensor(len(matched)), matched.sum(), (positives.of_cells >= 0).sum()]
        count, matches, cells = averaged(torch.stack(numbers).to(centerness), at_least=1.0).unbind()
        class_loss = self._class_loss(logits, labels, positives) / (2 * (matches + UNMATCHED_WEIGHT * count))
        centerness_logits = at_least_float32(features.centerness_logits)[positives.images, positives.queries]
        centerness_losses = F.binary_cross_entropy_with_logits(centerness_logits, centerness, reduction="none")
        terms = {
            "cells.class": self._cell_loss(at_least_float32(features.cell_logits), labels, positives.of_cells) / cells,
            "class": class_loss,
            "giou": (positives.overlap_losses * centerness).sum() / averaged(centerness.sum(), at_least=1e-6),
            "centerness": centerness_losses.sum() / count,
        }
        total = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        return Losses(total, terms, _shown(class_loss, logits, labels, positives))

    @torch.no_grad()
    def matcher(self, output: Output, targets: Sequence[Target]) -> Matches:
        """The feature of each object, for those that have one; arguments as in `forward`."""
        found = _positives(output, targets)
        images, queries, objects = (each[found.matched] for each in (found.images, found.queries, found.objects))
        return matches_of_a_layer(images, queries, objects, [len(target.labels) for target in targets])

    def _cell_loss(self, logits: Tensor, labels: Tensor, objects: Tensor) -> Tensor:
        """The focal loss of all cells.

        Args:
            logits: (B, S, K).
            labels: (N,) of the objects of the batch.
            objects: (B, S) each cell's object; -1 for none.
        """
        wanted = torch.zeros_like(logits)
        images, cells = (objects >= 0).nonzero(as_tuple=True)
        wanted[images, cells, labels[objects[images, cells]]] = 1
        return _focal(logits, wanted).sum()

    def _class_loss(self, logits: Tensor, labels: Tensor, positives: _Positives) -> Tensor:
        """The focal loss of all features, in which those that belong to an object without being matched to it count less for its class.

        Args:
            logits: (B, Q, K).
            labels: (N,) of the objects of the batch.
            positives: the features that belong to objects.
        """
        wanted, weights = torch.zeros_like(logits), torch.ones_like(logits)
        places = positives.images, positives.queries, labels[positives.objects]
        wanted[places] = positives.matched.to(wanted)
        weights[places] = torch.where(positives.matched, 1.0, UNMATCHED_WEIGHT).to(weights)
        return (weights * _focal(logits, wanted)).sum()


def _features(output: Output) -> FeaturesOfInterest:
    features = getattr(output, "features", None)
    if not isinstance(features, FeaturesOfInterest):
        raise ConfigurationError("the output is not TSP-FCOS's: use the criterion made for its model")
    return features


def _positives(output: Output, targets: Sequence[Target]) -> _Positives:
    """The features that belong to objects, and for each object the best of its features."""
    features = _features(output)
    labels = torch.cat([target.labels for target in targets]).to(features.cells.device)
    cells = Cells.of(features.level_sizes, features.strides, like=features.distances)
    assignment = assign_cells(cells, targets, features.image_sizes)
    numbers = [len(target.labels) for target in targets]
    firsts = labels.new_tensor([sum(numbers[:image]) for image in range(len(numbers))])
    of_cells = (assignment.objects + firsts[:, None]).masked_fill(assignment.objects < 0, -1)  # (B, S)
    chosen = of_cells.gather(1, features.cells)  # (B, Q)
    images, queries = (chosen >= 0).nonzero(as_tuple=True)
    objects, places = chosen[images, queries], (images, features.cells[images, queries])
    centerness = assignment.centerness[places]
    predicted, wanted = features.distances[images, queries], assignment.distances[places]
    overlap_losses = 1 - generalized_iou_of_distances(predicted, wanted)
    scores = at_least_float32(output.logits[-1])[images, queries, labels[objects]].sigmoid()
    costs = (RESTRICTED_GIOU_COST * overlap_losses - scores * (centerness + 1e-6)).detach()
    matched = best_of_each(objects, costs, len(labels))
    return _Positives(images, queries, objects, matched, centerness, overlap_losses, of_cells)


@torch.no_grad()
def _shown(class_loss: Tensor, logits: Tensor, labels: Tensor, positives: _Positives) -> dict[str, Shown]:
    share, matched = 1 / process_count(), positives.matched
    best = logits[positives.images[matched], positives.queries[matched]].argmax(-1)
    right, count = best == labels[positives.objects[matched]], float(len(best))
    return {
        CLASS_LOSS.name: Shown(class_loss.detach() * share, share),
        OVERLAP_LOSS.name: Shown(positives.overlap_losses[matched].sum(), count),
        MATCHED_CLASS_ACCURACY.name: Shown(right.sum(), count, percentage=True),
    }


def _focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sigmoid focal loss of each entry (Lin et al. 2017, equation 5).

    Args:
        logits: of any shape.
        wanted: 0 or 1, of the same shape.
    """
    scores = logits.sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    missing = scores * (1 - wanted) + (1 - scores) * wanted
    return (_ALPHA * wanted + (1 - _ALPHA) * (1 - wanted)) * missing**_GAMMA * loss
