"""One query for every object, at the least cost over all (DETR, section 3.1)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detrkit.errors import NonFiniteError
from detrkit.matching.costs import PaddedTargets, giou_cost, l1_cost, pad_targets
from detrkit.structures import Output, Target

CostTerm = Callable[[Output, PaddedTargets], Tensor]


@dataclass(frozen=True)
class Matches:
    """Matched pairs of all layers and images. M, the number of pairs, is the same for every layer.

    Attributes:
        layers: (L, M) int64, the layer of each pair: its row.
        images: (L, M) int64, rising.
        queries: (L, M) int64, rising within an image.
        objects: (L, M) int64, index among the objects of the image.
    """

    layers: Tensor
    images: Tensor
    queries: Tensor
    objects: Tensor


def known_matches(objects: Tensor, *, layers: int) -> Matches:
    """Pairs where every query knows what it answers for.

    Args:
        objects: (B, Q) int64, index among the objects of the image, -1 for none.
        layers: L; all have the same pairs.
    """
    images, queries = (objects >= 0).nonzero(as_tuple=True)
    found = torch.arange(layers, device=objects.device)[:, None].expand(-1, len(images))
    return Matches(found, *(row.expand(layers, -1) for row in (images, queries, objects[images, queries])))


def set_matcher(class_cost: CostTerm, weights: Mapping[str, float]) -> HungarianMatcher:
    """Matching by class, box distance and overlap, with the weights that the loss has (DETR, section 3.1).

    Args:
        class_cost: what a query's class scores cost for an object, (L, B, Q, N).
        weights: of `class`, `l1` and `giou`.
    """
    terms = {"class": class_cost, "l1": l1_cost, "giou": giou_cost}
    return HungarianMatcher({name: (term, weights[name]) for name, term in terms.items()})


class HungarianMatcher:
    """Finds the assignment of queries to objects with the least total cost, for every layer and image by itself.

    Args:
        terms: name to cost term and its weight.
    """

    def __init__(self, terms: Mapping[str, tuple[CostTerm, float]]) -> None:
        self.terms = dict(terms)
        self._warned = False

    @torch.no_grad()
    def __call__(self, output: Output, targets: Sequence[Target], *, warn: bool = True) -> Matches:
        """Matched pairs.

        An image with more objects than queries is matched as far as its queries go.

        Args:
            output: predictions, Q queries in each of L layers and B images.
            targets: the objects of the B images.
            warn: whether to say so the first time; more queries would not mend it for proposals.

        Raises:
            NonFiniteError: a cost is NaN or infinite; the message names the image and the term.
        """
        from scipy.optimize import linear_sum_assignment  # here, since whoever only predicts has no use for it

        padded = pad_targets(targets, output.boxes_cxcywh)
        costs = sum(weight * term(output, padded) for term, weight in self.terms.values())
        assert isinstance(costs, Tensor)
        on_host = costs.cpu()  # (L, B, Q, N), the one transfer
        if warn:
            self._warn_once(max(padded.counts, default=0), on_host.shape[2])
        self._check_finite(on_host, output, padded)
        found: list[list[tuple[int, int, int, int]]] = []
        for layer, layer_costs in enumerate(on_host.numpy()):
            pairs = []
            for image, (image_costs, count) in enumerate(zip(layer_costs, padded.counts, strict=True)):
                for query, entry in zip(*linear_sum_assignment(image_costs[:, :count]), strict=True):
                    pairs.append((layer, image, int(query), int(entry)))
            found.append(pairs)
        table = torch.tensor(found, dtype=torch.int64).reshape(len(found), -1, 4).to(costs.device)  # (L, M, 4)
        return Matches(*table.unbind(-1))

    def _warn_once(self, objects: int, queries: int) -> None:
        if objects > queries and not self._warned:
            self._warned = True
            warnings.warn(
                f"an image has {objects} objects but the model only {queries} queries: the objects left over teach it nothing; "
                f"build it with queries={objects} or more",
                stacklevel=4,
            )

    def _check_finite(self, costs: Tensor, output: Output, targets: PaddedTargets) -> None:
        """Refuses costs that no assignment can be found for, and predictions that would spoil the loss where there is nothing to match."""
        everything = (costs, output.logits, output.boxes_cxcywh)
        if all(bool(values.isfinite().all()) for values in everything):  # the common case needs no list of images
            return
        scores, boxes = (values.isfinite().all(-1).all(2).all(0) for values in (output.logits, output.boxes_cxcywh))
        predicted = (scores & boxes).tolist()  # B
        for image, count in enumerate(targets.counts):
            if predicted[image] and costs[:, image, :, :count].isfinite().all():
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
            cause = (
                "its targets are not; check its boxes"
                if predicted[image]
                else "the model's predictions are not; lower the learning rate, or train in float32"
            )
            raise NonFiniteError(f"image {image} of the batch: {what}, because {cause}", image)
