"""One look of a model at a batch: the detections, and on request the masks of those that matter, and panoptic segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.layers.mask_selection import PANOPTIC_THRESHOLD, MaskSelection
from detrkit.models.catalog import Selection
from detrkit.models.detector import Detector
from detrkit.panoptic import PanopticSegmentation
from detrkit.structures import Detections, ImageBatch


@dataclass(frozen=True, eq=False)
class Look:
    """What a model made of a batch.

    Attributes:
        select: the model's selection.
        output: of the model, on its device.
        batch: the images, on the same device.
        selected: the detections of each image, on the same device, without masks.
        detections: the same on the CPU.
    """

    select: Selection
    output: Any
    batch: ImageBatch
    selected: list[Detections]
    detections: list[Detections]

    @torch.inference_mode()
    def kept(self, rows: Sequence[np.ndarray]) -> list[Detections]:
        """Some of the detections, with their masks if the model has masks; on the CPU.

        Args:
            rows: of each image, (N,) bool or (M,) int64 rows of its detections.
        """
        chosen = [torch.from_numpy(each) for each in rows]
        if not isinstance(self.select, MaskSelection):
            return [_rows(found, each) for found, each in zip(self.detections, chosen, strict=True)]
        found = [_rows(found, each.to(found.scores.device)) for found, each in zip(self.selected, chosen, strict=True)]
        masked = self.select.with_masks(self.output, found, self.batch.image_sizes(), self._original_sizes())
        return [each.to("cpu") for each in masked]

    @torch.inference_mode()
    def panoptic(self, threshold: float | None = None) -> list[PanopticSegmentation]:
        """The segments of each image.

        Args:
            threshold: score above which a query becomes a segment; None means the paper's.

        Raises:
            ConfigurationError: the model has no masks.
        """
        if not isinstance(self.select, MaskSelection):
            raise ConfigurationError(
                "The model finds boxes and no masks, so there are no segments: use a model with masks."
            )
        return self.select.panoptic(
            self.output,
            self.batch.image_sizes(),
            self._original_sizes(),
            threshold=PANOPTIC_THRESHOLD if threshold is None else threshold,
        )

    def _original_sizes(self) -> torch.Tensor:
        if self.batch.original_sizes is None:
            raise ValueError("boxes in pixels need the images' original sizes")
        return self.batch.original_sizes


@torch.inference_mode()
def look(model: Detector, select: Selection, batch: ImageBatch) -> Look:
    """Runs a model on a batch, on whichever device the model is.

    Args:
        model: runs in its current mode.
        select: the model's selection.
        batch: must have `original_sizes`.

    Raises:
        NonFiniteError: scores or boxes are NaN or infinite.
    """
    parameter = next(model.parameters())
    batch = batch.to(parameter.device, parameter.dtype)
    if batch.original_sizes is None:
        raise ValueError("boxes in pixels need the images' original sizes")
    output = model(batch)
    selected = select(output, batch.original_sizes)
    detections = [each.to("cpu") for each in selected]
    if not all(each.scores.isfinite().all() and each.boxes_xyxy.isfinite().all() for each in detections):
        raise NonFiniteError(
            "The model produces scores or boxes that are NaN or infinite: its weights are damaged; load others."
        )
    return Look(select, output, batch, selected, detections)


def _rows(detections: Detections, rows: torch.Tensor) -> Detections:
    return Detections(
        scores=detections.scores[rows],
        labels=detections.labels[rows],
        boxes_xyxy=detections.boxes_xyxy[rows],
        queries=detections.queries[rows],
    )
