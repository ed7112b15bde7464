"""One query for every object, with the least total cost (DETR, section 3.1)."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detrkit.errors import NonFiniteError
from detrkit.matching.costs import PaddedTargets, giou_cost, l1_cost, pad_targets
from detrkit.matching.transfer import HostTask, run_together, to_device
from detrkit.structures import Output, Target

CostTerm = Callable[[Output, PaddedTargets], Tensor]
_PREDICTIONS = "the model's predictions are not; lower the learning rate, or train in float32"


@dataclass(frozen=True)
class Matches:
    """Matched pairs of all layers and images. M, the number of pairs, is the same for every layer; no query is in two pairs.

    Attributes:
        layers: (L, M) int64, the layer of each pair, which is its row here.
        images: (L, M) int64, in ascending order.
        queries: (L, M) int64, in ascending order within an image.
        objects: (L, M) int64, index among the objects of the image.
        batch_objects: (L, M) int64, index among the objects of all images, one image after the other.
    """

    layers: Tensor
    images: Tensor
    queries: Tensor
    objects: Tensor
    batch_objects: Tensor


def known_matches(objects: Tensor, output: Output, targets: Sequence[Target]) -> HostTask[Matches]:
    """Pairs of queries whose objects are known in advance, the same in every layer.

    Args:
        objects: (B, Q) int64, index among the objects of the image, -1 for none.
        output: predictions of Q queries in each of L layers and B images.
        targets: the objects of the B images.

    Raises:
        NonFiniteError: raised by the task: a prediction is NaN or infinite; the message names the image.
    """
    first, device = _first_objects([len(target.labels) for target in targets]), objects.device

    def run(inputs: Sequence[NDArray[Any]]) -> Matches:
        on_host, finite = inputs[0].astype(np.int64), inputs[1]
        if not finite:
            image = _images_are_finite(output).index(False)
            raise NonFiniteError(f"image {image} of the batch: the loss is not finite, because {_PREDICTIONS}", image)
        images, queries = np.nonzero(on_host >= 0)
        pairs = list(zip(images.tolist(), queries.tolist(), on_host[images, queries].tolist(), strict=True))
        return as_matches([pairs] * len(output.logits), first, device)

    return HostTask((objects, _all_finite(output)), run)


def set_matcher(class_cost: CostTerm, weights: Mapping[str, float], *, giou_epsilon: float = 0.0) -> HungarianMatcher:
    """Matching by class, box distance and overlap (DETR, section 3.1).

    Args:
        class_cost: the class term of the cost, (L, B, Q, N).
        weights: weights of `class`, `l1` and `giou`.
        giou_epsilon: added to the divisors of the generalised IoU; it differs between papers.
    """
    terms: dict[str, CostTerm] = {"class": class_cost, "l1": l1_cost, "giou": partial(giou_cost, epsilon=giou_epsilon)}
    return HungarianMatcher({name: (term, weights[name]) for name, term in terms.items()})


class HungarianMatcher:
    """Finds the assignment of queries to objects with the least total cost, separately for every layer and image.

    Args:
        terms: from name to cost term and its weight.
    """

    def __init__(self, terms: Mapping[str, tuple[CostTerm, float]]) -> None:
        self.terms = dict(terms)
        self._warned = False

    def __call__(self, output: Output, targets: Sequence[Target], *, warn: bool = True) -> Matches:
        """The matched pairs; arguments and errors as in `task`."""
        (matches,) = run_together([self.task(output, targets, warn=warn)])
        return matches

    @torch.no_grad()
    def task(self, output: Output, targets: Sequence[Target], *, warn: bool = True) -> HostTask[Matches]:
        """Computes costs on the device and returns a task that assigns queries to objects on the host.

        In an image with more objects than queries, every query gets an object and the other objects get none.

        Args:
            output: predictions of Q queries in each of L layers and B images.
            targets: the objects of the B images. Labels for which the class head has no output count as the nearest label for which it has one.
            warn: whether to warn the first time that an image has more objects than queries.

        Raises:
            NonFiniteError: raised by the task: a cost is NaN or infinite; the message names the image and the term.
        """
        padded = pad_targets(targets, output.boxes_cxcywh)
        if warn:
            self._warn_once(max(padded.counts, default=0), output.logits.shape[2])
        costs = sum(weight * term(output, padded) for term, weight in self.terms.values())
        assert isinstance(costs, Tensor)
        first, device = _first_objects(padded.counts), costs.device

        def run(inputs: Sequence[NDArray[Any]]) -> Matches:
            on_host, finite = inputs
            if not (finite and np.isfinite(on_host).all()):  # the common case needs no list of images
                self._refuse(on_host, output, padded)
            return as_matches([_assign(layer_costs, padded.counts) for layer_costs in on_host], first, device)

        return HostTask((costs, _all_finite(output)), run)

    def _warn_once(self, objects: int, queries: int) -> None:
        if objects > queries and not self._warned:
            self._warned = True
            warnings.warn(
                f"an image has {objects} objects but the model only {queries} {'query' if queries == 1 else 'queries'}: it cannot learn from the remaining objects; "
                f"build it with queries={objects} or more",
                stacklevel=frames_to_user(),
            )

    def _refuse(self, costs: NDArray[Any], output: Output, targets: PaddedTargets) -> None:
        """Refuses costs that have no assignment, and non-finite predictions in images without objects, which would spoil the loss."""
        predictions_are_finite = _images_are_finite(output)
        for image, count in enumerate(targets.counts):
            if predictions_are_finite[image] and np.isfinite(costs[:, image, :, :count]).all():
                continue
            names = [
                name
                for name, (term, _) in self.terms.items()
                if not term(output, targets)[:, image, :, :count].isfinite().all()
            ]
            what = (
                f"the matching cost is not finite in the terms {', '.join(names)}"
                if names
                else "the loss is not finite"
            )
            cause = "its targets are not; check its boxes" if predictions_are_finite[image] else _PREDICTIONS
            raise NonFiniteError(f"image {image} of the batch: {what}, because {cause}", image)


def _all_finite(output: Output) -> Tensor:
    """Whether all scores and coordinates are finite, as a bool tensor on the device."""
    return output.logits.isfinite().all() & output.boxes_cxcywh.isfinite().all()


def _images_are_finite(output: Output) -> list[bool]:
    """Whether all scores and coordinates of each image are finite, on the host."""
    scores, boxes = (values.isfinite().all(-1).all(2).all(0) for values in (output.logits, output.boxes_cxcywh))
    return (scores & boxes).tolist()


def _assign(costs: NDArray[Any], counts: Sequence[int]) -> list[tuple[int, int, int]]:
    """Image, query and object of each pair, given the costs (B, Q, N) of one layer and the number of objects in each image."""
    from scipy.optimize import linear_sum_assignment  # imported here, since prediction does not need it

    return [
        (image, int(query), int(entry))
        for image, (image_costs, count) in enumerate(zip(costs, counts, strict=True))
        for query, entry in zip(*linear_sum_assignment(image_costs[:, :count]), strict=True)
    ]


def _first_objects(counts: Sequence[int]) -> NDArray[np.int64]:
    """The index of each image's first object among the objects of all images."""
    return np.cumsum([0, *counts], dtype=np.int64)[:-1]


def frames_to_user() -> int:
    """The `stacklevel` of the nearest caller outside detrkit and PyTorch, where a warning should point (Python 3.12 has `skip_file_prefixes`)."""
    inside = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    return level


def matches_of_a_layer(images: Tensor, queries: Tensor, batch_objects: Tensor, counts: Sequence[int]) -> Matches:
    """Pairs that were found on the device, of a model with a single layer.

    Args:
        images: (M,) in ascending order.
        queries: (M,) in ascending order within an image.
        batch_objects: (M,) index among the objects of all images.
        counts: number of objects of each image.
    """
    first = batch_objects.new_tensor([sum(counts[:image]) for image in range(len(counts))])
    columns = (torch.zeros_like(images), images, queries, batch_objects - first[images], batch_objects)
    return Matches(*(column[None] for column in columns))


def as_matches(
    pairs: Sequence[Sequence[tuple[int, int, int]]], first: NDArray[np.int64], device: torch.device
) -> Matches:
    """Turns (image, query, object) triples of each layer into tensors on the device."""
    table = np.array(pairs, dtype=np.int64).reshape(len(pairs), -1, 3)  # (L, M, 3)
    images, queries, objects = (table[..., column] for column in range(3))
    layers = np.broadcast_to(np.arange(len(pairs))[:, None], images.shape)
    columns = np.stack([layers, images, queries, objects, first[images] + objects])  # (5, L, M)
    return Matches(*to_device(columns, device).unbind(0))
