"""COCO annotation files: read, checked down to the last box, and turned into a `DetectionDataset`.

Rules that a user may want to know:

- Category and image ids may be any integers or texts; internally, classes count from 0 in the order of their ids. A category without objects
  that is only the parent of others (Roboflow writes one) does not become a class; every other category does.
- Crowd regions and images without objects are kept, boxes without area or wholly outside their image are dropped, boxes beyond its edge
  stay as annotated.
- EXIF orientation is applied, except to pictures that were annotated on their stored pixels: `coco_frames` says how they are recognised.
- File names may come from another machine: `picture_files` says how the pictures are found.
- Every image file is checked before anything else starts, and if masks are asked for, every outline.

The data set's notes say what was dropped or changed; an error that cannot be repaired is a `DataError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from detrkit.cards import Category
from detrkit.data.coco_frames import Frames, Orientation, choose_frames
from detrkit.data.coco_masks import read_masks
from detrkit.data.coco_names import name_text
from detrkit.data.coco_outside import without_boxes_outside
from detrkit.data.coco_truth import Record, Table, Truth, load_annotations, read_truth
from detrkit.data.coco_units import check_units
from detrkit.data.dataset import DetectionDataset, ImageFiles, NoImagesError
from detrkit.data.findings import Note
from detrkit.data.images import ImageFacts
from detrkit.data.masks import DatasetMasks
from detrkit.data.picture_files import PictureFolders, find_pictures
from detrkit.data.pictures import inspect_pictures
from detrkit.data.sixteen_bit import narrow_range_notes
from detrkit.data.wording import agreeing, first_few, have, shown_value, some_of
from detrkit.errors import DataError
from detrkit.files import expanded

__all__ = ["Record", "build_dataset", "load_annotations", "read_coco"]

_EDGE_TOLERANCE = 1.0  # pixels by which a box may extend beyond the image without a note: annotation tools round


def read_coco(
    annotation_file: str | Path,
    image_folder: str | Path,
    *,
    name: str | None = None,
    orientation: Orientation = "auto",
    stretch_16bit: bool = False,
    masks: bool = False,
) -> DetectionDataset:
    """The data set of a COCO annotation file.

    Args:
        annotation_file: JSON with the lists `images`, `annotations` and `categories`.
        image_folder: the folder that the file names of the images start from.
        name: for messages; by default the annotation file's name.
        orientation: whether pictures with an EXIF orientation were annotated as "stored" or as "shown"; "auto" finds out by sizes and boxes.
        stretch_16bit: whether 16-bit grey pictures are stretched to the whole range, see `read_image`.
        masks: whether objects get their masks, from polygons and run lengths.

    Raises:
        DataError: the annotation file or an image cannot be used; the message names the entry or file and the remedy.
    """
    source = expanded(annotation_file)
    return build_dataset(
        load_annotations(source),
        source,
        expanded(image_folder),
        name or source.stem,
        orientation=orientation,
        stretch_16bit=stretch_16bit,
        masks=masks,
    )


def build_dataset(
    contents: dict[str, list[Record]],
    source: Path,
    image_folder: Path,
    name: str,
    *,
    folders: PictureFolders | None = None,
    facts: Sequence[ImageFacts] | None = None,
    units: Literal["coco", "voc"] | None = "coco",
    orientation: Orientation = "auto",
    stretch_16bit: bool = False,
    masks: bool = False,
) -> DetectionDataset:
    """The data set of loaded annotations.

    Args:
        contents: what `load_annotations` returned.
        source: the file they came from, for messages.
        image_folder: the folder that the file names of the images start from.
        name: of the data set, for messages.
        folders: where else pictures may lie; by default only in the image folder and its sub-folders.
        facts: of the pictures, in the order of the images, if they have been checked under these names already; by default they are checked.
        units: the form of boxes that may not be in pixels, which is looked for; None for boxes that a reader has converted.
        orientation: as for `read_coco`.
        stretch_16bit: as for `read_coco`.
        masks: as for `read_coco`.

    Raises:
        NoImagesError: there are no images.
        DataError: an annotation or an image cannot be used.
    """
    if not contents["images"]:
        raise NoImagesError(f"{source} lists no images: add some, or choose another file.")
    truth = read_truth(contents, str(source))
    table = truth.table
    names = _file_names(contents["images"], truth, source)
    files, name_notes = find_pictures(names, folders or PictureFolders(image_folder), str(source))
    if facts is None or files is not None:
        facts = inspect_pictures([image_folder / file for file in (names if files is None else files.tolist())])
    frames = choose_frames(contents["images"], names, facts, table, orientation, str(source))
    images = ImageFiles(image_folder, np.array(names), frames.as_stored, files, stretch_16bit)
    categories, category_notes = _categories(truth, source)
    unit_notes = check_units(table, frames.sizes, str(source), voc=units == "voc") if units else []
    picture_notes = (*name_notes, *frames.notes, *narrow_range_notes(images, facts))
    table, outside_notes = without_boxes_outside(table, frames.sizes, names, str(source))
    outlines, mask_notes = (
        read_masks(contents["annotations"], table, frames.sizes, names, str(source)) if masks else (None, [])
    )
    notes = (
        *category_notes,
        *picture_notes,
        *truth.notes,
        *unit_notes,
        *outside_notes,
        *_edge_notes(table, images, frames),
        *mask_notes,
    )
    return _assembled(name, images, frames, replace(truth, table=table), categories, notes, outlines)


def _assembled(
    name: str,
    images: ImageFiles,
    frames: Frames,
    truth: Truth,
    categories: tuple[Category, ...],
    notes: tuple[str, ...],
    masks: DatasetMasks | None,
) -> DetectionDataset:
    """The data set of checked parts: annotations in the order of their images."""
    table = truth.table
    order = np.argsort(table.image_positions, kind="stable")
    counts = np.bincount(table.image_positions, minlength=len(images))
    return DetectionDataset(
        name=name,
        images=images,
        image_ids=np.array(truth.images.numbers, dtype=np.int64),
        sizes=frames.sizes,
        categories=categories,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xyxy=table.boxes_xyxy[order],
        labels=np.searchsorted([category.id for category in categories], table.category_ids[order]).astype(np.int64),
        crowd=table.crowd[order],
        areas=table.areas[order],
        annotation_ids=table.annotation_ids[order],
        notes=notes,
        file_image_ids=None if truth.images.own is None else _objects(truth.images.own),
        file_category_ids=_own_category_ids(truth),
        masks=None if masks is None else masks.subset(np.arange(len(images)), order),
    )


def _own_category_ids(truth: Truth) -> dict[int, object] | None:
    own = truth.categories.own
    return None if own is None else dict(zip(truth.categories.numbers, own, strict=True))


def _objects(values: Sequence[object]) -> np.ndarray:
    """An array of any objects, which numpy leaves as they are."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _file_names(records: Sequence[Record], truth: Truth, source: Path) -> list[str]:
    names = [record.get("file_name") for record in records]
    nameless = [
        f"image {truth.images.numbers[place]} ({shown_value(name)})"
        for place, name in enumerate(names)
        if not isinstance(name, str) or not name.strip()
    ]
    if nameless:
        raise DataError(
            f"{source}: {some_of(len(nameless), len(names), 'image')} {have(len(nameless))} no 'file_name': {first_few(nameless)}; give each one."
        )
    return [str(name) for name in names]


def _categories(truth: Truth, source: Path) -> tuple[tuple[Category, ...], list[str]]:
    """The classes in the order of their ids, without placeholders: categories that have no objects and are only parents of others."""
    parents = [name_text(record.get("supercategory")) for record in truth.category_records]
    children = Counter(parents)
    used = set(truth.table.category_ids.tolist())
    kept: dict[str, Category] = {}
    twins: list[str] = []
    notes: list[str] = []
    for number, name, own_parent, record in sorted(
        zip(truth.categories.numbers, truth.category_names, parents, truth.category_records, strict=True),
        key=lambda entry: entry[0],
    ):
        is_parent = children[name] > (own_parent == name)  # a category may call itself its parent
        if is_parent and number not in used:
            notes.append(
                f"Category {record['id']} '{name}' has no objects and is only the parent of others, so it is not a class."
            )
            continue
        if name in kept:
            twins.append(f"categories {kept[name].id} and {number} are both named {name!r}")
            continue
        is_thing = record.get("isthing") not in (0, "0")  # panoptic files have it
        kept[name] = Category(id=number, name=name, index=len(kept), thing=is_thing)
    if twins:
        more = f" ({len(twins)} categories have the name of another.)" if len(twins) > 1 else ""
        raise DataError(f"{source}: {twins[0]}; rename one.{more}")
    if not kept:
        raise DataError(f"{source} has no categories to learn: add categories with an id and a name.")
    return tuple(kept.values()), notes


def _edge_notes(table: Table, images: ImageFiles, frames: Frames) -> list[str]:
    """A sentence about boxes that extend beyond their image, if there are any."""
    boxes_xyxy = table.boxes_xyxy
    limits = np.tile(frames.sizes[table.image_positions][:, ::-1], 2) + _EDGE_TOLERANCE
    outside: np.ndarray = np.any((boxes_xyxy < -_EDGE_TOLERANCE) | (boxes_xyxy > limits), axis=1)
    if not outside.any():
        return []
    rows = np.flatnonzero(outside)
    files = [images.name(position) for position in table.image_positions[rows].tolist()]
    note = (
        f"{some_of(len(rows), len(outside), 'box', 'boxes')} {agreeing(len(rows), 'extends', 'extend')} beyond the image "
        f"(the first: {table.label(int(rows[0]))} of {files[0]}); training clips {agreeing(len(rows), 'it', 'them')}."
    )
    return [Note(note, "over the edge", count=len(rows), files=files)]
