"""The losses of TSP-RCNN (section 4.2): one proposal is matched to each object, among those that overlap it by half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.boxes import cxcywh_to_xyxy, generalized_iou_xyxy
from detrkit.errors import ConfigurationError
from detrkit.layers.box_coding import deltas_between, moved_boxes
from detrkit.layers.precision import at_least_float32
from detrkit.layers.processes import process_count
from detrkit.layers.region_proposals import DELTA_WEIGHTS
from detrkit.layers.regions_of_interest import REGION_WEIGHTS, RegionsOfInterest
from detrkit.losses.finite import check_batch
from detrkit.matching.cells import best_of_each
from detrkit.matching.hungarian import Matches, matches_of_a_layer
from detrkit.matching.regions import objects_of_anchors, objects_of_regions, sampled
from detrkit.measures import CLASS_LOSS, MATCHED_CLASS_ACCURACY, OVERLAP_LOSS
from detrkit.structures import Losses, Output, Shown, Target

RESTRICTED_GIOU_COST = 2.0
UNMATCHED_WEIGHT = 0.1
_EPSILON = 1e-7  # of the generalised IoU
_ANCHORS, _ANCHOR_SHARE = (
    256,
    0.5,
)  # anchors of an image that the proposal losses look at, and how many of them lie on objects


@dataclass(frozen=True)
class _Positives:
    """The P regions that belong to objects.

    Attributes:
        images: (P,).
        rows: (P,).
        objects: (P,) of the batch.
        labels: (P,).
        matched: (P,) bool, the best region of its object.
        overlap_losses: (P,) 1 - generalised IoU of the box for the object's class.
        distance_losses: (P,) sum of the absolute differences of deltas.
    """

    images: Tensor
    rows: Tensor
    objects: Tensor
    labels: Tensor
    matched: Tensor
    overlap_losses: Tensor
    distance_losses: Tensor


class RegionCriterion(nn.Module):
    """Losses of the regions, and of the network that proposes them.

    Args:
        class_count: number of classes; objects' labels must be below it.
        class_weight: weight of the class loss.
        l1_weight: weight of the distance loss.
        giou_weight: weight of the overlap loss.
        proposal_weight: weight of the class loss of anchors; their distance loss has twice that.
    """

    def __init__(
        self, *, class_count: int, class_weight: float, l1_weight: float, giou_weight: float, proposal_weight: float
    ) -> None:
        super().__init__()
        self.class_count = class_count
        self.weights = {
            "proposals.class": proposal_weight,
            "proposals.l1": 2 * proposal_weight,
            "class": class_weight,
            "l1": l1_weight,
            "giou": giou_weight,
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
        regions = _regions(output)
        check_batch(output, targets, class_count=self.class_count)
        logits = at_least_float32(output.logits[-1])
        boxes = _boxes(regions, targets)
        positives = _positives(
            logits, regions, boxes, torch.cat([target.labels for target in targets]).to(logits.device)
        )
        count = (~regions.padding).sum()
        terms = {
            **_proposal_losses(regions, boxes),
            "class": _class_loss(logits, regions.padding, positives),
            "l1": positives.distance_losses.sum() / count,
            "giou": positives.overlap_losses.sum() / count,
        }
        total = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        return Losses(total, terms, _shown(terms, logits, positives))

    @torch.no_grad()
    def matcher(self, output: Output, targets: Sequence[Target]) -> Matches:
        """The region of each object, for those that have one; arguments as in `forward`."""
        regions, labels = _regions(output), torch.cat([target.labels for target in targets])
        found = _positives(at_least_float32(output.logits[-1]), regions, _boxes(regions, targets), labels)
        images, rows, objects = (each[found.matched] for each in (found.images, found.rows, found.objects))
        return matches_of_a_layer(images, rows, objects, [len(target.labels) for target in targets])


def _regions(output: Output) -> RegionsOfInterest:
    regions = getattr(output, "regions", None)
    if not isinstance(regions, RegionsOfInterest):
        raise ConfigurationError("the output is not TSP-RCNN's: use the criterion made for its model")
    return regions


def _boxes(regions: RegionsOfInterest, targets: Sequence[Target]) -> list[Tensor]:
    """(N, 4) corners of each image's objects in pixels."""
    return [
        cxcywh_to_xyxy(target.boxes_cxcywh.to(regions.boxes_xyxy)) * size.repeat(2)
        for target, size in zip(targets, regions.image_sizes, strict=True)
    ]


def _positives(logits: Tensor, regions: RegionsOfInterest, boxes: list[Tensor], labels: Tensor) -> _Positives:
    """The regions that belong to objects, and for each object the best of its regions.

    Args:
        logits: (B, Q, K + 1).
        regions: of the same images.
        boxes: (N, 4) corners of each image's objects in pixels.
        labels: classes of the objects of the batch.
    """
    found = torch.stack([objects_of_regions(*pair) for pair in zip(regions.boxes_xyxy, boxes, strict=True)])
    images, rows = ((found >= 0) & ~regions.padding).nonzero(as_tuple=True)
    numbers = [len(each) for each in boxes]
    firsts = labels.new_tensor([sum(numbers[:image]) for image in range(len(numbers))])
    objects = found[images, rows] + firsts[images]
    own_labels, wanted, starts = labels[objects], torch.cat(boxes)[objects], regions.boxes_xyxy[images, rows]
    deltas = regions.deltas[images, rows, own_labels]  # (P, 4)
    predicted = moved_boxes(starts, deltas, REGION_WEIGHTS)
    overlap_losses = 1 - generalized_iou_xyxy(predicted, wanted, _EPSILON)
    scores = logits[images, rows].softmax(-1).gather(1, own_labels[:, None])[:, 0]
    costs = (RESTRICTED_GIOU_COST * overlap_losses - scores).detach()
    distances = (deltas - deltas_between(starts, wanted, REGION_WEIGHTS)).abs().sum(-1)
    matched = best_of_each(objects, costs, len(labels))
    return _Positives(images, rows, objects, own_labels, matched, overlap_losses, distances)


def _class_loss(logits: Tensor, padding: Tensor, positives: _Positives) -> Tensor:
    """Cross-entropy in which regions without an object count less, the less the surer they are; 0 where no object has a region."""
    background = logits.shape[-1] - 1
    rows = positives.images[positives.matched], positives.rows[positives.matched]
    wanted = torch.full(logits.shape[:2], background, device=logits.device)
    wanted[rows] = positives.labels[positives.matched]
    matched = torch.zeros_like(padding)
    matched[rows] = True
    weights = torch.where(matched, 1.0, UNMATCHED_WEIGHT).to(logits).masked_fill(padding, 0.0)
    unsure = 2 * (1 - logits.detach().softmax(-1)[..., background]) ** 2
    losses = F.cross_entropy(logits.movedim(-1, 1), wanted, reduction="none") * torch.where(matched, 1.0, unsure)
    return (losses * weights).sum() / (weights.sum() + 1e-6) * matched.any()


def _proposal_losses(regions: RegionsOfInterest, boxes: list[Tensor]) -> dict[str, Tensor]:
    """Whether sampled anchors lie on an object, and the distances of those that do from theirs; both by the largest number of anchors."""
    class_losses, distances = [], []
    for logits, deltas, objects_xyxy in zip(regions.anchor_logits, regions.anchor_deltas, boxes, strict=True):
        labels, objects = objects_of_anchors(regions.anchors_xyxy, objects_xyxy)
        rows = sampled(labels == 1, labels == 0, count=_ANCHORS, share=_ANCHOR_SHARE)
        class_losses.append(F.binary_cross_entropy_with_logits(logits[rows], labels[rows].to(logits), reduction="sum"))
        rows = rows[labels[rows] == 1]
        if len(objects_xyxy):
            wanted = deltas_between(regions.anchors_xyxy[rows], objects_xyxy[objects[rows]], DELTA_WEIGHTS)
            distances.append((deltas[rows] - wanted).abs().sum())
        else:
            distances.append(0 * deltas.sum())
    divisor = _ANCHORS * len(boxes)
    return {
        "proposals.class": torch.stack(class_losses).sum() / divisor,
        "proposals.l1": torch.stack(distances).sum() / divisor,
    }


@torch.no_grad()
def _shown(terms: dict[str, Tensor], logits: Tensor, positives: _Positives) -> dict[str, Shown]:
    share, matched = 1 / process_count(), positives.matched
    right = logits[positives.images[matched], positives.rows[matched]].argmax(-1) == positives.labels[matched]
    count = float(len(right))
    return {
        CLASS_LOSS.name: Shown(terms["class"].detach() * share, share),
        OVERLAP_LOSS.name: Shown(positives.overlap_losses[matched].sum(), count),
        MATCHED_CLASS_ACCURACY.name: Shown(right.sum(), count, percentage=True),
    }
