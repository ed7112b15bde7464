"""The set loss: match once for all layers, gather the matched pairs once, weigh and sum (DETR, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from detrkit.layers.targets import check_targets
from detrkit.losses.boxes import giou_loss, l1_loss
from detrkit.matching.hungarian import HungarianMatcher, Matches, known_matches
from detrkit.structures import GroupOutput, LayerOutput, Losses, Output, Target

ClassLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


class SetCriterion(nn.Module):
    """Losses of every decoder layer against the objects that its queries were matched to.

    A two-stage model's proposals are matched, too (Deformable DETR, appendix A.4).

    Args:
        matcher: finds the matched pairs.
        class_loss: takes logits (L, B, Q, K), labels (L, B, Q) and the number of objects; gives (L,).
        no_object: the label of queries that were matched to nothing.
        term_weights: weight of each of `class`, `l1` and `giou`, the same in every layer.
        layers: L, the number of decoder layers.
        proposals: whether the model makes proposals, which are matched and weighed like a layer; every object is class 0 to them.
        groups: names of the groups of queries that the model has in training only; they are weighed like its own.
    """

    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        class_loss: ClassLoss,
        no_object: int,
        term_weights: Mapping[str, float],
        layers: int,
        proposals: bool = False,
        groups: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.matcher, self.class_loss, self.no_object = matcher, class_loss, no_object
        names = [f"layers.{layer}" for layer in range(layers)]
        parts = names + ["proposals"] * proposals + [f"{group}.{name}" for group in groups for name in names]
        self.weights = {f"{part}.{name}": weight for part in parts for name, weight in term_weights.items()}

    def forward(self, output: Output, targets: Sequence[Target]) -> Losses:
        """The loss of a batch.

        Args:
            output: predictions of all layers, and proposals where the model makes them.
            targets: the objects of each image; an image without any is fine.

        Raises:
            NonFiniteError: a prediction or a target is NaN or infinite.
            ValueError: the number of targets is not the number of images, or a label is not an output of the class head.
        """
        check_targets(targets, images=output.logits.shape[1], outputs=self.no_object)
        divisor = number_of_objects(targets, output.boxes_cxcywh)
        matches = self.matcher(output, targets)
        labels = self._labels(output, targets, matches)
        by_name = self._losses(output, targets, matches, labels, divisor)
        terms = _by_layer(by_name)
        if output.proposals is not None:
            terms |= self._proposal_terms(output.proposals, targets, divisor)
        for part in output.training_groups:
            terms |= self._group_terms(part, targets, divisor)
        total = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        return Losses(total, terms, _statistics(output, labels, matches, targets))

    def _losses(
        self, output: Output, targets: Sequence[Target], matches: Matches, labels: Tensor, divisor: Tensor
    ) -> dict[str, Tensor]:
        """Every term by its name, (L,) each."""
        predicted = output.boxes_cxcywh[matches.layers, matches.images, matches.queries]  # (L, M, 4)
        wanted = torch.cat([target.boxes_cxcywh for target in targets]).to(predicted)[_flat_objects(matches, targets)]
        return {
            "class": self.class_loss(output.logits, labels, divisor),
            "l1": l1_loss(predicted, wanted, divisor),
            "giou": giou_loss(predicted, wanted, divisor),
        }

    def _proposal_terms(self, proposals: LayerOutput, targets: Sequence[Target], divisor: Tensor) -> dict[str, Tensor]:
        """Losses of the proposals: is there any object, and where."""
        output = Output(proposals.logits[None], proposals.boxes_cxcywh[None])
        objects = [Target(torch.zeros_like(target.labels), target.boxes_cxcywh) for target in targets]
        matches = self.matcher(output, objects, warn=False)
        labels = self._labels(output, objects, matches)
        by_name = self._losses(output, objects, matches, labels, divisor)
        return {f"proposals.{name}": values[0] for name, values in by_name.items()}

    def _group_terms(self, part: GroupOutput, targets: Sequence[Target], divisor: Tensor) -> dict[str, Tensor]:
        """Losses of queries that know what they answer for."""
        output, group = Output(part.logits, part.boxes_cxcywh), part.group
        matches = known_matches(group.objects, layers=len(output.logits))
        labels = self._labels(output, targets, matches)
        return _by_layer(self._losses(output, targets, matches, labels, divisor * group.repeats), f"{group.name}.")

    def _labels(self, output: Output, targets: Sequence[Target], matches: Matches) -> Tensor:
        """(L, B, Q) label of every query: its object's, or no-object."""
        labels = output.logits.new_full(output.logits.shape[:3], self.no_object, dtype=torch.int64)
        all_labels = torch.cat([target.labels for target in targets]).to(labels)
        labels[matches.layers, matches.images, matches.queries] = all_labels[_flat_objects(matches, targets)]
        return labels


def _by_layer(losses: Mapping[str, Tensor], beginning: str = "") -> dict[str, Tensor]:
    """(L,) of each term as scalars by layer and term."""
    return {
        f"{beginning}layers.{layer}.{name}": value
        for name, values in losses.items()
        for layer, value in enumerate(values.unbind(0))
    }


def number_of_objects(targets: Sequence[Target], like: Tensor) -> Tensor:
    """Objects in the batch, averaged over the processes of a distributed run, at least 1: what box losses are divided by."""
    count = torch.tensor(float(sum(len(target.labels) for target in targets)), dtype=like.dtype, device=like.device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(count)
        count = count / torch.distributed.get_world_size()
    return count.clamp(min=1)


def _flat_objects(matches: Matches, targets: Sequence[Target]) -> Tensor:
    """(L, M) index of each matched object among all objects of the batch, laid end to end."""
    counts = torch.tensor([len(target.labels) for target in targets])
    first = (counts.cumsum(0) - counts).to(matches.images.device)
    return first[matches.images] + matches.objects


@torch.no_grad()
def _statistics(output: Output, labels: Tensor, matches: Matches, targets: Sequence[Target]) -> dict[str, Tensor]:
    images, queries = matches.images[-1], matches.queries[-1]
    right = output.logits[-1, images, queries].argmax(-1) == labels[-1, images, queries]
    objects = sum(len(target.labels) for target in targets)
    return {
        "objects": torch.tensor(float(objects)),
        "matched": torch.tensor(float(len(queries))),
        "correct": right.sum().float(),
    }
