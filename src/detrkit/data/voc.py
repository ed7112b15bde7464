"""Pascal VOC data sets, read into a `DetectionDataset`; `voc_layout` says where their files may lie.

Rules that a user may want to know:

- Pixels count from 1 and both corners belong to the box, so `xmin`..`xmax` covers x from xmin - 1 to xmax.
- Classes are the names of all objects of all splits, sorted, with ids from 1; so all splits agree, whichever classes each contains.
- With lists, image ids count from 1 over the sorted image names of all splits; an image has the same id in `train` and in `trainval`.
  Without lists they count from 1 in each split.
- Objects marked `difficult` become crowd regions: they are not trained on, and detections inside them are ignored.
- Swapped corners are swapped back; `voc_corners` says when they are left, top, width and height instead, which is refused. A box whose corners coincide in x or y would be one pixel wide by the rule above; in practice it is a
  click without a drag. It is dropped like a COCO box without area.
- An object without a box, but with a polygon, has the box around the polygon.
- An image that a list names must have an XML file. Without lists, a picture without an XML file is a picture without objects.
- A size that differs from the picture's by a pixel is passed over; any other difference is an error.
- Everything else (boxes beyond the edge, EXIF, the check of all files) works as for COCO, whose reader does it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detrkit.data.coco import Record, build_dataset
from detrkit.data.coco_frames import Orientation
from detrkit.data.dataset import DetectionDataset, NoImagesError, numbered_by_names
from detrkit.data.findings import Note
from detrkit.data.split_names import spellings
from detrkit.data.voc_corners import PlacedObject, check_corners
from detrkit.data.voc_files import ListedImage, find_pictures, listed_images, without_ending
from detrkit.data.voc_layout import (
    LOOKED_FOR,
    annotation_folder,
    explain_missing_split,
    find_splits,
    split_is_assumed,
    splits_beside,
)
from detrkit.data.voc_sizes import settle_sizes, size_in_header
from detrkit.data.voc_xml import Annotation, VocObject, read_annotation
from detrkit.data.wording import agreeing, are, first_few, have, some_of, were
from detrkit.errors import DataError, closest
from detrkit.files import expanded

__all__ = ["LOOKED_FOR", "explain_missing_split", "find_splits", "read_split", "read_voc"]


@dataclass(frozen=True)
class _Image:
    """One image of a split: its name, its picture relative to the folder of pictures, and what its XML file says, if it has one."""

    name: str
    picture: str
    file: Path | None
    annotation: Annotation


_WITHOUT_OBJECTS = Annotation("", None, None, ())


def read_voc(
    folder: str | Path,
    split: str,
    *,
    name: str | None = None,
    orientation: Orientation = "auto",
    stretch_16bit: bool = False,
) -> DetectionDataset:
    """One split of a Pascal VOC data set.

    Args:
        folder: in one of the layouts that `voc_layout` knows, such as `JPEGImages`, `Annotations` and `ImageSets/Main`.
        split: `train`, `val`, `test` or the name of a list in `ImageSets/Main`.
        name: for messages; by default the folder's name and the split.
        orientation: whether pictures with an EXIF orientation were annotated as "stored" or as "shown"; "auto" finds out by sizes and boxes.
        stretch_16bit: whether 16-bit grey pictures are stretched to the whole range, see `read_image`.

    Raises:
        NoImagesError: the split lists no images.
        DataError: a list, an annotation file or an image is missing or cannot be used; the message names the file and the remedy.
    """
    folder = expanded(folder)
    splits = find_splits(folder) if folder.is_dir() else {}
    if not splits:
        raise DataError(f"{folder} is not a Pascal VOC folder: it has none of {', '.join(LOOKED_FOR)}.")
    spelling = next((spelling for spelling in spellings(split) if spelling in splits), None)
    if spelling is None:
        reason = explain_missing_split(splits) or closest(split, splits)
        raise DataError(f"{folder} has no split '{split}': {reason}")
    name = name or f"{folder.resolve().name} {split}"
    return read_split(splits[spelling], name, orientation=orientation, stretch_16bit=stretch_16bit)


def read_split(
    source: Path, name: str, *, orientation: Orientation = "auto", stretch_16bit: bool = False
) -> DetectionDataset:
    """The same, from one of `find_splits`: a list of images or a folder of XML files; options as for `read_coco`."""
    listed, list_notes = _listed(source)
    files = [image.annotation for images in listed.values() for image in images if image.annotation]
    annotations = _read_annotations(list(dict.fromkeys(files)))
    pictures, images, picture_notes = _images(source, listed[source], annotations)
    area_notes = _check_boxes(images, source)
    ids = _image_ids(source, listed.values(), images)
    records, size_notes = settle_sizes(_image_records(images, ids), [image.file for image in images], pictures)
    corner_notes = _check_corners(images, records, pictures, source)
    categories = _category_records(annotations.values())
    contents = {
        "images": records,
        "categories": categories,
        "annotations": _annotation_records(images, records, categories),
    }
    built = build_dataset(
        contents,
        annotation_folder(source),
        pictures,
        name,
        units="voc",
        orientation=orientation,
        stretch_16bit=stretch_16bit,
    )
    read_notes = [
        *list_notes,
        *picture_notes,
        *size_notes,
        *area_notes,
        *corner_notes,
        *_object_notes(images),
    ]
    dataset = numbered_by_names(built)
    return dataclasses.replace(dataset, notes=(*read_notes, *dataset.notes))


def _listed(source: Path) -> tuple[dict[Path, list[ListedImage]], list[str]]:
    """The images of all splits beside a source, by the places of the splits; and notes.

    Raises:
        NoImagesError: the source itself lists none.
    """
    splits = splits_beside(source)
    notes: list[str] = []
    if split_is_assumed(splits):
        notes.append("Nothing says which split the pictures are, so all of them are 'train'.")
    listed: dict[Path, list[ListedImage]] = {}
    for place in splits.values():
        listed[place], more = listed_images(place, needed=place == source)
        notes += more if place == source else []
    if not listed[source]:
        raise NoImagesError(f"{source} lists no images: write the names of the split's images into it, one per line.")
    return listed, notes


def _read_annotations(files: Sequence[Path]) -> dict[Path, Annotation]:
    annotations: dict[Path, Annotation] = {}
    errors: dict[Path, DataError] = {}
    for file in files:
        try:
            annotations[file] = read_annotation(file)
        except DataError as error:
            errors[file] = error
    if errors:
        names = first_few([file.name for file in errors])
        more = f" ({len(errors)} of the {len(files)} XML files cannot be used: {names}.)" if len(errors) > 1 else ""
        raise DataError(f"{next(iter(errors.values()))}{more}")
    return annotations


def _images(
    source: Path, listed: Sequence[ListedImage], annotations: dict[Path, Annotation]
) -> tuple[Path, list[_Image], list[str]]:
    """The folder of the pictures, the images of a split with their pictures, and notes."""
    file_names = {image.annotation: annotations[image.annotation].file_name for image in listed if image.annotation}
    found = find_pictures(source, file_names)

    def relative(picture: Path) -> str:
        return picture.relative_to(found.folder).as_posix()

    images = [
        _Image(
            image.name,
            relative(found.of_annotations[image.annotation]),
            image.annotation,
            annotations[image.annotation],
        )
        for image in listed
        if image.annotation
    ]
    if source.is_file() or not found.without_annotation:
        return found.folder, images, list(found.notes)
    names = [relative(picture) for picture in found.without_annotation]
    images += [_Image(without_ending(name), name, None, _WITHOUT_OBJECTS) for name in names]
    count = len(names)
    text = (
        f"{some_of(count, len(images), 'picture')} {have(count)} no XML file and {agreeing(count, 'counts as a picture', 'count as pictures')} "
        f"without objects (the first: {names[0]})."
    )
    note = Note(text, "no XML file", count=count, files=names)
    return found.folder, sorted(images, key=lambda image: (image.name, image.picture)), [*found.notes, note]


def _image_ids(source: Path, listed: Iterable[Sequence[ListedImage]], images: Sequence[_Image]) -> list[int]:
    if source.is_dir():
        return list(range(1, len(images) + 1))
    names = sorted({image.name for split in listed for image in split})
    ids = {name: number for number, name in enumerate(names, start=1)}
    return [ids[image.name] for image in images]


def _image_records(images: Sequence[_Image], ids: Sequence[int]) -> list[Record]:
    return [
        {
            "id": identifier,
            "file_name": image.picture,
            "height": image.annotation.height,
            "width": image.annotation.width,
        }
        for image, identifier in zip(images, ids, strict=True)
    ]


def _category_records(annotations: Iterable[Annotation]) -> list[Record]:
    names = sorted({each.name for annotation in annotations for each in annotation.objects})
    return [{"id": number, "name": name} for number, name in enumerate(names, start=1)]


def _annotation_records(
    images: Sequence[_Image], records: Sequence[Record], categories: Sequence[Record]
) -> list[Record]:
    """The boxes that have an area, in COCO's format: left, top, width, height, counted from 0."""
    ids = {category["name"]: category["id"] for category in categories}
    annotations: list[Record] = []
    for image, record in zip(images, records, strict=True):
        for each in image.annotation.objects:
            if each.has_area:
                left, top, right, bottom = each.box_xyxy
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": record["id"],
                    "category_id": ids[each.name],
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": int(each.difficult),
                }
                annotations.append(annotation)
    return annotations


def _check_boxes(images: Sequence[_Image], source: Path) -> list[str]:
    """Refuses fractions of the image and splits in which no box has an area; notes boxes that are dropped."""
    objects = [each for image in images for each in image.annotation.objects]
    with_area = [each for each in objects if each.has_area]
    fractions = [each for each in with_area if max(each.corners) <= 1]
    if 2 * len(fractions) > len(with_area):  # a few may reach beyond 1 by rounding
        which = (
            "all boxes" if len(fractions) == len(with_area) else some_of(len(fractions), len(with_area), "box", "boxes")
        )
        raise DataError(
            f"{source}: {which} lie within 0..1, so they are fractions of the image; multiply them by its width and height."
        )
    dropped = _found(images, lambda each: not each.has_area)
    if dropped is None:
        return []
    fault = "no area (xmin is xmax, or ymin is ymax)"
    if not with_area:
        raise DataError(
            f"{source}: {agreeing(len(objects), 'the only box has', f'all {len(objects)} boxes have')} {fault}, so there is nothing to find in this split (the first: {dropped.first}); draw the "
            "boxes again, or export the annotations again."
        )
    count = dropped.count
    note = f"{some_of(count, len(objects), 'box', 'boxes')} {have(count)} {fault} and {were(count)} left out (the first: {dropped.first})."
    return [Note(note, "no area", count=count, files=dropped.files)]


@dataclass(frozen=True)
class _Count:
    """How many objects there are of one kind, and which one is the first."""

    count: int
    first: str
    files: tuple[str, ...]


def _found(images: Sequence[_Image], is_meant: Callable[[VocObject], bool]) -> _Count | None:
    """The objects of one kind, or None if there are none."""
    places = [
        (image, number)
        for image in images
        for number, each in enumerate(image.annotation.objects, start=1)
        if is_meant(each)
    ]
    if not places:
        return None
    image, number = places[0]
    return _Count(len(places), _place(image, number), tuple(_file_name(each) for each, _ in places))


def _check_corners(images: Sequence[_Image], records: Sequence[Record], folder: Path, source: Path) -> list[str]:
    """Refuses boxes whose corners are left, top, width and height; notes swapped corners."""
    if not any(each.is_swapped for image in images for each in image.annotation.objects):
        return []
    placed = []
    for image, record in zip(images, records, strict=True):
        known = record["height"] is not None and record["width"] is not None
        size = (record["height"], record["width"]) if known else size_in_header(folder / image.picture)
        for number, each in enumerate(image.annotation.objects, start=1):
            if each.has_area:
                placed.append(PlacedObject(each, size, _place(image, number)))
    return check_corners(placed, sum(len(image.annotation.objects) for image in images), source)


def _place(image: _Image, number: int) -> str:
    return f"object {number} of {_file_name(image)}"


def _file_name(image: _Image) -> str:
    return image.file.name if image.file else image.picture


def _object_notes(images: Sequence[_Image]) -> list[str]:
    total = sum(len(image.annotation.objects) for image in images)
    polygons = _found(images, lambda each: each.from_polygon)
    commas = _found(images, lambda each: each.decimal_commas)
    difficult = _found(images, lambda each: each.difficult and each.has_area)
    notes: list[str] = []
    if polygons:
        note = (
            f"{some_of(polygons.count, total, 'object')} {have(polygons.count)} a polygon and no bndbox, and got the box around it "
            f"(the first: {polygons.first})."
        )
        notes.append(Note(note, "polygon", count=polygons.count, files=polygons.files))
    if commas:
        note = (
            f"{some_of(commas.count, total, 'box', 'boxes')} {have(commas.count)} decimal commas, which were read as decimal points "
            f"(the first: {commas.first})."
        )
        notes.append(Note(note, "decimal commas", count=commas.count, files=commas.files))
    if difficult:
        count = difficult.count
        note = (
            f"{some_of(count, total, 'object')} {are(count)} marked difficult and {were(count)} made "
            f"{agreeing(count, 'a crowd region', 'crowd regions')}: not trained on, and detections inside are ignored."
        )
        notes.append(Note(note, "difficult", count=count, files=difficult.files))
    return notes
