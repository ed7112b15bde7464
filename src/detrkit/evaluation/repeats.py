"""Detections that repeat a better one, and whether suppressing them helps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrkit.evaluation.bootstrap import (
    LEAST_IMAGES,
    Interval,
    difference_interval,
    resamples_within_reason,
)
from detrkit.evaluation.inputs import Columns, Inputs
from detrkit.evaluation.outcomes import Outcomes, outcomes
from detrkit.evaluation.precision import average_precision, mean_over_classes
from detrkit.evaluation.thresholds import BestThresholds, best_thresholds, operating_thresholds
from detrkit.prediction.suppression import REPEATS_FROM, kept_by_nms

LEAST_SHARE = 0.01  # of repeated detections, from which it is worth looking at what suppression changes


@dataclass(frozen=True)
class Suppression:
    """What non-maximum suppression within each class would change, on the same images.

    Attributes:
        iou: above which a detection that repeats a better one is left out.
        ap_before: AP of all detections, in [0, 1].
        ap: AP of those that are left, in [0, 1].
        gain: where the difference lies: the middle 95 % of a bootstrap over images in which both APs are of the same drawn images.
        best_threshold: as `Evaluation.best_threshold`, of the detections that are left.
        class_thresholds: as `Evaluation.class_thresholds`, of the detections that are left.
    """

    iou: float
    ap_before: float
    ap: float
    gain: Interval
    best_threshold: float | None
    class_thresholds: dict[int, float]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Suppression:
        """What an evaluation's JSON file says: the fields by their names, with category ids as texts."""
        own = {int(number): threshold for number, threshold in content["class_thresholds"].items()}
        return cls(**{**content, "gain": Interval(**content["gain"]), "class_thresholds": own})

    @property
    def helps(self) -> bool:
        """Whether AP rises by more than the choice of images explains: the whole interval lies above 0."""
        return self.gain.low > 0


def repeating(detections: Columns, rows: NDArray[np.int64], iou: float = REPEATS_FROM) -> NDArray[np.bool_]:
    """(M,) which of some detections repeat a better one of their image and class, as non-maximum suppression finds them.

    Args:
        detections: all of them.
        rows: (M,) those that are looked at.
        iou: above which the worse of two detections repeats the better one.
    """
    order = np.lexsort(
        (-detections.scores[rows], detections.images[rows])
    )  # stable: of equal scores the earlier is better
    ordered = rows[order]
    boxes = detections.boxes_xywh[ordered]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    images, classes = detections.images[ordered], detections.classes[ordered]
    bounds = [0, *(np.flatnonzero(np.diff(images)) + 1).tolist(), len(ordered)]
    repeats = np.zeros(len(rows), dtype=np.bool_)
    for start, end in itertools.pairwise(bounds):
        repeats[order[start:end]] = ~kept_by_nms(corners[start:end], classes[start:end], iou)
    return repeats


def repeated_share(inputs: Inputs, found: Outcomes, best: BestThresholds) -> float | None:
    """Share of the detections from their operating thresholds on that repeat a better one; None where there are none.

    Args:
        inputs: what is compared.
        found: outcomes at IoU 0.50.
        best: the thresholds.
    """
    shown = found.rows[found.scores >= operating_thresholds(found, best)[found.classes]]
    return float(repeating(inputs.detections, shown).mean()) if len(shown) else None


def suppression_of(inputs: Inputs, max_detections: int) -> Suppression | None:
    """What suppression would change; None if fewer than 5 images have objects, which say nothing about others."""
    before = outcomes(inputs, max_detections)
    if len(np.unique(before.object_images)) < LEAST_IMAGES:
        return None
    stays = ~repeating(inputs.detections, np.arange(len(inputs.detections)))
    left = replace(inputs, results=list(itertools.compress(inputs.results, stays.tolist())))
    after = outcomes(left, max_detections)
    best = best_thresholds(after.at(0))
    return Suppression(
        iou=REPEATS_FROM,
        ap_before=_ap(before),
        ap=_ap(after),
        gain=difference_interval(before, after, resamples=resamples_within_reason(before)),
        best_threshold=best.overall,
        class_thresholds=by_category(inputs, best),
    )


def by_category(inputs: Inputs, best: BestThresholds) -> dict[int, float]:
    """The classes' own thresholds by category id."""
    return {int(inputs.class_ids[place]): threshold for place, threshold in best.own.items()}


def repeats_note(share: float | None, suppression: Suppression | None) -> list[str]:
    """A sentence if suppression helps, and the figures that it shows tell so."""
    if share is None or suppression is None or not suppression.helps:
        return []
    before, now = f"{suppression.ap_before:.3f}", f"{suppression.ap:.3f}"
    if before == now:
        return []
    return [
        f"{share:.0%} of detections repeat a better one of their class: train longer, or suppress them by --nms {suppression.iou:g} "
        f"(AP {now} instead of {before})."
    ]


def _ap(found: Outcomes) -> float:
    return float(mean_over_classes(average_precision(found)).mean())
