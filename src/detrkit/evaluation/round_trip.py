"""Perfect detections, made of the annotations themselves, through the whole pipeline: AP 1 shows that nothing is lost on the way.

The boxes are clipped and made relative as in training, given to the models' post-processing as if they had been predicted, turned back into
pixels, written as result entries and compared by COCO's evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detrkit.coco_limits import MAX_DETECTIONS
from detrkit.data.dataset import DetectionDataset
from detrkit.data.inspection import Finding, Split, finding
from detrkit.data.inspection.finding import places
from detrkit.data.inspection.statistics import class_counts, owners
from detrkit.data.transforms import relative_target
from detrkit.data.wording import agreeing, first_few, have, some_of
from detrkit.evaluation.coco import evaluate_detections
from detrkit.evaluation.figures import Evaluation
from detrkit.layers.selection import TopKSelection
from detrkit.prediction.results import result_entry
from detrkit.structures import LayerOutput, Target

_CERTAIN = 10.0  # logit of the right class; the others have its negative
_TOLERANCE = 1e-6
_HIGHEST_IOU = 0.95  # that COCO's AP asks for


@dataclass(frozen=True)
class RoundTrip:
    """The outcome of a round trip.

    Attributes:
        evaluation: the figures of perfect detections; None if all images were left out.
        left_out: number of images that were left out: they have more objects of a class than the detections that count.
        files: names of these images.
    """

    evaluation: Evaluation | None
    left_out: int
    files: tuple[str, ...] = ()

    @property
    def ap(self) -> float | None:
        """AP in [0, 1]; None if there is nothing to find."""
        return None if self.evaluation is None else self.evaluation.figures["AP"]


def round_trip(split: Split) -> RoundTrip:
    """Sends the ground truth of a split through the pipeline and compares it with itself.

    Args:
        split: has at least one image.
    """
    images, _, counts = class_counts(split)
    crowded = np.unique(images[counts > MAX_DETECTIONS])
    kept = np.setdiff1d(np.arange(len(split.dataset)), crowded)
    files = split.files(crowded)
    if not kept.size:
        return RoundTrip(None, len(crowded), files)
    dataset = split.dataset.subset(kept) if crowded.size else split.dataset
    entries = [entry for index in range(len(dataset)) for entry in perfect_entries(dataset, index)]
    return RoundTrip(evaluate_detections(dataset.to_coco(), entries, name=dataset.name), len(crowded), files)


def perfect_entries(dataset: DetectionDataset, index: int) -> list[dict[str, Any]]:
    """The result entries of a model that finds all objects of an image.

    Args:
        dataset: images and objects.
        index: position of the image.
    """
    height, width = dataset.sizes[index].tolist()
    target = relative_target(dataset.objects(index), height, width)
    if not len(target.labels):
        return []
    select = TopKSelection(limit=len(target.labels))
    (detections,) = select(_prediction(target, len(dataset.categories)), torch.tensor([[height, width]]))
    rows = zip(detections.labels.tolist(), detections.boxes_xyxy.tolist(), detections.scores.tolist(), strict=True)
    image_id = int(dataset.image_ids[index])
    return [result_entry(image_id, dataset.categories[label].id, box, score) for label, box, score in rows]


def round_trip_findings(split: Split, outcome: RoundTrip) -> list[Finding]:
    """An error if perfect detections do not reach AP 1, with what makes it so, and a note about images that were left out."""
    return [*_lost(split, outcome), *_left_out(split, outcome)]


def _left_out(split: Split, outcome: RoundTrip) -> list[Finding]:
    if not outcome.left_out:
        return []
    message = (
        f"{outcome.left_out} of {len(split.dataset)} images {have(outcome.left_out)} more than {MAX_DETECTIONS} objects of one class, and "
        f"{'was' if outcome.left_out == 1 else 'were'} left out of the round trip {places(outcome.files)}."
    )
    return [finding("round-trip-left-out", split.name, message, count=outcome.left_out, files=outcome.files)]


def _lost(split: Split, outcome: RoundTrip) -> list[Finding]:
    if outcome.evaluation is None or outcome.ap is None or outcome.ap > 1 - _TOLERANCE:
        return []
    rows = np.flatnonzero(_visible_shares(split.dataset) < _HIGHEST_IOU)
    files = split.files(owners(split)[rows])
    if len(rows):
        reason = (
            f"{some_of(len(rows), len(split.dataset.labels), 'box', 'boxes')} {agreeing(len(rows), 'loses', 'lose')} more than a twentieth of the area at the picture's edge, where "
            f"training and models end {places(files)}"
        )
    else:
        low = [each for each in outcome.evaluation.classes if each.ap is not None and each.ap <= 1 - _TOLERANCE]
        reason = "the classes below 1 are " + first_few([f"{each.name} ({each.ap:.4f})" for each in low])
    message = f"Perfect detections reach AP {_below_one(outcome.ap)} only: {reason}."
    return [finding("round-trip", split.name, message, count=max(1, len(rows)), files=files)]


def _prediction(target: Target, classes: int) -> LayerOutput:
    """What a decoder layer predicts that is certain of every object."""
    logits = torch.full((len(target.labels), classes), -_CERTAIN)
    logits[torch.arange(len(target.labels)), target.labels] = _CERTAIN
    return LayerOutput(logits=logits[None], boxes_cxcywh=target.boxes_cxcywh[None])


def _visible_shares(dataset: DetectionDataset) -> NDArray[np.float64]:
    """(N,) the share of each box that lies in its picture; 1 for crowd regions, which count neither way."""
    boxes = dataset.boxes_xyxy
    limits = np.repeat(dataset.sizes[:, ::-1], np.diff(dataset.offsets), axis=0)
    inside = np.clip(boxes[:, 2:], 0, limits) - np.clip(boxes[:, :2], 0, limits)
    shares = np.prod(inside, axis=1) / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return np.where(dataset.crowd, 1.0, shares)


def _below_one(value: float) -> str:
    """Four decimals, or more where these would round to 1."""
    return next((text for digits in (4, 6) if float(text := f"{value:.{digits}f}") < 1), str(value))
