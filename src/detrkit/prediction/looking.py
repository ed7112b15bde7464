"""One batch of pictures through a model: detections, their masks, and segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from detrkit.cards import ModelCard
from detrkit.errors import NonFiniteError
from detrkit.layers.mask_selection import MaskSelection
from detrkit.models.catalog import Selection
from detrkit.models.detector import Detector
from detrkit.panoptic import PanopticSegmentation
from detrkit.structures import Detections, ImageBatch


def knows_stuff(card: ModelCard) -> bool:
    """Whether a model was made for panoptic segmentation."""
    return any(not category.thing for category in card.categories)


class Looked(NamedTuple):
    """What a model gives for a batch, on the CPU.

    Attributes:
        detections: of each image, best first.
        segmentations: of each image, where they were asked for.
    """

    detections: list[Detections]
    segmentations: list[PanopticSegmentation] | None = None


def detect_batch(model: Detector, select: Selection, batch: ImageBatch) -> list[Detections]:
    """All detections of a batch, with masks where the model has some; arguments and errors as for `look`."""
    return look(model, select, batch).detections


@torch.inference_mode()
def look(
    model: Detector,
    select: Selection,
    batch: ImageBatch,
    *,
    least_score: float = 0.0,
    segments_from: float | None = None,
    masks: bool = True,
) -> Looked:
    """Runs a model on a batch, on whichever device the model is, and returns what it gives on the CPU.

    Args:
        model: runs in its current mode.
        select: the model's selection.
        batch: must have `original_sizes`.
        least_score: a model with masks leaves out detections with a lower score, except for the best one, since masks take time.
        segments_from: score above which a query of a model with masks becomes a segment; None asks for no segments.
        masks: whether detections get masks, if the model has some.

    Raises:
        NonFiniteError: scores or boxes are NaN or infinite.
    """
    parameter = next(model.parameters())
    batch = batch.to(parameter.device, parameter.dtype)
    if batch.original_sizes is None:
        raise ValueError("boxes in pixels need the images' original sizes")
    output = model(batch)
    found, segmentations = select(output, batch.original_sizes), None
    if isinstance(select, MaskSelection):
        sizes = (batch.image_sizes(), batch.original_sizes)
        if masks:
            found = select.with_masks(output, [_from_score(each, least_score) for each in found], *sizes)
        if segments_from is not None:
            segmentations = select.panoptic(output, *sizes, threshold=segments_from)
    detections = [each.to("cpu") for each in found]
    check_finite(detections)
    return Looked(detections, segmentations)


def check_finite(detections: Sequence[Detections]) -> None:
    """Refuses what damaged weights give.

    Raises:
        NonFiniteError: scores or boxes are NaN or infinite.
    """
    if not all(each.scores.isfinite().all() and each.boxes_xyxy.isfinite().all() for each in detections):
        raise NonFiniteError(
            "The model produces scores or boxes that are NaN or infinite: its weights are damaged; load others."
        )


def _from_score(detections: Detections, least_score: float) -> Detections:
    """Those with at least this score, and the best one in any case."""
    stays = detections.scores >= least_score
    stays[:1] = True
    return Detections(
        detections.scores[stays], detections.labels[stays], detections.boxes_xyxy[stays], detections.queries[stays]
    )
