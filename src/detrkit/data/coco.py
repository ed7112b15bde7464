"""COCO annotation files: read, checked down to the last box, and turned into a `DetectionDataset`.

Rules that a user may want to know:

- Category and image ids may be any integers; internally, classes count from 0 in the order of their ids. A category without objects that is
  only the parent of others (Roboflow writes one) does not become a class; every other category does.
- Crowd regions and images without objects are kept, boxes without area are dropped, boxes beyond the image's edge stay as annotated.
- EXIF orientation is applied, except to a picture whose size in the annotation file fits only the stored pixels: it was annotated that way.
- Every image file is checked before anything else starts.

The data set's notes say what was dropped or changed; an error that cannot be repaired is a `DataError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from detrkit.cards import Category
from detrkit.data.dataset import DetectionDataset, ImageFiles
from detrkit.data.images import ImageFacts, inspect_image
from detrkit.errors import DataError

Record = dict[str, Any]
_LISTS = ("images", "annotations", "categories")
_THREADS = 8
_EDGE_TOLERANCE = 1.0  # pixels by which a box may extend beyond the image without a note: annotation tools round


def read_coco(annotation_file: str | Path, image_folder: str | Path, *, name: str | None = None) -> DetectionDataset:
    """The data set of a COCO annotation file.

    Args:
        annotation_file: JSON with the lists `images`, `annotations` and `categories`.
        image_folder: the folder that the file names of the images start from.
        name: for messages; by default the annotation file's name.

    Raises:
        DataError: the annotation file or an image cannot be used; the message names the entry or file and the remedy.
    """
    source = Path(annotation_file)
    return build_dataset(load_annotations(source), source, Path(image_folder), name or source.stem)


def load_annotations(source: Path) -> dict[str, list[Record]]:
    """The three lists of a COCO file; the contents of their entries are not checked yet.

    Raises:
        DataError: the file is missing, cut off, not JSON, or not a COCO annotation file.
    """
    try:
        contents = json.loads(source.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"The annotation file {source} cannot be read ({error.strerror}): correct its name.") from None
    except ValueError as error:
        raise DataError(f"{source} is not complete JSON ({error}): copy or export the file again.") from None
    lists = contents if isinstance(contents, dict) else {}
    missing = [key for key in _LISTS if not isinstance(lists.get(key), list)]
    if missing:
        raise DataError(
            f"{source} is not a COCO annotation file, it has no list of {' or '.join(missing)}: export the data as COCO instances."
        )
    for key in _LISTS:
        for position, record in enumerate(lists[key]):
            if not isinstance(record, dict):
                raise DataError(
                    f"{source}: entry {position} of '{key}' is {record!r}, not an object; export the file again."
                )
    return {key: lists[key] for key in _LISTS}


def build_dataset(contents: dict[str, list[Record]], source: Path, image_folder: Path, name: str) -> DetectionDataset:
    """The data set of loaded annotations.

    Args:
        contents: what `load_annotations` returned.
        source: the file they came from, for messages.
        image_folder: the folder that the file names of the images start from.
        name: of the data set, for messages.

    Raises:
        DataError: an annotation or an image cannot be used.
    """
    positions = _positions_of_ids(contents["images"], "image", source)
    known = _positions_of_ids(contents["categories"], "category", source)
    if not positions:
        raise DataError(f"{source} lists no images: add some, or choose another file.")
    table = _read_table(contents["annotations"], positions, known, source)
    images, sizes, image_notes = _check_images(contents["images"], source, image_folder)
    categories, category_notes = _categories(contents["categories"], set(table.category_ids.tolist()), source)
    table, dropped_notes = _without_empty_boxes(table, images)
    edge_notes = _check_coordinates(table, images, sizes, source)

    order = np.argsort(table.image_positions, kind="stable")
    counts = np.bincount(table.image_positions, minlength=len(images))
    return DetectionDataset(
        name=name,
        images=images,
        image_ids=np.fromiter(positions, dtype=np.int64, count=len(positions)),
        sizes=sizes,
        categories=categories,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xyxy=table.boxes_xyxy[order],
        labels=np.searchsorted([category.id for category in categories], table.category_ids[order]).astype(np.int64),
        crowd=table.crowd[order],
        areas=table.areas[order],
        annotation_ids=table.annotation_ids[order],
        notes=(*category_notes, *image_notes, *dropped_notes, *edge_notes),
    )


@dataclass(frozen=True, eq=False)
class _Table:
    """The annotations as columns, in the order of the file."""

    image_positions: np.ndarray
    category_ids: np.ndarray
    boxes_xyxy: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    annotation_ids: np.ndarray

    def rows(self, chosen: np.ndarray) -> _Table:
        return _Table(*(getattr(self, column)[chosen] for column in self.__dataclass_fields__))


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positions_of_ids(records: Sequence[Record], kind: str, source: Path) -> dict[int, int]:
    """The position of each id in its list; ids must be integers and unique."""
    positions: dict[int, int] = {}
    for position, record in enumerate(records):
        identifier = record.get("id")
        label = record.get("file_name", record.get("name"))
        if not _is_integer(identifier):
            raise DataError(f"{source}: the {kind} {label!r} has the id {identifier!r}; give it an integer.")
        if identifier in positions:
            raise DataError(f"{source}: the {kind} id {identifier} occurs twice (again at {label!r}); make it unique.")
        positions[identifier] = position
    return positions


def _read_table(records: Sequence[Record], positions: dict[int, int], known: dict[int, int], source: Path) -> _Table:
    """The annotations as columns; references to images and categories and the numbers of the boxes are checked."""
    columns: tuple[list[Any], ...] = ([], [], [], [], [], [])
    for position, record in enumerate(records):
        identifier = record.get("id", position + 1)
        where = f"{source}: annotation {identifier!r}"
        image_id, category_id, box_xywh = record.get("image_id"), record.get("category_id"), record.get("bbox")
        if not _is_integer(identifier):
            raise DataError(f"{where} has an id that is not an integer; give it one.")
        if not _is_integer(image_id) or image_id not in positions:
            raise DataError(
                f"{where} belongs to image {image_id!r}, which the file does not list; add it or remove the annotation."
            )
        if not _is_integer(category_id) or category_id not in known:
            raise DataError(
                f"{where} has category {category_id!r}, which the file does not list; add it or correct the annotation."
            )
        if not isinstance(box_xywh, list) or len(box_xywh) != 4 or not all(map(_is_number, box_xywh)):
            raise DataError(f"{where} has the box {box_xywh!r}; give four numbers: left, top, width, height in pixels.")
        if not all(map(math.isfinite, box_xywh)):
            raise DataError(f"{where} has the box {box_xywh!r}, which is not finite; correct or remove it.")
        left, top, width, height = box_xywh
        area = record.get("area")
        if not _is_number(area) or not math.isfinite(area) or area <= 0:
            area = width * height
        row = (positions[image_id], category_id, (left, top, left + width, top + height))
        for column, value in zip(columns, (*row, bool(record.get("iscrowd")), area, identifier), strict=True):
            column.append(value)
    types = (np.int64, np.int64, np.float64, np.bool_, np.float64, np.int64)
    arrays: list[np.ndarray] = [np.array(column, dtype=kind) for column, kind in zip(columns, types, strict=True)]
    arrays[2] = arrays[2].reshape(-1, 4)
    return _Table(*arrays)


def _categories(records: Sequence[Record], used: set[int], source: Path) -> tuple[tuple[Category, ...], list[str]]:
    """The classes in the order of their ids, without placeholders: categories that have no objects and are only parents of others."""
    kept: list[Category] = []
    notes: list[str] = []
    for record in sorted(records, key=lambda record: int(record["id"])):
        name = record.get("name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{source}: category {record['id']} has the name {name!r}; give it a string.")
        is_parent = any(other is not record and other.get("supercategory") == name for other in records)
        if is_parent and record["id"] not in used:
            notes.append(
                f"Category {record['id']} '{name}' has no objects and is only the parent of others, so it is not a class."
            )
            continue
        twin = next((category for category in kept if category.name == name), None)
        if twin is not None:
            raise DataError(f"{source}: categories {twin.id} and {record['id']} are both named {name!r}; rename one.")
        kept.append(Category(id=record["id"], name=name, index=len(kept)))
    if not kept:
        raise DataError(f"{source} has no categories to learn: add categories with an id and a name.")
    return tuple(kept), notes


def _check_images(
    records: Sequence[Record], source: Path, image_folder: Path
) -> tuple[ImageFiles, np.ndarray, list[str]]:
    """Checks every image file; returns the images, their sizes (I, 2) as they will be shown, and notes."""
    names = []
    for record in records:
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{source}: image {record['id']} has the file name {name!r}; give it one.")
        names.append(name)

    def inspect(name: str) -> ImageFacts | DataError:
        try:
            return inspect_image(image_folder / name)
        except DataError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        outcomes = list(pool.map(inspect, names))
    facts = [outcome for outcome in outcomes if isinstance(outcome, ImageFacts)]
    errors = [outcome for outcome in outcomes if isinstance(outcome, DataError)]
    if errors:
        more = f" ({len(errors)} of the {len(names)} images cannot be used.)" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{more}")
    as_stored = [_annotated_as_stored(record, fact, source) for record, fact in zip(records, facts, strict=True)]
    sizes = [fact.stored_size if stored else fact.shown_size for fact, stored in zip(facts, as_stored, strict=True)]
    images = ImageFiles(image_folder, np.array(names), np.array(as_stored, dtype=np.bool_))
    notes = []
    if any(as_stored):
        notes.append(
            f"{sum(as_stored)} of {len(names)} images are annotated on their stored pixels, so their EXIF orientation is "
            f"not applied (the first: {names[as_stored.index(True)]})."
        )
    return images, np.array(sizes, dtype=np.int64), notes


def _annotated_as_stored(record: Record, facts: ImageFacts, source: Path) -> bool:
    """Whether the size in the annotation file fits only the pixels before EXIF orientation."""
    size = (record.get("height"), record.get("width"))
    if size in ((None, None), facts.shown_size):
        return False
    if size == facts.stored_size:
        return True
    height, width = facts.shown_size
    raise DataError(
        f"{source}: image {record['file_name']!r} is annotated as {size[1]} × {size[0]} pixels, but the file has {width} × {height}; "
        "use the pictures that were annotated, or export the annotations again."
    )


def _without_empty_boxes(table: _Table, images: ImageFiles) -> tuple[_Table, list[str]]:
    """Drops boxes whose width or height is zero or negative."""
    keep: np.ndarray = np.all(table.boxes_xyxy[:, 2:] > table.boxes_xyxy[:, :2], axis=1)
    if keep.all():
        return table, []
    first = int(np.argmin(keep))
    note = (
        f"{int((~keep).sum())} of {len(keep)} boxes have no area and were left out (the first: annotation "
        f"{table.annotation_ids[first]} of {images.name(table.image_positions[first])})."
    )
    return table.rows(keep), [note]


def _check_coordinates(table: _Table, images: ImageFiles, sizes: np.ndarray, source: Path) -> list[str]:
    """Finds boxes in another unit (an error) and boxes that extend beyond their image (a note)."""
    boxes_xyxy = table.boxes_xyxy
    if len(boxes_xyxy) and boxes_xyxy.max() <= 1:
        raise DataError(
            f"{source}: all boxes lie within 0..1, so they are fractions of the image; COCO boxes are left, top, width, "
            "height in pixels: multiply them by the image's width and height."
        )
    limits = np.tile(sizes[table.image_positions][:, ::-1], 2) + _EDGE_TOLERANCE
    outside: np.ndarray = np.any((boxes_xyxy < -_EDGE_TOLERANCE) | (boxes_xyxy > limits), axis=1)
    if not outside.any():
        return []
    first = int(np.argmax(outside))
    return [
        f"{int(outside.sum())} of {len(outside)} boxes extend beyond their image (the first: annotation "
        f"{table.annotation_ids[first]} of {images.name(table.image_positions[first])}); training clips them."
    ]
