"""Compares result entries with ground truth, both in COCO's format: the figures of pycocotools, and errors that say what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from faster_coco_eval import COCO, COCOeval_faster

from detrkit.coco_limits import MAX_DETECTIONS
from detrkit.data.wording import counted
from detrkit.evaluation.figures import (
    MEANINGS,
    ClassFigures,
    Evaluation,
    MaskFigures,
    check_max_detections,
)
from detrkit.evaluation.inputs import Inputs, read_inputs
from detrkit.evaluation.outcomes import IOU_THRESHOLDS, outcomes
from detrkit.evaluation.repeats import LEAST_SHARE, by_category, repeated_share, repeats_note, suppression_of
from detrkit.evaluation.thresholds import best_thresholds

# Indices into the evaluator's arrays: IoU 0.50, objects of all sizes, the greatest number of detections per image.
IOU_50, ALL_SIZES, MOST = 0, 0, -1


def evaluate_detections(
    ground_truth: dict[str, Any] | str | Path,
    detections: Sequence[dict[str, Any]] | str | Path,
    *,
    name: str | None = None,
    notes: Sequence[str] = (),
    max_detections: int = MAX_DETECTIONS,
) -> Evaluation:
    """Compares detections with ground truth as COCO does: every image counts, including those without detections.

    Boxes are compared, and masks too if all detections have one and the ground truth has any (`Evaluation.masks`).

    Args:
        ground_truth: an annotation file in COCO's format, or its contents. It is read as data sets read it: an area that
            is missing or not above 0 is that of the box, and boxes without area or wholly outside their image are left out.
        detections: a result file, or its entries: `image_id`, `category_id`, `bbox` as [x, y, width, height] in pixels, `score`,
            with the ids of the annotation file, which may be texts. A `segmentation`, as run lengths at the size of the picture or as
            outlines, is in all entries or in none; where it is, a missing `bbox` is the box around it.
        name: what to call the data in tables; by default the annotation file's name.
        notes: sentences to keep with the figures.
        max_detections: number of the best detections of each class that count per image.

    Raises:
        DataError: a file cannot be read, or an entry is malformed, not finite, or of an image or category that the ground truth lacks.
        ConfigurationError: `max_detections` is below 1.
    """
    check_max_detections(max_detections)
    return evaluation_of(
        read_inputs(ground_truth, detections, name=name), name=name, notes=notes, max_detections=max_detections
    )


def evaluation_of(
    inputs: Inputs, *, name: str | None = None, notes: Sequence[str] = (), max_detections: int = MAX_DETECTIONS
) -> Evaluation:
    """The figures for inputs that are read already; arguments as for `evaluate_detections`."""
    truth = inputs.truth
    masks = _masks(inputs, max_detections)  # first, as the evaluator adds outlines to boxes
    evaluator = _evaluated(inputs.truth, inputs.results, "bbox", max_detections)
    crowds = sum(annotation["iscrowd"] for annotation in truth["annotations"])
    found = outcomes(inputs, max_detections, thresholds=IOU_THRESHOLDS[:1])
    best = best_thresholds(found)
    repeated = repeated_share(inputs, found, best)
    suppression = suppression_of(inputs, max_detections) if (repeated or 0.0) >= LEAST_SHARE else None
    return Evaluation(
        name=name or inputs.name,
        figures=_figures(evaluator),
        classes=_class_figures(evaluator, truth),
        images=len(truth["images"]),
        objects=len(truth["annotations"]) - crowds,
        crowds=crowds,
        detections=len(inputs.results),
        best_threshold=best.overall,
        class_thresholds=by_category(inputs, best),
        repeated_share=repeated,
        suppression=suppression,
        masks=masks,
        notes=(
            *notes,
            *inputs.notes,
            *_crowded_note(truth, max_detections),
            *repeats_note(repeated, suppression),
        ),
    )


def _crowded_note(truth: dict[str, Any], max_detections: int) -> list[str]:
    """A sentence if some images have more objects of a class than the number of detections that count."""
    entries = (entry for entry in truth["annotations"] if not entry["iscrowd"])
    counts = Counter((entry["image_id"], entry["category_id"]) for entry in entries)
    crowded = {image_id: number for (image_id, _), number in counts.items() if number > max_detections}
    if not crowded:
        return []
    file_names = {entry["id"]: entry["file_name"] for entry in truth["images"]}
    first = min(crowded)
    where = f"{counted(len(crowded), 'image')} (such as {file_names[first] or first} with {crowded[first]})"
    return [
        f"--max-detections counts {counted(max_detections, 'detection')} of each class per image, and more objects of one class are "
        f"annotated in {where}: choose a higher number."
    ]


def _masks(inputs: Inputs, max_detections: int) -> MaskFigures | None:
    """The figures for masks, if both sides have them."""
    if not inputs.has_masks:
        return None
    # Without the boxes, so that the size of a detection is that of its mask, as for COCO.
    results = [{key: value for key, value in entry.items() if key != "bbox"} for entry in inputs.results]
    evaluator = _evaluated(inputs.truth, results, "segm", max_detections)
    return MaskFigures(_figures(evaluator), _class_figures(evaluator, inputs.truth))


def _evaluated(
    truth: dict[str, Any], results: list[dict[str, Any]], kind: Literal["bbox", "segm"], max_detections: int
) -> COCOeval_faster:
    ground_truth = COCO(truth)
    evaluator = COCOeval_faster(ground_truth, ground_truth.loadRes(results), kind)
    evaluator.params.maxDets = sorted({min(number, max_detections) for number in (1, 10, max_detections)})
    evaluator.run()
    return evaluator


def _figures(evaluator: COCOeval_faster) -> dict[str, float | None]:
    recalls = [f"AR{number}" for number in evaluator.params.maxDets]
    names = [name for name in MEANINGS if name not in ("AR1", "AR10", "AR100")]
    first_recall = names.index("AR_small")
    names[first_recall:first_recall] = recalls
    return {name: _figure(value) for name, value in zip(names, evaluator.stats, strict=True)}


def _class_figures(evaluator: COCOeval_faster, truth: dict[str, Any]) -> tuple[ClassFigures, ...]:
    precision = evaluator.eval["precision"][:, :, :, ALL_SIZES, MOST]  # (IoU, recall, class)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    objects = Counter(entry["category_id"] for entry in truth["annotations"] if not entry["iscrowd"])
    figures = []
    for index, category_id in enumerate(int(number) for number in evaluator.params.catIds):
        has_truth = bool((precision[:, :, index] > -1).any())
        precision_at_50 = precision[IOU_50, :, index]
        figures.append(
            ClassFigures(
                id=category_id,
                name=names[category_id],
                ap=float(precision[:, :, index].mean()) if has_truth else None,
                ap50=float(precision_at_50.mean()) if has_truth else None,
                objects=objects[category_id],
                precisions=tuple(precision_at_50.tolist()) if has_truth else (),
            )
        )
    return tuple(figures)


def _figure(value: float) -> float | None:
    """None for -1, which the evaluator uses where there is no ground truth."""
    return None if value < 0 else float(value)
