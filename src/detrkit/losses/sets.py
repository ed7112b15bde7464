"""Which predictions a criterion takes into account, and what they are compared with: one small class for each kind.

A set takes its part of an output: the decoder's layers, an encoder's proposals, or a group of training queries. The criterion matches all
parts and computes all terms for each of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from detrkit.errors import ConfigurationError
from detrkit.layers.processes import process_count
from detrkit.structures import GroupOutput, LayerOutput, Output, QueryGroup, Target


@dataclass(frozen=True)
class Part:
    """Predictions that are compared with objects.

    Attributes:
        output: predictions, in one layer or more.
        targets: the objects of each image.
        divisor: scalar that losses are divided by.
        objects: (B, R) int64, the index of the object that each prediction has to restore, among the objects of its image; -1 for none. None
            for predictions that still have to be matched.
        counted: (B, R) bool, the rows that count in the class loss; None where all do.
        warn: whether to warn if an image has more objects than predictions, since more queries would help.
        shortage: a sentence for users where predictions are too few for another reason.
    """

    output: Output
    targets: Sequence[Target]
    divisor: Tensor
    objects: Tensor | None = None
    counted: Tensor | None = None
    warn: bool = False
    shortage: str | None = None


class PredictionSet(Protocol):
    """One kind of predictions. `source` says where in an output they are found: "layers", "proposals" or the name of a training group."""

    @property
    def source(self) -> str:
        """Where in an output the predictions are."""

    def names(self, layers: int) -> list[str]:
        """What the terms' names begin with, one for each layer of predictions, given the number of decoder layers."""

    def part(self, output: Output, targets: Sequence[Target], object_count: Tensor) -> Part | None:
        """The predictions; None if this output has none, which is allowed for training groups only.

        Args:
            output: the model's output.
            targets: the objects of each image.
            object_count: scalar, objects in the batch, averaged over all processes; it can be 0.

        Raises:
            ConfigurationError: the output lacks predictions that a model with this set always has.
        """


@dataclass(frozen=True)
class DecoderLayers:
    """The model's own queries, matched in every decoder layer (DETR, section 3.1)."""

    source: ClassVar[str] = "layers"

    def names(self, layers: int) -> list[str]:
        """`layers.<i>`."""
        return _layer_names(layers)

    def part(self, output: Output, targets: Sequence[Target], object_count: Tensor) -> Part:
        """All layers, without proposals and groups."""
        layers = dataclasses.replace(output, proposals=None, training_groups=())
        return Part(layers, targets, _at_least_one(object_count), warn=True)


@dataclass(frozen=True)
class _Proposals:
    source: ClassVar[str] = "proposals"

    def names(self, layers: int) -> list[str]:  # noqa: ARG002 - an encoder's proposals are one layer
        """`proposals`."""
        return ["proposals"]


@dataclass(frozen=True)
class _TrainingGroup:
    name: str

    @property
    def source(self) -> str:
        """The group's name."""
        return self.name

    def names(self, layers: int) -> list[str]:
        """`<group>.layers.<i>`."""
        return _layer_names(layers, f"{self.name}.")


@dataclass(frozen=True)
class AllProposals(_Proposals):
    """The proposals of all tokens, matched to objects that all count as class 0 (Deformable DETR, appendix A.4)."""

    def part(self, output: Output, targets: Sequence[Target], object_count: Tensor) -> Part:
        """All proposals as one layer."""
        proposals = _proposed(output, "all")
        classless = [dataclasses.replace(target, labels=torch.zeros_like(target.labels)) for target in targets]
        return Part(_as_layer(proposals), classless, _at_least_one(object_count))


@dataclass(frozen=True)
class ChosenProposals(_Proposals):
    """The proposals that became queries, matched to objects with their classes (DINO, section 3.4)."""

    def part(self, output: Output, targets: Sequence[Target], object_count: Tensor) -> Part:
        """The chosen proposals as one layer."""
        proposals = _proposed(output, "chosen")
        return Part(_as_layer(proposals), targets, _at_least_one(object_count))


@dataclass(frozen=True)
class KnownGroup(_TrainingGroup):
    """Training queries whose objects are known in advance, as in denoising; they exist in training only.

    Attributes:
        name: the group's name.
    """

    def part(self, output: Output, targets: Sequence[Target], object_count: Tensor) -> Part | None:
        """All layers of the group."""
        predictions = _group_of(output, self.name)
        if predictions is None:
            return None
        group = predictions.group
        if group.objects is None:
            raise ConfigurationError(
                f"the training group '{self.name}' does not say which objects its queries have to restore; use RepeatedGroup"
            )
        divisor = self.divisor(targets, object_count, group)
        return Part(predictions.output, targets, divisor, group.objects, group.counted)

    def divisor(self, targets: Sequence[Target], object_count: Tensor, group: QueryGroup) -> Tensor:  # noqa: ARG002 - for papers that count targets
        """What losses are divided by: as in DINO, objects, at least 1, times repeats. Papers that divide differently override this."""
        return _at_least_one(object_count) * group.repeats


@dataclass(frozen=True)
class RepeatedGroup(_TrainingGroup):
    """Training queries that are matched to repeated targets (H-DETR, Jia et al. 2023, section 3.2); they exist in training only.

    Attributes:
        name: the group's name.
    """

    def part(self, output: Output, targets: Sequence[Target], object_count: Tensor) -> Part | None:
        """All layers of the group, and the repeated targets, whose number is the divisor."""
        predictions = _group_of(output, self.name)
        if predictions is None:
            return None
        group = predictions.group
        if group.objects is not None:
            raise ConfigurationError(
                f"the queries of training group '{self.name}' know their objects and are not matched; use KnownGroup"
            )
        repeated = [repeat_target(target, group.repeats) for target in targets]
        divisor = _at_least_one(object_count * group.repeats)
        most = max((len(target.labels) for target in targets), default=0)
        shortage = self._shortage(most, group, own=output.logits.shape[2])
        return Part(predictions.output, repeated, divisor, counted=group.counted, shortage=shortage)

    def _shortage(self, objects: int, group: QueryGroup, *, own: int) -> str | None:
        wanted = objects * group.repeats
        if wanted <= group.rows or (
            group.repeats == 1 and group.rows >= own
        ):  # which is said of the model's own queries
            return None
        if group.repeats == 1:  # the image has too few proposals for whole groups
            return (
                f"an image has {objects} objects, but the training group '{self.name}' has only {group.rows} queries, which leaves "
                f"{wanted - group.rows} of them out; use larger images or fewer groups"
            )
        return (
            f"an image has {objects} objects, but the training group '{self.name}' has only {group.rows} queries for {group.repeats} copies of "
            f"each: {wanted - group.rows} copies are left out; build the model with more of these queries or fewer repeats"
        )


def repeat_target(target: Target, repeats: int) -> Target:
    """The list of an image's objects, repeated `repeats` times; every tensor of a target has one row per object."""
    values = {field.name: getattr(target, field.name) for field in dataclasses.fields(target)}
    rows = {name: torch.cat([value] * repeats) for name, value in values.items() if isinstance(value, Tensor)}
    return dataclasses.replace(target, **rows)


def _at_least_one(count: Tensor) -> Tensor:
    """An average over processes, as large as if the whole batch had one object or more."""
    return count.clamp(min=1 / process_count())


def _layer_names(layers: int, prefix: str = "") -> list[str]:
    return [f"{prefix}layers.{layer}" for layer in range(layers)]


def _proposed(output: Output, which: str) -> LayerOutput:
    proposals: LayerOutput | None = getattr(output.proposals, which, None)
    if proposals is None:
        raise ConfigurationError(
            f"the criterion was made for a model with proposals but the output's `proposals.{which}` is missing: "
            "use the criterion made for this model"
        )
    return proposals


def _as_layer(proposals: LayerOutput) -> Output:
    return Output(proposals.logits[None], proposals.boxes_cxcywh[None])


def _group_of(output: Output, name: str) -> GroupOutput | None:
    return next((each for each in output.training_groups if each.group.name == name), None)
