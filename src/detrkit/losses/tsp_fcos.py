"""The losses of TSP-FCOS (section 4.1): one feature is matched to each object, among those that FCOS assigns to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.errors import ConfigurationError
from detrkit.layers.fcos_head import FeaturesOfInterest
from detrkit.layers.precision import at_least_float32
from detrkit.layers.processes import averaged, process_count
from detrkit.layers.targets import check_counts, labels_are_outputs, refuse_labels
from detrkit.losses.finite import check_finite
from detrkit.matching.cells import Cells, assign_cells, best_of_each, generalized_iou_of_distances
from detrkit.measures import CLASS_LOSS, MATCHED_CLASS_ACCURACY, OVERLAP_LOSS
from detrkit.structures import Losses, Output, Shown, Target

RESTRICTED_GIOU_COST = 2.0
UNMATCHED_WEIGHT = 0.1  # of a feature that FCOS assigns to an object and that another one is matched to
_ALPHA, _GAMMA = 0.25, 2.0


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
        check_counts(targets, images=output.logits.shape[1])
        if not labels_are_outputs(targets, self.class_count):
            refuse_labels(targets, self.class_count)
        check_finite(output, targets)
        features = getattr(output, "features", None)
        if not isinstance(features, FeaturesOfInterest):
            raise ConfigurationError("the output is not TSP-FCOS's: use the criterion made for its model")
        logits, cell_logits = at_least_float32(output.logits[-1]), at_least_float32(features.cell_logits)
        cells = Cells.of(features.level_sizes, features.strides, like=features.distances)
        assignment = assign_cells(cells, targets, features.image_sizes)
        labels = torch.cat([target.labels for target in targets])
        numbers = [len(target.labels) for target in targets]
        firsts = labels.new_tensor([sum(numbers[:image]) for image in range(len(numbers))])
        objects = (assignment.objects + firsts[:, None]).masked_fill(assignment.objects < 0, -1)  # (B, S) in the batch

        chosen = objects.gather(1, features.cells)  # (B, Q)
        images, queries = (chosen >= 0).nonzero(as_tuple=True)  # P features that belong to objects
        own, places = chosen[images, queries], (images, features.cells[images, queries])
        wanted, centerness = assignment.distances[places], assignment.centerness[places]
        predicted = features.distances[images, queries]
        overlap_losses = 1 - generalized_iou_of_distances(predicted, wanted)  # (P,)
        with torch.no_grad():
            scores = logits[images, queries, labels[own]].sigmoid()
            costs = RESTRICTED_GIOU_COST * overlap_losses - scores * (centerness + 1e-6)
            matched = best_of_each(own, costs, len(labels))
        positives, matches, all_cells = averaged(
            torch.stack([centerness.new_tensor(len(own)), matched.sum(), (objects >= 0).sum()]).to(centerness),
            at_least=1.0,
        ).unbind()

        terms = {
            "cells.class": self._cell_loss(cell_logits, labels, objects) / all_cells,
            "class": self._class_loss(logits, labels[own], (images, queries), matched)
            / (2 * (matches + UNMATCHED_WEIGHT * positives)),
            "giou": (overlap_losses * centerness).sum() / averaged(centerness.sum(), at_least=1e-6),
            "centerness": F.binary_cross_entropy_with_logits(
                at_least_float32(features.centerness_logits)[images, queries], centerness, reduction="sum"
            )
            / positives,
        }
        total = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        share, pairs = 1 / process_count(), (images[matched], queries[matched])
        count = float(len(pairs[0]))
        right = logits[pairs].argmax(-1) == labels[own[matched]]
        shown = {
            CLASS_LOSS.name: Shown(terms["class"].detach() * share, share),
            OVERLAP_LOSS.name: Shown(overlap_losses[matched].detach().sum(), count),
            MATCHED_CLASS_ACCURACY.name: Shown(right.sum(), count, percentage=True),
        }
        return Losses(total, terms, shown)

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

    def _class_loss(self, logits: Tensor, labels: Tensor, rows: tuple[Tensor, Tensor], matched: Tensor) -> Tensor:
        """The focal loss of all features, in which those that belong to an object without being matched to it count less for its class.

        Args:
            logits: (B, Q, K).
            labels: (P,) classes of the features that belong to objects.
            rows: image and query of the same.
            matched: (P,) bool, which of them are matched.
        """
        wanted, weights = torch.zeros_like(logits), torch.ones_like(logits)
        wanted[*rows, labels] = matched.to(wanted)
        weights[*rows, labels] = torch.where(matched, 1.0, UNMATCHED_WEIGHT).to(weights)
        return (weights * _focal(logits, wanted)).sum()


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
