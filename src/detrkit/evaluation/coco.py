"""Compares result entries with ground truth, both in COCO's format: the figures of pycocotools, and errors that say what is wrong."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from detrkit.data.coco_layout import picture_is_turned
from detrkit.data.coco_outside import without_boxes_outside_stated
from detrkit.data.coco_truth import Truth, checked_lists, read_truth
from detrkit.data.wording import counted_of
from detrkit.errors import DataError
from detrkit.evaluation.figures import MEANINGS, ClassFigures, Evaluation, counted
from detrkit.files import expanded

# Indices into the evaluator's arrays: IoU 0.50, objects of all sizes, 100 detections per image.
IOU_50, ALL_SIZES, TOP_100 = 0, 0, -1
MAX_DETECTIONS = 100  # per image; COCO ignores the others


def evaluate_detections(
    ground_truth: dict[str, Any] | str | Path,
    detections: Sequence[dict[str, Any]] | str | Path,
    *,
    name: str | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Compares box detections with ground truth as COCO does: every image counts, including those without detections.

    Args:
        ground_truth: an annotation file in COCO's format, or its contents. It is read as data sets read it: an area that
            is missing or not above 0 is that of the box, and boxes without area or wholly outside their image are left out.
        detections: a result file, or its entries: `image_id`, `category_id`, `bbox` as [x, y, width, height] in pixels, `score`,
            with the ids of the annotation file, which may be texts. Only the 100 best of each image count.
        name: what to call the data in tables; by default the annotation file's name.
        notes: sentences to keep with the figures.

    Raises:
        DataError: a file cannot be read, or an entry is malformed, not finite, or of an image or category that the ground truth lacks.
    """
    truth_name, truth = _named_contents(ground_truth, name or "the given ground truth")
    results_name, results = _named_contents(detections, "the given detections")
    truth, stated = _read_truth(truth, truth_name, None if isinstance(ground_truth, dict) else Path(ground_truth))
    results = _checked_results(results, results_name, stated, truth_name)
    evaluator = _evaluated(truth, results)
    crowds = sum(annotation["iscrowd"] for annotation in truth["annotations"])
    return Evaluation(
        name=name or Path(truth_name).stem,
        figures={key: _figure(value) for key, value in zip(MEANINGS, evaluator.stats, strict=True)},
        classes=_class_figures(evaluator, truth),
        images=len(truth["images"]),
        objects=len(truth["annotations"]) - crowds,
        crowds=crowds,
        detections=len(results),
        best_threshold=best_threshold(
            *(evaluator.eval[key][IOU_50, :, :, ALL_SIZES, TOP_100] for key in ("precision", "scores"))
        ),
        notes=(*notes, *stated.notes, *_crowded_note(truth)),
    )


def best_threshold(precisions: NDArray[np.float64], scores: NDArray[np.float64]) -> float | None:
    """The lowest score to keep for the best mean of the classes' F1.

    Args:
        precisions: (R, K) precision of K classes at R recalls evenly spaced from 0 to 1; -1 for a class without ground truth.
        scores: (R, K) the score at which each recall is reached; 0 if it is not reached, -1 for a class without ground truth.

    Returns:
        One of the scores, the lowest if several are equally good; None if there is no correct detection.
    """
    recalls = np.linspace(0.0, 1.0, len(precisions))
    candidates = np.unique(scores[precisions > 0])
    if not candidates.size:
        return None
    sums = np.zeros(len(candidates))
    for precision, score in zip(precisions.T, scores.T, strict=True):
        # Scores fall as recall rises: a candidate reaches the last recall whose score is still high enough.
        last = np.searchsorted(-score, -candidates, side="right") - 1
        reached = np.where(last >= 0, recalls[last], 0.0)
        sums += 2 * precision[last] * reached / np.maximum(precision[last] + reached, np.finfo(float).tiny)
    return float(candidates[sums.argmax()])


def _crowded_note(truth: dict[str, Any]) -> list[str]:
    """A sentence if some images have more objects than the number of detections that count."""
    counts = Counter(entry["image_id"] for entry in truth["annotations"] if not entry["iscrowd"])
    crowded = [image_id for image_id, number in counts.items() if number > MAX_DETECTIONS]
    if not crowded:
        return []
    number = counted(len(crowded), "image")
    return [
        f"More than {MAX_DETECTIONS} objects are annotated in {number} (such as {crowded[0]}), but only {MAX_DETECTIONS} detections "
        "per image count."
    ]


def _evaluated(truth: dict[str, Any], results: list[dict[str, Any]]) -> COCOeval_faster:
    ground_truth = COCO(truth)
    evaluator = COCOeval_faster(ground_truth, ground_truth.loadRes(results), "bbox")
    evaluator.run()
    return evaluator


def _class_figures(evaluator: COCOeval_faster, truth: dict[str, Any]) -> tuple[ClassFigures, ...]:
    precision = evaluator.eval["precision"][:, :, :, ALL_SIZES, TOP_100]  # (IoU, recall, class)
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


def _named_contents(source: Any, default_name: str) -> tuple[str, Any]:
    """A name for messages and the contents: of a JSON file, or of a value that is already in memory."""
    if not isinstance(source, str | Path):
        return default_name, source
    try:
        return str(source), json.loads(expanded(source).read_bytes())
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error.strerror}): give the path of a JSON file.") from error
    except ValueError as error:
        raise DataError(
            f"{source} is not valid JSON ({error}): it may have been cut off while it was written or copied; create or copy it again."
        ) from error
    except RecursionError:
        raise DataError(f"{source} is nested too deeply to be annotations or results: create it again.") from None


def _read_truth(truth: Any, source: str, file: Path | None) -> tuple[dict[str, Any], Truth]:
    """What the evaluator gets, as plain numbers, and what it was made of; read as data sets read it.

    Annotations are numbered from 1, because the evaluator takes the id 0 for "not matched".
    """
    lists = checked_lists(truth, source)
    if not lists["images"]:
        raise DataError(f"{source} lists no images: there is nothing to evaluate.")
    checked = read_truth(lists, source)
    table, outside_notes = without_boxes_outside_stated(
        checked.table, lists["images"], partial(_is_turned, file), source
    )
    checked = replace(checked, table=table, notes=(*checked.notes, *outside_notes))
    image_ids = np.array(checked.images.numbers, dtype=np.int64)[table.image_positions]
    boxes_xywh = np.concatenate([table.boxes_xyxy[:, :2], table.boxes_xyxy[:, 2:] - table.boxes_xyxy[:, :2]], axis=1)
    columns = (image_ids, table.category_ids, boxes_xywh, table.areas, table.crowd.astype(np.int64))
    names = ("image_id", "category_id", "bbox", "area", "iscrowd")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    annotations = [{"id": number, **dict(zip(names, row, strict=True))} for number, row in enumerate(rows, start=1)]
    categories = [
        {"id": number, "name": name}
        for number, name in zip(checked.categories.numbers, checked.category_names, strict=True)
    ]
    images = [{"id": number} for number in checked.images.numbers]
    return {"images": images, "annotations": annotations, "categories": categories}, checked


def _is_turned(file: Path | None, image: dict[str, Any]) -> bool | None:
    """Whether an image's picture is turned by its EXIF orientation; None if that is not known."""
    return None if file is None else picture_is_turned(file, str(image.get("file_name")))


def _checked_results(results: Any, source: str, truth: Truth, truth_source: str) -> list[dict[str, Any]]:
    if isinstance(results, str | bytes | dict) or not isinstance(results, Iterable):
        raise DataError(f"{source} is not a list of results: each entry needs image_id, category_id, bbox and score.")
    checked: list[dict[str, Any]] = []
    errors: list[DataError] = []
    for index, entry in enumerate(results):
        try:
            checked.append(_checked_result(entry, f"{source}, entry {index} (counting from 0)", truth, truth_source))
        except DataError as error:
            errors.append(error)
    if errors:
        total = len(checked) + len(errors)
        more = f" ({counted_of(len(errors), total, 'entries')} cannot be used.)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{more}")
    return checked


def _checked_result(entry: Any, where: str, truth: Truth, truth_source: str) -> dict[str, Any]:
    """The image, category, box and score of a result, as plain numbers."""
    if not isinstance(entry, dict):
        raise DataError(f"{where} is {str(entry)[:40]!r}, not an object with image_id, category_id and bbox.")
    if entry.get("segmentation") and not entry.get("bbox"):
        raise DataError(
            f"{where} has a segmentation and no bbox: only boxes are compared, so every entry needs a bbox [x, y, width, height]."
        )
    checked: dict[str, Any] = {}
    for key, ids, noun in (("image_id", truth.images, "image"), ("category_id", truth.categories, "category")):
        value = _value(entry, key, where)
        checked[key] = ids.find(value)
        if checked[key] is None:
            known = (
                f"its ids run from {min(ids.numbers)} to {max(ids.numbers)}"
                if ids.own is None
                else f"its ids are such as {ids.own[0]!r}"
            )
            raise DataError(
                f"{where} has {key} {value!r}, but {truth_source} has no such {noun} ({known}, {len(ids.numbers)} in all): "
                "use results and annotations that belong together."
            )
    box = _value(entry, "bbox", where)
    if not hasattr(box, "__len__") or len(box) != 4:
        raise DataError(f"{where} has the bbox {box!r}, which is not [x, y, width, height] in pixels.")
    checked["bbox"] = [_number(value, where, "bbox") for value in box]
    if min(checked["bbox"][2:]) < 0:
        raise DataError(
            f"{where} has a bbox of negative size, {checked['bbox']}: write it as [x, y, width, height] in pixels."
        )
    checked["score"] = _number(_value(entry, "score", where), where, "score")
    return checked


def _value(entry: dict[str, Any], key: str, where: str) -> Any:
    if key not in entry:
        raise DataError(f"{where} has no '{key}': every entry needs one.")
    return entry[key]


def _number(value: Any, where: str, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise DataError(f"{where} has {value!r} as {key}: only finite numbers can be compared.")
    return float(value)
