"""The set loss: match once for all layers, gather the matched pairs once, then weight and sum the terms (DETR, section 3.1)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detrkit.errors import ConfigurationError
from detrkit.layers.processes import averaged, process_count
from detrkit.layers.targets import check_counts, labels_are_outputs, refuse_labels
from detrkit.losses.boxes import giou_loss, l1_loss
from detrkit.losses.classification import focal_loss
from detrkit.losses.matched import LossTerm, Matched, gather
from detrkit.losses.sets import DecoderLayers, Part, PredictionSet
from detrkit.matching.costs import focal_class_cost
from detrkit.matching.hungarian import HungarianMatcher, Matches, frames_to_user, known_matches, set_matcher
from detrkit.matching.transfer import HostTask, run_together
from detrkit.measures import CLASS_LOSS, DISTANCE_LOSS, MATCHED_CLASS_ACCURACY, OVERLAP_LOSS
from detrkit.structures import Losses, Output, Shown, Target


class Criterion(Protocol):
    """What training needs from a model's loss, whatever the paper."""

    weights: Mapping[str, float]  # the weight of every term, by name

    def __call__(self, output: Output, targets: Sequence[Target]) -> Losses:
        """The loss of a batch."""


class SetCriterion(nn.Module):
    """The losses of one or more sets of predictions, given the objects that they are matched to.

    Args:
        matcher: matches the predictions whose objects are not known in advance.
        terms: from name to loss term.
        term_weights: weight of each term, the same in every layer and set.
        layers: L, the number of decoder layers.
        class_count: number of classes; objects' labels must be below it.
        no_object: the label of predictions without an object; None means `class_count`.
        sets: the sets of predictions, the decoder's layers first.
    """

    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        terms: Mapping[str, LossTerm],
        term_weights: Mapping[str, float],
        layers: int,
        class_count: int,
        no_object: int | None = None,
        sets: Sequence[PredictionSet] = (DecoderLayers(),),
    ) -> None:
        super().__init__()
        self.matcher, self.terms, self.sets = matcher, dict(terms), tuple(sets)
        self.layers, self.class_count = layers, class_count
        self._warned: set[str] = set()
        self.no_object = class_count if no_object is None else no_object
        names = names_of(self.sets, layers)
        self.weights = {f"{name}.{term}": term_weights[term] for name in names for term in self.terms}

    def forward(self, output: Output, targets: Sequence[Target]) -> Losses:
        """The loss of a batch.

        Args:
            output: predictions of all layers, and everything else that the sets read.
            targets: the objects of each image; images without objects are fine.

        Raises:
            NonFiniteError: a prediction or a target is NaN or infinite.
            ValueError: the number of targets is not the number of images, or a label is not one of the model's.
            ConfigurationError: the output comes from another model than this criterion was made for.
        """
        return self.losses(self.matched(output, targets))

    def matched(self, output: Output, targets: Sequence[Target]) -> list[tuple[PredictionSet, Matched]]:
        """Every set that the output has, with the objects that its predictions were matched to; arguments as in `forward`."""
        check_counts(targets, images=output.logits.shape[1])
        self._check_sources(output)
        object_count = number_of_objects(targets, output.boxes_cxcywh)
        parts = [(each, each.part(output, targets, object_count)) for each in self.sets]
        present = [(each, part) for each, part in parts if part is not None]
        self._warn_of_shortages(present)
        all_matches = self._match([part for _, part in present], targets)
        return [
            (
                each,
                gather(
                    part.output,
                    part.targets,
                    matches,
                    no_object=self.no_object,
                    divisor=part.divisor,
                    counted=part.counted,
                ),
            )
            for (each, part), matches in zip(present, all_matches, strict=True)
        ]

    def losses(self, pairs: Sequence[tuple[PredictionSet, Matched]]) -> Losses:
        """All terms of all sets, weighed and summed; what a person watches is of the first set.

        Args:
            pairs: what `matched` returned.
        """
        terms: dict[str, Tensor] = {}
        shown: dict[str, Shown] = {}
        for each, matched in pairs:
            values = {name: term(matched) for name, term in self.terms.items()}  # (L,) each
            terms |= _by_layer(values, each.names(self.layers))
            shown = shown or shown_of_last_layer(matched, values)
        total = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        return Losses(total, terms, shown)

    def _warn_of_shortages(self, parts: Sequence[tuple[PredictionSet, Part]]) -> None:
        """Says once of each set that its predictions are too few."""
        for each, part in parts:
            if part.shortage is not None and each.source not in self._warned:
                self._warned.add(each.source)
                warnings.warn(part.shortage, stacklevel=frames_to_user())

    def _match(self, parts: Sequence[Part], targets: Sequence[Target]) -> list[Matches]:
        """Matches all parts and checks all labels with a single copy from the device."""

        def check(inputs: Sequence[NDArray[Any]]) -> None:
            if not inputs[0]:
                refuse_labels(targets, self.class_count)

        labels = HostTask((labels_are_outputs(targets, self.class_count),), check)
        return run_together([self._task(part) for part in parts], [labels])

    def _task(self, part: Part) -> HostTask[Matches]:
        if part.objects is None:
            return self.matcher.task(part.output, part.targets, warn=part.warn)
        return known_matches(part.objects, part.output, part.targets)

    def _check_sources(self, output: Output) -> None:
        """Refuses outputs with other parts than the criterion expects, which would silently be ignored."""
        if len(output.logits) != self.layers:
            raise ConfigurationError(
                f"the criterion was made for {self.layers} decoder layers but the output has {len(output.logits)}: "
                "use the criterion made for this model"
            )
        sources = [] if output.proposals is None else ["proposals"]
        sources += [each.group.name for each in output.training_groups]
        for source in sources:
            if source not in [each.source for each in self.sets]:
                raise ConfigurationError(
                    f"the output has '{source}' but the criterion was made for a model without it: use the criterion made for this model"
                )


def focal_criterion(
    *,
    class_count: int,
    layers: int,
    cost_weights: Mapping[str, float],
    loss_weights: Mapping[str, float],
    giou_epsilon: float = 0.0,
    no_object: int | None = None,
    sets: Sequence[PredictionSet] = (),
) -> SetCriterion:
    """The set loss with focal classification (Deformable DETR, section 5), which most later papers share.

    Args:
        class_count: number of classes; objects' labels must be below it.
        layers: L, the number of decoder layers.
        cost_weights: weights of `class`, `l1` and `giou` in matching.
        loss_weights: weights of the same terms in the loss.
        giou_epsilon: added to the divisors of the generalised IoU in matching and loss, see `giou_loss`.
        no_object: see `SetCriterion`.
        sets: sets of predictions besides the decoder's layers.
    """
    return SetCriterion(
        matcher=set_matcher(focal_class_cost, cost_weights, giou_epsilon=giou_epsilon),
        terms={"class": focal_loss, "l1": l1_loss, "giou": partial(giou_loss, epsilon=giou_epsilon)},
        term_weights=loss_weights,
        layers=layers,
        class_count=class_count,
        no_object=no_object,
        sets=(DecoderLayers(), *sets),
    )


def names_of(sets: Sequence[PredictionSet], layers: int) -> list[str]:
    """What the terms' names begin with, set by set.

    Raises:
        ConfigurationError: two sets have terms with the same name.
    """
    names = [name for each in sets for name in each.names(layers)]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"two sets of the criterion have terms with the same name: {', '.join(names)}")
    return names


def _by_layer(losses: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Splits the (L,) values of each term into scalars, named by layer and term."""
    return {
        f"{name}.{term}": value
        for term, values in losses.items()
        for name, value in zip(names, values.unbind(0), strict=True)
    }


def number_of_objects(targets: Sequence[Target], like: Tensor) -> Tensor:
    """Number of objects in the batch, averaged over the processes of a distributed run. It can be 0; sets clamp what they divide by."""
    return averaged(like.new_full((), sum(len(target.labels) for target in targets)))


@torch.no_grad()
def shown_of_last_layer(matched: Matched, values: Mapping[str, Tensor]) -> dict[str, Shown]:
    """The numbers to show: losses of the last decoder layer, with box losses as means over matched objects, and the share of right classes.

    Args:
        matched: the model's own queries with their objects.
        values: (L,) values of each term; box terms are optional.
    """
    count = float(matched.matches.queries.shape[1])
    share = 1 / process_count()  # all processes together count the batch once
    shown = {CLASS_LOSS.name: Shown(values["class"][-1].detach() * share, share)}
    for name, term in ((DISTANCE_LOSS.name, "l1"), (OVERLAP_LOSS.name, "giou")):
        if term in values:
            shown[name] = Shown(values[term][-1].detach() * matched.divisor, count)
    right = matched.of_pairs(matched.logits)[-1].argmax(-1) == matched.of_pairs(matched.labels)[-1]
    return {**shown, MATCHED_CLASS_ACCURACY.name: Shown(right.sum(), count, percentage=True)}
