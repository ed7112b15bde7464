"""What a run tells about its convergence, besides losses and AP: matching, attention and queries on some training images, epoch by epoch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detrkit.data import DetectionDataset
from detrkit.evaluation.runner import eval_mode, loader_of
from detrkit.explaining.attention import CROSS, ENCODER, Look, recorded_looks
from detrkit.explaining.concentration import centers_of, sparsity_of
from detrkit.layers.regions_of_interest import RegionOutput
from detrkit.matching.hungarian import Matches
from detrkit.measures import (
    ATTENTION_DISTANCE,
    ATTENTION_SPARSITY,
    MATCHING_INSTABILITY,
    REFERENCE_DISTANCE,
    REPEATED_DETECTIONS,
    USED_QUERIES,
    Measure,
    layer_column,
)
from detrkit.models.catalog import Selection, criterion_for, selection_for
from detrkit.models.detector import Detector
from detrkit.prediction.suppression import REPEATS_FROM, kept_by_nms
from detrkit.structures import ImageBatch, Output, Target

# Looking at an image takes a quarter to a half of the time of training on it, so that this share costs an epoch about a hundredth of its time.
SHARE, LEAST, MOST = 0.02, 4, 64
_SMALLEST_HALF = 0.5  # pixels


class _Seen(NamedTuple):
    """What is kept of one batch.

    Attributes:
        chosen: for each image its id, and (L, N) int64, what its objects are matched to.
        sparsity: (A, B) of A layers of attention.
        attention: (A, M) distances of the centres of attention from the M matched boxes; None where there is no centre.
        references: (L, M) distances of the references; None where there are none.
        used: for each decoder layer the queries that are matched, or are among the best.
        repeats: for each decoder layer (M,) bool, which of the best detections repeat a better one.
    """

    chosen: list[tuple[int, Tensor]]
    sparsity: Tensor | None
    attention: Tensor | None
    references: Tensor | None
    used: list[set[int]]
    repeats: list[NDArray[np.bool_]]


class ConvergenceWatch:
    """Looks at the same training images after every epoch, all of them once, and compares with the epoch before.

    - The instability of the matching is that of Li et al. 2022 (DN-DETR, arXiv:2203.01305, section 3.1): the share of objects that another query
      is matched to. Queries of a two-stage model are told apart by the proposal that they start from, since their order says nothing.
    - The sparsity of attention is that of Sun et al. 2021 (TSP, arXiv:2011.10881, section 3.2), see `sparsity_of`: of cross-attention, and of
      the encoder's attention in a model without a decoder.
    - The distances are those from the centre of the box that a query is matched to, in halves of the box's diagonal; medians over the objects.
    - A query is used if it has an object, or one of the best detections: as many of them count in an image as it has objects.
    - The best detections that repeat a better one are those that non-maximum suppression within each class would leave out.

    Args:
        training: the training images, of which some with objects are looked at, at even distances.
        batch_size: images that are looked at together.
    """

    def __init__(self, training: DetectionDataset, *, batch_size: int = 1) -> None:
        self.training, self.batch_size = training, batch_size
        self.images = watched_images(training)
        self._before: Tensor | None = None

    def state(self) -> dict[str, Any]:
        """What a resumed run needs for its next figure."""
        return {"before": self._before}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken."""
        self._before = state["before"]

    def figures(self, model: Detector) -> dict[str, float]:
        """Figures of the epoch for the log: of each measure one in all, and one for each layer; those that the model has.

        In all it is a mean over the layers; of the used queries it is how many are used in any layer.

        Args:
            model: as it is after the epoch; it is left as it is.
        """
        if not self.images:
            return {}
        seen = list(self._looks(model))
        layers = {
            MATCHING_INSTABILITY: self._instability(seen),
            ATTENTION_SPARSITY: [row.mean().item() for row in _joined(each.sparsity for each in seen)],
            ATTENTION_DISTANCE: _medians(_joined(each.attention for each in seen)),
            REFERENCE_DISTANCE: _medians(_joined(each.references for each in seen)),
        }
        row: dict[str, float] = {}
        for measure, values in layers.items():
            row |= _columns(measure, values, statistics.fmean(values) if values else math.nan)
        repeats = [np.concatenate(layer) for layer in zip(*(each.repeats for each in seen), strict=True)]
        shares = [float(layer.mean()) if len(layer) else math.nan for layer in repeats]
        row |= _columns(REPEATED_DETECTIONS, shares, statistics.fmean(shares))
        used = [set[int]().union(*layer) for layer in zip(*(each.used for each in seen), strict=True)]
        row |= _columns(USED_QUERIES, list(map(len, used)), len(set[int]().union(*used)))
        return {name: value for name, value in row.items() if math.isfinite(value)}

    def _instability(self, seen: Sequence[_Seen]) -> list[float]:
        """Of each layer, the share of objects with another query than before; empty after the first epoch."""
        chosen = dict(pair for each in seen for pair in each.chosen)
        if not chosen:
            return []
        # In an order that does not depend on the batches, which another computer may make otherwise.
        now = torch.cat([chosen[image] for image in self.training.image_ids[self.images].tolist()], dim=1)
        before, self._before = self._before, now
        if before is None or before.shape != now.shape:
            return []
        return (now != before).float().mean(1).tolist()

    @torch.no_grad()
    def _looks(self, model: Detector) -> Iterator[_Seen]:
        """What is kept of every batch."""
        criterion: Any = criterion_for(model)
        select = selection_for(model)
        # In this process: a few images are read sooner than other processes start.
        loader = loader_of(model, self.training, batch_size=self.batch_size, workers=0, images=self.images)
        device = next(model.parameters()).device
        place = CROSS if hasattr(model, "decoder") else ENCODER
        with eval_mode(model):
            for batch, targets in loader:
                batch, targets = batch.to(device), [target.to(device) for target in targets]
                with recorded_looks(model, place, keep=_reduced) as looks:
                    stages = model.stages(batch)
                matches = criterion.matcher(stages.output, targets)
                references = getattr(getattr(stages, "decoded", None), "references", ())
                sparsity = [of_layer[0][0] for of_layer in looks]
                centers = [center for ((_, center),) in looks if center is not None]
                best = _best(select, stages.output, batch, targets)
                yield _Seen(
                    chosen=_chosen(batch, stages.output, targets, matches),
                    sparsity=torch.stack(sparsity) if sparsity else None,
                    attention=_distances(centers, batch, targets, matches),
                    references=_distances(references, batch, targets, matches),
                    used=_used(best, matches),
                    repeats=[np.concatenate([repeats for _, repeats in layer]) for layer in best],
                )


def watched_images(training: DetectionDataset) -> list[int]:
    """The places of the images that are looked at: a share of the training images, at even distances among those with objects."""
    places = np.repeat(np.arange(len(training)), np.diff(training.offsets))
    with_objects = np.unique(places[~training.crowd])
    count = min(len(with_objects), max(LEAST, min(MOST, math.ceil(SHARE * len(training)))))
    chosen: list[int] = with_objects[np.arange(count) * len(with_objects) // max(count, 1)].tolist()
    return chosen


def _reduced(look: Look) -> tuple[Tensor, Tensor | None]:
    """(B,) sparsity and (B, Q, 2) centres of a layer's attention."""
    return sparsity_of(look), centers_of(look)


def _chosen(batch: ImageBatch, output: Output, targets: Sequence[Target], matches: Matches) -> list[tuple[int, Tensor]]:
    """For each image its id, and (L, N) int64 on the CPU, what its objects are matched to in each layer; nothing where that tells nothing."""
    if isinstance(output, RegionOutput):  # numbered by their scores, so that one change of rank would change all
        return []
    assert batch.image_ids is not None
    counts = [len(target.labels) for target in targets]
    queries = _identities(output)[matches.images, matches.queries]  # (L, M)
    # One without a query of its own, which has too many rivals, counts as a query that nothing has.
    found = torch.full((len(queries), sum(counts)), -1, device=queries.device)
    found = found.scatter(1, matches.batch_objects.to(queries.device), queries).cpu()
    return list(zip(batch.image_ids.tolist(), torch.split(found, counts, dim=1), strict=True))


def _identities(output: Output) -> Tensor:
    """(B, Q) int64, what stays the same of a query from epoch to epoch: its place, or the token that it was made of."""
    if output.proposals is not None and output.proposals.rows is not None:
        return output.proposals.rows
    batch, queries = output.logits.shape[1:3]
    return torch.arange(queries, device=output.logits.device).expand(batch, -1)


def _distances(
    places: Sequence[Tensor], batch: ImageBatch, targets: Sequence[Target], matches: Matches
) -> Tensor | None:
    """How far from the centres of their boxes the matched queries are.

    Args:
        places: of each of L layers (B, Q, 2 or more), x and y as fractions of the image without its padding; may be empty.
        batch: the images.
        targets: their objects.
        matches: of L layers.

    Returns:
        (L, M) in halves of the boxes' diagonals, which are at least a pixel long; None without places.
    """
    if not places:
        return None
    points = torch.stack([layer[..., :2] for layer in places])[matches.layers, matches.images, matches.queries]
    sizes = batch.image_sizes()[matches.images]  # (L, M, 2)
    boxes_cxcywh = torch.cat([target.boxes_cxcywh for target in targets])[matches.batch_objects]  # (L, M, 4)
    apart = torch.linalg.vector_norm((points - boxes_cxcywh[..., :2]) * sizes, dim=-1)
    halves = torch.linalg.vector_norm(boxes_cxcywh[..., 2:] * sizes, dim=-1) / 2
    return apart / halves.clamp(min=_SMALLEST_HALF)  # type: ignore[no-any-return]


def _best(
    select: Selection, output: Output, batch: ImageBatch, targets: Sequence[Target]
) -> list[list[tuple[list[int], NDArray[np.bool_]]]]:
    """For each layer and image as many of the best detections as the image has objects: their queries, and which repeat a better one."""
    assert batch.original_sizes is not None
    # What has a single layer may select by more than its scores and boxes, as TSP does.
    outputs: list[Any] = [*output.layers[:-1], output]
    found = []
    for layer in outputs:
        of_images = []
        for detections, target in zip(select(layer, batch.original_sizes), targets, strict=True):
            count = len(target.labels)
            boxes_xyxy, labels = detections.boxes_xyxy[:count].cpu().numpy(), detections.labels[:count].cpu().numpy()
            repeats = ~kept_by_nms(boxes_xyxy, labels, REPEATS_FROM)
            of_images.append((detections.queries[:count].tolist(), repeats))
        found.append(of_images)
    return found


def _used(best: Sequence[Sequence[tuple[list[int], Any]]], matches: Matches) -> list[set[int]]:
    """For each layer the queries with an object, and those of the best detections."""
    used = [set(queries) for queries in matches.queries.tolist()]
    for queries, layer in zip(used, best, strict=True):
        queries.update(*(of_image for of_image, _ in layer))
    return used


def _joined(parts: Iterator[Tensor | None]) -> list[Tensor]:
    """For each layer, the values of all batches; empty where the model has none."""
    known = [part for part in parts if part is not None]
    return list(torch.cat(known, dim=1)) if known else []


def _medians(layers: Sequence[Tensor]) -> list[float]:
    """Half of the objects are closer; not a number where there are none."""
    return [float(np.median(layer.cpu().numpy())) if len(layer) else math.nan for layer in layers]


def _columns(measure: Measure, layers: Sequence[float], in_all: float) -> dict[str, float]:
    """The columns of the log, none without layers."""
    if not layers:
        return {}
    return {measure.column: in_all} | {layer_column(measure, layer): value for layer, value in enumerate(layers)}
