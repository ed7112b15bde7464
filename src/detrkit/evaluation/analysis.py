"""What COCO's figures do not say: which thresholds to use, what goes wrong, where, and how certain the figures are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from detrkit.evaluation.bootstrap import Intervals
from detrkit.evaluation.confusion import ConfusionMatrix
from detrkit.evaluation.errors import ErrorCounts, ImageErrors
from detrkit.evaluation.groups import Group
from detrkit.evaluation.thresholds import ClassOperation, Curve


@dataclass(frozen=True)
class Analysis:
    """A comparison of detections with ground truth in detail.

    Precision, recall, F1, errors and the confusion matrix count a detection as correct from IoU 0.50 on. All but the curves and the groups
    count only the detections that a user would see, from the operating threshold of their class on; detections inside crowd regions of
    their class are ignored, as in COCO's figures.

    Attributes:
        name: of the data set and split.
        threshold: the score from which detections count: the one with the best mean of the classes' F1. 0.5 if no detection is correct.
        classes: one entry per category, sorted by id, with its operating threshold and what it gives.
        curve: precision, recall and F1 of all classes' detections together against one threshold for all.
        class_curves: the same of each class that has objects, by category id.
        mean_f1: (T,) the mean of the F1 of all classes that have objects, for the thresholds of `curve`; empty if no class has any.
        intervals: how far AP, AP50 and AP75, and those of each class, would vary with other images.
        confusion: which classes are taken for which.
        errors: how many errors there are of each kind, and the AP50 that each kind costs.
        sizes: AP of small, medium and large objects, as COCO defines them; always three groups, also where there are no such objects.
        crowdedness: AP of images with few and with many objects; groups of about as many images each, fewest objects first.
        images: every image that has an error, most errors first.
        notes: sentences to read with the analysis.
    """

    name: str
    threshold: float
    classes: tuple[ClassOperation, ...]
    curve: Curve
    class_curves: dict[int, Curve]
    mean_f1: tuple[float, ...]
    intervals: Intervals
    confusion: ConfusionMatrix
    errors: ErrorCounts
    sizes: tuple[Group, ...]
    crowdedness: tuple[Group, ...]
    images: tuple[ImageErrors, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file: the attributes by their names, without the boxes of `images`; what is unknown is null."""
        value = asdict(self)
        for image in value["images"]:
            del image["marks"]
        return value
