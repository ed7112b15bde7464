"""The ground truth that a COCO file states, checked down to the last number; nothing here looks at pictures.

Data sets and the evaluation of result files read their ground truth here, so both see the same objects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.data.coco_ids import Ids, read_ids, whole_number
from detrkit.data.coco_names import read_names
from detrkit.data.coco_values import Box, box_of_outline, crowd_flag, given_box, is_finite
from detrkit.data.findings import Note
from detrkit.data.wording import agreeing, first_few, have, shown_value, some_of, were
from detrkit.errors import DataError

Record = dict[str, Any]
_LISTS = ("images", "annotations", "categories")
_ASSUMED_CLASS = "object"


@dataclass(frozen=True, eq=False)
class Table:
    """Annotations as columns, in the order of the file.

    Attributes:
        image_positions: (N,) int64, places in the file's list of images.
        category_ids: (N,) int64 numbers.
        boxes_xyxy: (N, 4) float64 pixels.
        crowd: (N,) bool.
        areas: (N,) float64 square pixels: as stated, or of the box where the statement is missing, not a number, or not above 0.
        stated_areas: (N,) float64, NaN where the file states none that is used.
        annotation_ids: (N,) int64, the file's ids, or places in its list counted from 1.
        places: (N,) int64, places in the file's list of annotations.
        numbered: whether they are such places, because some ids of the file are missing, texts, or not unique.
    """

    image_positions: np.ndarray
    category_ids: np.ndarray
    boxes_xyxy: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    stated_areas: np.ndarray
    annotation_ids: np.ndarray
    places: np.ndarray
    numbered: bool = False

    def __len__(self) -> int:
        return len(self.annotation_ids)

    def label(self, row: int) -> str:
        """How messages call an annotation."""
        return _label(int(self.annotation_ids[row]), self.numbered)

    def rows(self, chosen: np.ndarray) -> Table:
        """Some of the annotations."""
        columns = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "numbered"}
        return replace(self, **{name: column[chosen] for name, column in columns.items()})


@dataclass(frozen=True, eq=False)
class Truth:
    """What a file says.

    Attributes:
        images: the ids of its images.
        categories: the ids of its categories.
        category_records: the entries that these ids belong to.
        category_names: what they are called, never empty.
        table: the objects; none of them lacks a category or an area.
        notes: what was dropped or changed.
    """

    images: Ids
    categories: Ids
    category_records: tuple[Record, ...]
    category_names: tuple[str, ...]
    table: Table
    notes: tuple[str, ...]


def load_annotations(source: Path) -> dict[str, list[Record]]:
    """The three lists of a COCO file in UTF-8, UTF-16 or UTF-32; the contents of their entries are not checked yet.

    Raises:
        DataError: the file is missing, cut off, not JSON, or not a COCO annotation file.
    """
    try:
        contents = json.loads(source.read_bytes())
    except OSError as error:
        raise DataError(f"The annotation file {source} cannot be read ({error.strerror}): correct its name.") from None
    except UnicodeDecodeError:
        raise DataError(f"{source} is not text in UTF-8, UTF-16 or UTF-32: save it as UTF-8.") from None
    except ValueError as error:
        raise DataError(f"{source} is not complete JSON ({error}): copy or export the file again.") from None
    except RecursionError:
        raise DataError(
            f"{source} is nested too deeply to be a COCO annotation file: export the data as COCO instances."
        ) from None
    return checked_lists(contents, str(source))


def checked_lists(contents: Any, source: str) -> dict[str, list[Record]]:
    """The three lists of loaded JSON; a file without `categories` has an empty list of them.

    Raises:
        DataError: a list is missing, or one of its entries is not an object.
    """
    lists = dict(contents) if isinstance(contents, dict) else {}
    if isinstance(lists.get("annotations"), list) and lists.get("categories") is None:
        lists["categories"] = []
    missing = [key for key in _LISTS if not isinstance(lists.get(key), list)]
    if missing:
        raise DataError(
            f"{source} is not a COCO annotation file, it has no list of {' or '.join(missing)}: export the data as COCO instances."
        )
    for key in _LISTS:
        wrong = [place for place, record in enumerate(lists[key]) if not isinstance(record, dict)]
        if wrong:
            more = f" ({some_of(len(wrong), len(lists[key]), 'entry', 'entries')} are none.)" if len(wrong) > 1 else ""
            raise DataError(
                f"{source}: entry {wrong[0]} of '{key}' is {shown_value(lists[key][wrong[0]])}, not an object; export the file again.{more}"
            )
    return {key: lists[key] for key in _LISTS}


def read_truth(contents: dict[str, list[Record]], source: str) -> Truth:
    """Checks ids, names, references, numbers and boxes.

    Args:
        contents: what `checked_lists` returned.
        source: the file it came from, for messages.

    Raises:
        DataError: an entry cannot be used; the message says how many are like it, and the remedy.
    """
    images = read_ids(contents["images"], "image", source)
    categories = read_ids(contents["categories"], "category", source)
    records, category_records = contents["annotations"], contents["categories"]
    places, assumed, notes = _with_category(records, category_records)
    if assumed is not None and assumed not in category_records:
        category_records = [assumed]
        categories = read_ids(category_records, "category", source)
    names, name_notes = read_names(category_records, source)
    reader = _Reader(records, images, categories, None if assumed is None else categories.find(assumed["id"]))
    table = reader.table(places, source)
    table, empty_notes = _without_empty_boxes(table, contents["images"])
    all_notes = (*notes, *name_notes, *reader.notes(), *empty_notes)
    return Truth(images, categories, tuple(category_records), names, table, all_notes)


def _with_category(
    records: Sequence[Record], categories: Sequence[Record]
) -> tuple[list[int], Record | None, list[str]]:
    """The places of the annotations that have a category, or all of them and the category to assume if none has one; and notes."""
    with_category = [place for place, record in enumerate(records) if record.get("category_id") not in (None, "")]
    without = len(records) - len(with_category)
    if with_category and without:
        left_out = (
            f"{some_of(without, len(records), 'annotation')} {have(without)} no category and {were(without)} left out"
        )
        first = next(place for place, record in enumerate(records) if record.get("category_id") in (None, ""))
        note = f"{left_out} (the first: annotation number {first + 1} of the list)."
        return with_category, None, [Note(note, "no category", count=without)]
    if with_category or (categories and not records):
        return with_category, None, []
    every = list(range(len(records)))
    if len(categories) == 1:
        name = shown_value(categories[0].get("name"))
        return (
            every,
            categories[0],
            [f"{_no_category(len(records))}; all are taken for {name}, the only one that the file lists."],
        )
    assumed = {"id": 1, "name": _ASSUMED_CLASS}
    listed = f", in place of the {len(categories)} that the file lists" if categories else ""
    reason = _no_category(len(records)) if records else "The file lists no categories"
    return every, assumed, [f"{reason}, so one class named '{_ASSUMED_CLASS}' is assumed{listed}."]


def _no_category(count: int) -> str:
    return agreeing(count, "The only annotation has no category", f"None of the {count} annotations has a category")


class _Reader:
    """Reads annotations one by one and collects what is wrong with them, so that messages can give counts."""

    def __init__(self, records: Sequence[Record], images: Ids, categories: Ids, assumed_category: int | None) -> None:
        self._records = records
        self._images = images
        self._categories = categories
        self._assumed_category = assumed_category
        self._positions = {number: position for position, number in enumerate(images.numbers)}
        identifiers = [whole_number(record.get("id")) for record in records]
        self._numbered = None in identifiers or len(set(identifiers)) < len(identifiers)
        self._identifiers = list(range(1, len(records) + 1)) if self._numbered else identifiers
        self._unlisted_images: list[int] = []
        self._unlisted_categories: list[int] = []
        self._odd_crowds: list[int] = []
        self._without_box: list[int] = []
        self._from_outlines: list[int] = []

    def table(self, places: Sequence[int], source: str) -> Table:
        """The annotations at these places of the list."""
        rows = [self._row(place) for place in places]
        self._raise_faults(source)
        columns = list(zip(*rows, strict=True)) if rows else [()] * 7
        return Table(
            image_positions=np.array(columns[0], dtype=np.int64),
            category_ids=np.array(columns[1], dtype=np.int64),
            boxes_xyxy=np.array(columns[2], dtype=np.float64).reshape(-1, 4),
            crowd=np.array(columns[3], dtype=np.bool_),
            areas=np.array(columns[4], dtype=np.float64),
            stated_areas=np.array(columns[5], dtype=np.float64),
            annotation_ids=np.array(columns[6], dtype=np.int64),
            places=np.array(places, dtype=np.int64),
            numbered=self._numbered,
        )

    def notes(self) -> list[str]:
        """A sentence about boxes that follow from outlines, if there are any."""
        if not self._from_outlines:
            return []
        number = len(self._from_outlines)
        count = some_of(number, len(self._records), "annotation")
        return [
            Note(
                f"{count} {have(number)} an outline but no usable box; the box follows from the outline "
                f"(the first: {self._label(self._from_outlines[0])}).",
                "outline alone",
                count=number,
            )
        ]

    def _row(self, place: int) -> tuple[Any, ...]:
        record = self._records[place]
        image = self._images.find(record.get("image_id"))
        if image is None:
            self._unlisted_images.append(place)
        category = self._assumed_category
        if category is None:
            category = self._categories.find(record.get("category_id"))
        if category is None:
            self._unlisted_categories.append(place)
        crowd = crowd_flag(record.get("iscrowd"))
        if crowd is None:
            self._odd_crowds.append(place)
        left, top, width, height = self._box(place, record)
        stated = record.get("area")
        usable = is_finite(stated) and stated > 0
        area = stated if usable else width * height
        position = -1 if image is None else self._positions[image]
        box_xyxy = (left, top, left + width, top + height)
        stated_area = stated if usable else float("nan")
        return position, category or 0, box_xyxy, bool(crowd), area, stated_area, self._identifiers[place]

    def _box(self, place: int, record: Record) -> Box:
        box = given_box(record.get("bbox"))
        if box is not None and box[2] > 0 and box[3] > 0:
            return box
        of_outline = box_of_outline(record.get("segmentation"))
        if of_outline is not None:
            self._from_outlines.append(place)
            return of_outline
        if box is None:
            self._without_box.append(place)
        return box or (0.0, 0.0, 0.0, 0.0)

    def _raise_faults(self, source: str) -> None:
        for places, key, verbs, problem, remedy in (
            (
                self._unlisted_images,
                "image_id",
                ("belongs", "belong"),
                "to an image that the file does not list",
                "add the images or remove the annotations",
            ),
            (
                self._unlisted_categories,
                "category_id",
                ("has", "have"),
                "a category that the file does not list",
                "add the categories or correct the annotations",
            ),
            (
                self._odd_crowds,
                "iscrowd",
                ("has", "have"),
                "an 'iscrowd' that is neither 0 nor 1",
                "write 0 for a single object and 1 for a crowd region",
            ),
            (
                self._without_box,
                "bbox",
                ("has", "have"),
                "neither a box nor an outline that one follows from",
                "give each a 'bbox' of four finite numbers: left, top, width, height in pixels",
            ),
        ):
            if places:
                count = some_of(len(places), len(self._records), "annotation")
                shown = [
                    f"{self._label(place)} ({shown_value(self._records[place].get(key))})"
                    if number < 3
                    else ""  # only counted
                    for number, place in enumerate(places)
                ]
                verb = agreeing(len(places), *verbs)
                raise DataError(f"{source}: {count} {verb} {problem}: {first_few(shown)}; {remedy}.")

    def _label(self, place: int) -> str:
        return _label(self._identifiers[place], self._numbered)


def _label(identifier: int | None, numbered: bool) -> str:
    return f"annotation number {identifier} of the list" if numbered else f"annotation {identifier}"


def _without_empty_boxes(table: Table, images: Sequence[Record]) -> tuple[Table, list[str]]:
    """Drops boxes whose width or height is zero or negative."""
    keep: np.ndarray = np.all(table.boxes_xyxy[:, 2:] > table.boxes_xyxy[:, :2], axis=1)
    if keep.all():
        return table, []
    rows = np.flatnonzero(~keep)
    count = len(rows)
    names = [str(image.get("file_name", image.get("id"))) for image in images]
    files = [names[position] for position in table.image_positions[rows].tolist()]
    note = (
        f"{some_of(count, len(keep), 'box', 'boxes')} {have(count)} no area and {were(count)} left out "
        f"(the first: {table.label(int(rows[0]))} of {files[0]})."
    )
    return table.rows(keep), [Note(note, "no area", count=count, files=files)]
