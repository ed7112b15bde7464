"""Ground truth and detections as an evaluation takes them, checked down to the last number, and as columns."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detrkit.data.coco_layout import picture_is_turned
from detrkit.data.coco_outside import without_boxes_outside_stated
from detrkit.data.coco_truth import Truth, checked_lists, read_truth
from detrkit.data.coco_values import given_box, is_finite
from detrkit.data.wording import have, some_of
from detrkit.errors import DataError
from detrkit.files import expanded

_SAME_CORNER = 0.01  # pixels
Sizes = Mapping[int, tuple[int, int] | None]  # height and width of images by number


@dataclass(frozen=True, eq=False)
class Columns:
    """Boxes of objects or of detections, as columns.

    Attributes:
        images: (N,) int64, places of their images in `Inputs.image_ids`.
        classes: (N,) int64, places of their classes in `Inputs.class_ids`.
        boxes_xywh: (N, 4) float64 pixels.
        areas: (N,) float64 square pixels; of detections those of their boxes.
        crowd: (N,) bool; False for detections.
        scores: (N,) float64; 0 for objects.
    """

    images: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is compared: ground truth as data sets read it, and checked detections, both with plain numbers.

    Attributes:
        name: of the ground truth, if it comes from a file its name without folder and ending.
        truth: `images` with their ids and file names (empty where unknown), `annotations` (numbered from 1, because the evaluator takes the
            id 0 for "not matched") and `categories`.
        results: entries with `image_id`, `category_id`, `bbox` and `score`.
        notes: what the reader had to drop or change.
        has_masks: whether masks can be compared: the entries of both sides then have a `segmentation` of compressed run lengths, with the
            height and width of their image.
    """

    name: str
    truth: dict[str, list[dict[str, Any]]]
    results: list[dict[str, Any]]
    notes: tuple[str, ...]
    has_masks: bool = False

    @cached_property
    def image_ids(self) -> NDArray[np.int64]:
        """(I,) sorted, as the evaluator goes through the images."""
        return np.sort(np.array([entry["id"] for entry in self.truth["images"]], dtype=np.int64))

    @cached_property
    def class_ids(self) -> NDArray[np.int64]:
        """(K,) category ids, sorted."""
        return np.sort(np.array([entry["id"] for entry in self.truth["categories"]], dtype=np.int64))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """(K,) in the order of `class_ids`."""
        names = {entry["id"]: entry["name"] for entry in self.truth["categories"]}
        return tuple(names[number] for number in self.class_ids.tolist())

    @cached_property
    def objects(self) -> Columns:
        """Objects and crowd regions, in the order of `truth`."""
        return self._columns(self.truth["annotations"])

    @cached_property
    def detections(self) -> Columns:
        """Detections in the order of `results`."""
        return self._columns(self.results)

    def _columns(self, entries: Sequence[dict[str, Any]]) -> Columns:
        boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
        images = np.array([entry["image_id"] for entry in entries], dtype=np.int64)
        classes = np.array([entry["category_id"] for entry in entries], dtype=np.int64)
        areas = np.array([entry.get("area", math.nan) for entry in entries], dtype=np.float64)
        return Columns(
            images=np.searchsorted(self.image_ids, images).astype(np.int64),
            classes=np.searchsorted(self.class_ids, classes).astype(np.int64),
            boxes_xywh=boxes,
            areas=np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
            crowd=np.array([bool(entry.get("iscrowd", 0)) for entry in entries], dtype=np.bool_),
            scores=np.array([entry.get("score", 0.0) for entry in entries], dtype=np.float64),
        )


def read_inputs(
    ground_truth: Any, detections: Any, *, name: str | None = None, results_name: str = "the given detections"
) -> Inputs:
    """Reads and checks both sides.

    Args:
        ground_truth: an annotation file in COCO's format, or its contents; read as data sets read it.
        detections: a result file in COCO's format, or its entries.
        name: what messages call ground truth that is no file.
        results_name: what they call entries that are no file.

    Raises:
        DataError: a file cannot be read, or an entry is malformed, not finite, or of an image or category that the ground truth lacks.
    """
    truth_name, contents = named_contents(ground_truth, name or "the given ground truth")
    results_name, results = named_contents(detections, results_name)
    lists = checked_lists(contents, truth_name)
    truth, stated = _read_truth(lists, truth_name, Path(ground_truth) if isinstance(ground_truth, str | Path) else None)
    sizes = _sizes_of(lists["images"], stated.images.numbers)
    results = _checked_results(results, results_name, _Known(stated, truth_name, sizes))
    has_masks, notes = False, list(stated.notes)
    if results and "segmentation" in results[0]:
        has_masks, more = _add_masks(truth, stated, lists["annotations"], sizes, truth_name)
        notes += more
    return Inputs(Path(truth_name).stem, truth, results, tuple(notes), has_masks)


def named_contents(source: Any, default_name: str) -> tuple[str, Any]:
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


def _read_truth(lists: dict[str, list[dict[str, Any]]], source: str, file: Path | None) -> tuple[dict[str, Any], Truth]:
    """What the evaluator gets, as plain numbers, and what it was made of."""
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
    names_of_files = (record.get("file_name") for record in lists["images"])
    images = [
        {"id": number, "file_name": file_name if isinstance(file_name, str) else ""}
        for number, file_name in zip(checked.images.numbers, names_of_files, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, checked


def _is_turned(file: Path | None, image: dict[str, Any]) -> bool | None:
    """Whether an image's picture is turned by its EXIF orientation; None if that is not known."""
    return None if file is None else picture_is_turned(file, str(image.get("file_name")))


def _sizes_of(images: Sequence[dict[str, Any]], numbers: Sequence[int]) -> Sizes:
    """Height and width of images by their numbers; None where an annotation file does not state them."""
    sizes: dict[int, tuple[int, int] | None] = {}
    for number, record in zip(numbers, images, strict=True):
        sides = (record.get("height"), record.get("width"))
        known = all(is_finite(side) and side >= 1 for side in sides)
        sizes[number] = (int(sides[0]), int(sides[1])) if known else None  # type: ignore[arg-type]
    return sizes


@dataclass(frozen=True)
class _Known:
    """What results are checked against: the ground truth, its name for messages, and the sizes of its images."""

    truth: Truth
    source: str
    sizes: Sizes


def _checked_results(results: Any, source: str, known: _Known) -> list[dict[str, Any]]:
    if isinstance(results, str | bytes | dict) or not isinstance(results, Iterable):
        raise DataError(f"{source} is not a list of results: each entry needs image_id, category_id, bbox and score.")
    results = list(results)
    if all(map(_outlines_its_box, results)):  # COCO's tools add such outlines to detections that have no masks
        results = [{key: value for key, value in entry.items() if key != "segmentation"} for entry in results]
    checked: list[dict[str, Any]] = []
    errors: list[DataError] = []
    for index, entry in enumerate(results):
        try:
            checked.append(_checked_result(entry, f"{source}, entry {index} (counting from 0)", known))
        except DataError as error:
            errors.append(error)
    if errors:
        total = len(checked) + len(errors)
        more = f" ({some_of(len(errors), total, 'entry', 'entries')} cannot be used.)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{more}")
    without = [index for index, entry in enumerate(checked) if "segmentation" not in entry]
    if 0 < len(without) < len(checked):
        raise DataError(
            f"{source}, entry {without[0]} (counting from 0) has no segmentation, and other entries have one "
            f"({some_of(len(without), len(checked), 'entry', 'entries')} {have(len(without))} none): write a mask in every entry, or in none."
        )
    return checked


def _outlines_its_box(entry: Any) -> bool:
    """Whether the mask of a result is its box, corner by corner as pycocotools writes it."""
    if not isinstance(entry, dict):
        return False
    outlines, box = entry.get("segmentation"), given_box(entry.get("bbox"))
    if box is None or not isinstance(outlines, list) or len(outlines) != 1:
        return False
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    corners = (left, top, left, bottom, right, bottom, right, top)
    outline = outlines[0]
    return (
        isinstance(outline, list)
        and len(outline) == len(corners)
        and all(is_finite(one) and abs(one - other) < _SAME_CORNER for one, other in zip(outline, corners, strict=True))
    )


def _checked_result(entry: Any, where: str, known: _Known) -> dict[str, Any]:
    """The image, category, box, score and, where there is one, mask of a result, as plain numbers."""
    if not isinstance(entry, dict):
        raise DataError(f"{where} is {str(entry)[:40]!r}, not an object with image_id, category_id and bbox.")
    checked: dict[str, Any] = {}
    for key, ids, noun in (
        ("image_id", known.truth.images, "image"),
        ("category_id", known.truth.categories, "category"),
    ):
        value = _value(entry, key, where)
        checked[key] = ids.find(value)
        if checked[key] is None:
            there = (
                f"its ids run from {min(ids.numbers)} to {max(ids.numbers)}"
                if ids.own is None
                else f"its ids are such as {ids.own[0]!r}"
            )
            raise DataError(
                f"{where} has {key} {value!r}, but {known.source} has no such {noun} ({there}, {len(ids.numbers)} in all): "
                "use results and annotations that belong together."
            )
    if entry.get("segmentation"):
        from detrkit.evaluation.mask_inputs import box_of_mask, checked_mask  # the evaluator takes a while to load

        checked["segmentation"] = checked_mask(entry["segmentation"], known.sizes[checked["image_id"]], where)
    if "segmentation" in checked and not entry.get("bbox"):
        checked["bbox"] = box_of_mask(checked["segmentation"])
    else:
        checked["bbox"] = _box(entry, where)
    checked["score"] = _number(_value(entry, "score", where), where, "score")
    return checked


def _box(entry: dict[str, Any], where: str) -> list[float]:
    box = _value(entry, "bbox", where)
    if not hasattr(box, "__len__") or len(box) != 4:
        raise DataError(f"{where} has the bbox {box!r}, which is not [x, y, width, height] in pixels.")
    numbers = [_number(value, where, "bbox") for value in box]
    if min(numbers[2:]) < 0:
        raise DataError(f"{where} has a bbox of negative size, {numbers}: write it as [x, y, width, height] in pixels.")
    return numbers


def _add_masks(
    truth: dict[str, Any], stated: Truth, records: Sequence[dict[str, Any]], sizes: Sizes, source: str
) -> tuple[bool, list[str]]:
    """Gives the objects their masks; whether they have any, and sentences about them."""
    from detrkit.evaluation.mask_inputs import truth_masks  # the evaluator takes a while to load

    known = {number: size for number, size in sizes.items() if size is not None}
    if len(known) < len(sizes):
        without = some_of(len(sizes) - len(known), len(sizes), "image")
        return False, [
            f"{source} does not state the height and width of {without}, so the masks of the detections were not compared."
        ]
    own_sizes = [known[annotation["image_id"]] for annotation in truth["annotations"]]
    masks, notes = truth_masks(records, stated.table, own_sizes, source)
    if masks is None:
        return False, notes
    for annotation, mask in zip(truth["annotations"], masks, strict=True):
        annotation["segmentation"] = mask
    for image in truth["images"]:
        image["height"], image["width"] = known[image["id"]]
    return True, notes


def _value(entry: dict[str, Any], key: str, where: str) -> Any:
    if key not in entry:
        raise DataError(f"{where} has no '{key}': every entry needs one.")
    return entry[key]


def _number(value: Any, where: str, key: str) -> float:
    if value.__class__ is float and math.isfinite(value):  # most are, and data sets have hundreds of thousands
        return value
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise DataError(f"{where} has {value!r} as {key}: only finite numbers can be compared.")
    return float(value)
