"""What COCO's figures do not say: which thresholds to use, what goes wrong, where, and how certain the figures are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detrkit.coco_limits import MAX_DETECTIONS
from detrkit.data.wording import agreeing, are, counted, have, some_of
from detrkit.errors import ConfigurationError
from detrkit.evaluation.bootstrap import (
    CONFIDENCE,
    LEAST_IMAGES,
    Intervals,
    bootstrap_intervals,
    resamples_within_reason,
)
from detrkit.evaluation.coco import evaluation_of
from detrkit.evaluation.confusion import ConfusionMatrix, confusion_matrix
from detrkit.evaluation.errors import (
    KINDS,
    NEAR,
    ErrorCounts,
    ImageErrors,
    count_errors,
    error_costs,
    find_kinds,
    images_by_errors,
)
from detrkit.evaluation.figures import Evaluation, check_max_detections
from detrkit.evaluation.groups import Group, groups_by_crowdedness, groups_by_size
from detrkit.evaluation.inputs import Inputs, read_inputs
from detrkit.evaluation.outcomes import Outcomes, outcomes, overlaps
from detrkit.evaluation.thresholds import (
    WITHOUT_CORRECT,
    ClassOperation,
    Curve,
    best_thresholds,
    class_operations,
    operating_thresholds,
    threshold_curves,
)
from detrkit.notebooks import paragraph, shown, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    def __repr__(self) -> str:
        errors = self.errors
        return (
            f"<Analysis {self.name}: {some_of(errors.correct, errors.detections, 'detection')} correct, "
            f"{some_of(errors.correct, errors.objects, 'object')} found, {counted(len(self.classes), 'class', 'classes')}>"
        )

    def _repr_html_(self) -> str:
        """What notebooks show: errors by kind, then what the threshold of each class gives, lowest F1 first."""
        errors = self.errors
        basis = (
            f"At the thresholds of the classes (IoU 0.50), {some_of(errors.correct, errors.detections, 'detection')} "
            f"{are(errors.correct)} correct and {some_of(errors.correct, errors.objects, 'object')} found."
        )
        kinds = [(kind, errors.counts[kind], errors.costs.get(kind), meaning) for kind, meaning in KINDS.items()]
        measured = sorted((entry for entry in self.classes if entry.f1 is not None), key=lambda entry: entry.f1 or 0.0)
        columns = ("class, lowest F1 first", "objects", "threshold", "precision", "recall", "F1")
        rows = [
            (entry.name, entry.objects, entry.threshold, entry.precision, entry.recall, entry.f1) for entry in measured
        ]
        return shown(
            f"Errors: {self.name}",
            paragraph(basis),
            table(("error", "number", "AP50 it costs", "meaning"), kinds),
            table(columns, rows) if rows else "",
            *(paragraph(f"Note: {note}") for note in self.notes),
        )

    def plot(self) -> Figure:
        """Precision, recall and F1 of all classes together against the threshold. Notebooks show the figure."""
        from detrkit.evaluation.report.analysis_charts import overall_curve_figure  # not above: it needs matplotlib
        from detrkit.evaluation.report.drawing import on_white

        return on_white(overall_curve_figure(self))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file: the attributes by their names, without the boxes of `images`; what is unknown is null."""
        value = asdict(self)
        for image in value["images"]:
            del image["marks"]
        return value


def analyze(
    ground_truth: dict[str, Any] | str | Path,
    detections: Sequence[dict[str, Any]] | str | Path,
    *,
    name: str | None = None,
    notes: Sequence[str] = (),
    max_detections: int = MAX_DETECTIONS,
    resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Analysis:
    """Compares box detections with ground truth in detail; COCO's figures are computed by `evaluate_detections`.

    Args:
        ground_truth: as for `evaluate_detections`.
        detections: as for `evaluate_detections`.
        name: what to call the data; by default the annotation file's name.
        notes: sentences to keep with the analysis, before those about what reading left out or changed.
        max_detections: number of detections that count per image and class.
        resamples: number of draws for intervals; None means 1000, or fewer where these would take long. Each interval is that of the
            percentile bootstrap over images, see `Intervals`.
        confidence: share of the draws inside each interval.
        seed: of the draws.

    Raises:
        DataError: as for `evaluate_detections`.
        ConfigurationError: a number is out of range.
    """
    check_max_detections(max_detections)
    if resamples is not None and resamples < 1:
        raise ConfigurationError(f"{resamples} resamples give no interval: choose at least 1, or better 1000")
    if not 0 < confidence < 1:
        raise ConfigurationError(f"The confidence {confidence} is not between 0 and 1: choose one such as 0.95")
    inputs = read_inputs(ground_truth, detections, name=name)
    return analysis_of(
        inputs,
        name=name,
        notes=(*notes, *inputs.notes),
        max_detections=max_detections,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def evaluate_in_detail(
    ground_truth: dict[str, Any] | str | Path,
    detections: Sequence[dict[str, Any]] | str | Path,
    *,
    name: str | None = None,
    notes: Sequence[str] = (),
    max_detections: int = MAX_DETECTIONS,
) -> tuple[Evaluation, Analysis]:
    """What `evaluate_detections` and `analyze` return, reading the inputs once; arguments as for `evaluate_detections`."""
    check_max_detections(max_detections)
    inputs = read_inputs(ground_truth, detections, name=name)
    evaluation = evaluation_of(inputs, name=name, notes=notes, max_detections=max_detections)
    return evaluation, analysis_of(inputs, name=name, max_detections=max_detections)


def analysis_of(
    inputs: Inputs,
    *,
    name: str | None = None,
    notes: Sequence[str] = (),
    max_detections: int = MAX_DETECTIONS,
    resamples: int | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Analysis:
    """The analysis of inputs that are read already; arguments as for `analyze`."""
    near = overlaps(inputs, max_detections, least=NEAR, same_class=False)
    found = outcomes(inputs, max_detections, pairs=near)
    draws = resamples_within_reason(found) if resamples is None else resamples
    ids = inputs.class_ids.tolist()
    intervals = bootstrap_intervals(found, ids, resamples=draws, confidence=confidence, seed=seed)
    sizes = groups_by_size(inputs, max_detections, near)
    at_50 = found.at(0)
    best = best_thresholds(at_50)
    shown = at_50.scores >= operating_thresholds(at_50, best)[at_50.classes]
    kinds = find_kinds(inputs, at_50, shown, near)
    curves = threshold_curves(at_50)
    return Analysis(
        name=name or inputs.name,
        threshold=WITHOUT_CORRECT if best.overall is None else best.overall,
        classes=class_operations(at_50, best, ids, inputs.class_names),
        curve=curves.overall,
        class_curves={ids[place]: curve for place, curve in curves.of_classes.items()},
        mean_f1=curves.mean_f1,
        intervals=intervals,
        confusion=confusion_matrix(inputs, at_50, shown, near),
        errors=count_errors(at_50, kinds, error_costs(inputs, at_50, near)),
        sizes=sizes,
        crowdedness=groups_by_crowdedness(found),
        images=images_by_errors(inputs, at_50, kinds),
        notes=(*notes, *_threshold_notes(best.overall), *_size_notes(sizes), *_interval_notes(at_50, intervals)),
    )


def _threshold_notes(overall: float | None) -> list[str]:
    if overall is not None:
        return []
    return [
        f"No detection is correct at IoU 0.50, so there is no best threshold: errors are counted from score {WITHOUT_CORRECT} on."
    ]


def _size_notes(sizes: Sequence[Group]) -> list[str]:
    absent = [group for group in sizes if not group.objects]
    if len(absent) == len(sizes):
        return ["There are no objects in the ground truth, so there is no AP of any size."]
    return [
        f"There are no {group.name} objects ({group.meaning}) in the ground truth, so there is no AP of this size."
        for group in absent
    ]


def _interval_notes(found: Outcomes, intervals: Intervals) -> list[str]:
    with_objects = len(np.unique(found.object_images))
    if not intervals.figures:
        few = f"only {counted(with_objects, 'image')} {have(with_objects)} objects, and fewer than {LEAST_IMAGES} say nothing about others"
        return [f"There are no intervals: {few}."] if with_objects else []
    present = int(np.count_nonzero(found.object_counts()))
    without = present - len(intervals.class_ap)
    if not without:
        return []
    return [
        f"No interval for {some_of(without, present, 'class', 'classes')}: {agreeing(without, 'its', 'their')} objects are in fewer than {LEAST_IMAGES} images."
    ]
