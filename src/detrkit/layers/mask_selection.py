"""From a detector's output to masks of detections, and to one segment for every pixel (DETR, section 4.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.cards import Category
from detrkit.errors import NonFiniteError
from detrkit.layers.precision import at_least_float32
from detrkit.panoptic import VOID, PanopticSegmentation, Segment
from detrkit.structures import Detections, LayerOutput, Output

PANOPTIC_THRESHOLD = 0.85  # the authors' choice for queries that become segments
_SMALLEST_SEGMENT = 5  # pixels
_MASKS_AT_ONCE = 16


class BoxSelection(Protocol):
    """What a paper selects from an output."""

    def __call__(self, output: Output | LayerOutput, original_sizes: Tensor) -> list[Detections]:
        """The detections of each image."""

    def class_scores(self, logits: Tensor) -> Tensor:
        """(..., classes) what would be reported for each class, from logits (..., K)."""

    def best_classes(self, output: Output) -> tuple[Tensor, Tensor]:
        """(B, Q) score and label of each query's best class; of papers with a no-object class, 0 where that is more probable."""


class MaskSelection:
    """A paper's detections, the masks of those that are asked for, and panoptic segmentations.

    Args:
        boxes: selects the detections.
        categories: the classes; each label that is detected has one.
        mask_logits: computes (P, h, w) logits from an output's mask inputs, (P,) images and (P,) queries.
    """

    def __init__(
        self,
        boxes: BoxSelection,
        categories: Sequence[Category],
        *,
        mask_logits: Callable[[Any, Tensor, Tensor], Tensor],
    ) -> None:
        self.boxes, self.mask_logits = boxes, mask_logits
        self.categories = {category.index: category for category in categories}

    def __call__(self, output: Output | LayerOutput, original_sizes: Tensor) -> list[Detections]:
        """The paper's detections, without masks."""
        return self.boxes(output, original_sizes)

    def with_masks(
        self, output: Any, detections: Sequence[Detections], image_sizes: Tensor, original_sizes: Tensor
    ) -> list[Detections]:
        """Adds the mask of each detection.

        Args:
            output: the detector's output that the detections come from.
            detections: of each image; leave out those that do not matter, since masks take time.
            image_sizes: (B, 2) width and height of each image in the batch without its padding, see `ImageBatch.image_sizes`.
            original_sizes: (B, 2) height and width of the pictures, which masks get.
        """
        results = []
        for image, found in enumerate(detections):
            size, own_size = _height_and_width(original_sizes[image]), _height_and_width(image_sizes[image].flip(0))
            queries, places = torch.unique(
                found.queries, return_inverse=True
            )  # some papers report a query with several classes
            masks = [
                _resized(self.on_image(part, output.mask_inputs.image_size, own_size) > 0, size, at_centre=False)
                for part in self._logits(output, image, queries)
            ]
            empty = torch.zeros((0, *size), dtype=torch.bool, device=found.scores.device)
            results.append(replace(found, masks=torch.cat([empty, *masks])[places]))
        return results

    def panoptic(
        self,
        output: Any,
        image_sizes: Tensor,
        original_sizes: Tensor,
        *,
        threshold: float = PANOPTIC_THRESHOLD,
    ) -> list[PanopticSegmentation]:
        """One segment for every pixel: that of the query whose mask has the highest score there, among queries with a class.

        Queries of the same stuff are one segment. Segments of fewer than 5 pixels are left out, and their pixels go to the others.

        Args:
            output: the detector's output.
            image_sizes: as in `with_masks`.
            original_sizes: as in `with_masks`.
            threshold: score above which a query becomes a segment.
        """
        scores, labels = self.boxes.best_classes(output)
        results = []
        for image in range(len(scores)):
            size, own_size = _height_and_width(original_sizes[image]), _height_and_width(image_sizes[image].flip(0))
            queries = (scores[image] > threshold).nonzero()[:, 0]
            logits = [
                self.on_image(part, output.mask_inputs.image_size, own_size)
                for part in self._logits(output, image, queries)
            ]
            masks = torch.cat([scores.new_zeros(0, *own_size), *logits])
            results.append(self._segmentation(masks, scores[image, queries], labels[image, queries], size))
        return results

    def on_image(self, logits: Tensor, batch_size: tuple[int, int], own_size: tuple[int, int]) -> Tensor:
        """Masks at the size of an image in the batch.

        Args:
            logits: (P, h, w) over the padded batch.
            batch_size: height and width of the padded batch.
            own_size: height and width of the image without its padding.

        Returns:
            (P, height, width) logits.
        """
        large = F.interpolate(logits[:, None], batch_size, mode="bilinear")[:, 0]
        return large[:, : own_size[0], : own_size[1]]

    def _logits(self, output: Any, image: int, queries: Tensor) -> list[Tensor]:
        """The masks of one image's queries, a few at a time.

        Raises:
            NonFiniteError: they are NaN or infinite.
        """
        parts = torch.split(queries, _MASKS_AT_ONCE) if len(queries) else ()
        masks = [
            at_least_float32(self.mask_logits(output.mask_inputs, torch.full_like(part, image), part)) for part in parts
        ]
        if not all(part.isfinite().all() for part in masks):
            raise NonFiniteError(
                "The model produces masks that are NaN or infinite: its weights are damaged; load others."
            )
        return masks

    def _segmentation(
        self, masks: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int]
    ) -> PanopticSegmentation:
        """The segments of one image, given (K, h, w) logits, scores and labels of the queries that may have one."""
        owners = torch.full(size, -1, dtype=torch.int64, device=masks.device)
        first = True
        while len(masks):
            groups = self.groups(labels.tolist(), first=first)
            segments = torch.tensor(groups, device=masks.device)
            owners = _resized(segments[masks.argmax(0)][None], size, at_centre=True)[0]
            areas = torch.bincount(owners.flatten(), minlength=len(masks))
            small = self.areas_of_queries(areas, segments) < _SMALLEST_SEGMENT
            if not small.any():
                break
            masks, scores, labels, first = masks[~small], scores[~small], labels[~small], False
            owners = torch.full_like(owners, -1)
        return self._named(owners, scores, labels)

    def groups(self, labels: Sequence[int], *, first: bool) -> list[int]:  # noqa: ARG002 - the authors merge in the first round only
        """For each query the first one that its segment belongs to: queries of the same stuff share a segment.

        Args:
            labels: of the queries.
            first: whether no query has been left out yet.
        """
        first_of_stuff: dict[int, int] = {}
        return [
            row if self.categories[label].thing else first_of_stuff.setdefault(label, row)
            for row, label in enumerate(labels)
        ]

    def areas_of_queries(self, areas: Tensor, segments: Tensor) -> Tensor:
        """Pixels of the segment of each query, given the pixels of each number and the segments' numbers."""
        return areas[segments]

    def _named(self, owners: Tensor, scores: Tensor, labels: Tensor) -> PanopticSegmentation:
        """The result with ids from 1, given the number of the query that each pixel belongs to, or -1."""
        numbers, areas = torch.unique(owners[owners >= 0], return_counts=True)
        ids = torch.full((len(labels) + 1,), VOID, dtype=torch.int32, device=owners.device)
        ids[numbers + 1] = torch.arange(1, len(numbers) + 1, dtype=torch.int32, device=owners.device)
        segments = tuple(
            Segment(id=place, category=self.categories[label], area=area, score=score)
            for place, (label, area, score) in enumerate(
                zip(labels[numbers].tolist(), areas.tolist(), scores[numbers].tolist(), strict=True), start=1
            )
        )
        return PanopticSegmentation(ids[owners + 1].cpu().numpy(), segments)


def _height_and_width(size: Tensor) -> tuple[int, int]:
    height, width = size.tolist()
    return int(height), int(width)


def _resized(values: Tensor, size: tuple[int, int], *, at_centre: bool) -> Tensor:
    """(P, h, w) integers or bools at another size. The authors take a pixel's value at its corner in masks, at its centre in segments."""
    half = int(at_centre)
    rows, columns = (
        (2 * torch.arange(new, device=values.device) + half) * old // (2 * new)
        for old, new in zip(values.shape[1:], size, strict=True)
    )
    return values[:, rows[:, None], columns]
