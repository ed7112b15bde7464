"""Folders of masks: for each picture a PNG file of the same name whose pixels are the numbers of classes.

- `images/<split>/` with `masks/<split>/`, or `<split>/images/` with `<split>/masks/`, or `images/` with `masks/` alone, which is then `train`.
- `classes.txt` names the classes, one in each line: the first is the value 1, the second 2, and so on. Where the first line is `background`,
  it is the value 0. The value 0 is background; the highest value (255, in files of 16 bits 65,535) belongs to nothing.
- `instances/` beside `masks/`, if there is one, has PNG files whose pixels are the numbers of objects: 1 and up, 0 for none. Every class then
  consists of objects, except those that `stuff.txt` lists. Without `instances/` every class is stuff: one segment in a picture.
- Pascal VOC's own folders are the same: `SegmentationClass/`, `SegmentationObject/`, `JPEGImages/` and `ImageSets/Segmentation/<split>.txt`.

Files may be grey with 8 or 16 bits, or have a palette, whose colours mean nothing. Boxes and areas come from the pixels, so all masks are
decoded when the data set is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from detrkit.data.coco import build_dataset
from detrkit.data.coco_frames import Orientation
from detrkit.data.coco_truth import Record
from detrkit.data.dataset import DetectionDataset, numbered_by_names
from detrkit.data.findings import Changes, Faults, Note
from detrkit.data.id_maps import MapMasks, Segments, chosen, other_size, segments_of
from detrkit.data.images import ImageFacts, readable
from detrkit.data.mask_layout import STUFF, MaskSplit, listed_stuff, matched_files
from detrkit.data.pictures import inspect_pictures
from detrkit.data.text_files import read_lines
from detrkit.data.wording import agreeing, counted, first_few, have, some_of, were
from detrkit.errors import DataError

_CLASSES, _BACKGROUND = "classes.txt", "background"
_VOID = {"P": 255, "L": 255, "I;16": 65535, "I;16B": 65535, "I": 65535}
_OBJECT_BITS, _MOST_OBJECTS = 16, 2**15 - 1
_LOWEST_ID = 2**_OBJECT_BITS - 1  # ids above are those of objects
_THREADS = 8


@dataclass(frozen=True)
class _Classes:
    """What values mean.

    Attributes:
        source: the file that says so.
        names: by value, without the background.
        things: the values of those that consist of objects.
    """

    source: Path
    names: dict[int, str]
    things: frozenset[int]


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """Id maps put together from a file of classes and one of objects: an id is class + 65,536 × object, or the class alone for stuff.

    Attributes:
        classes: folder of the files of classes.
        objects: folder of the files of objects; None without.
        files: (I,) strings, names in both folders.
        things: (65536,) bool, whether a value of a class consists of objects.
    """

    classes: Path
    objects: Path | None
    files: np.ndarray
    things: np.ndarray

    def path(self, index: int) -> Path:
        """The file of classes of one image."""
        return self.classes / str(self.files[index])

    def read(self, index: int, rows: np.ndarray | None = None, columns: np.ndarray | None = None) -> np.ndarray:
        """The id map of one image; see `IdMaps`."""
        classes, _ = _values(self.path(index), rows, columns)
        return self.joined(classes, self.read_objects(index, rows, columns))

    def read_objects(
        self, index: int, rows: np.ndarray | None = None, columns: np.ndarray | None = None
    ) -> np.ndarray | None:
        """(h, w) int32, the number of the object of each pixel, 0 for none; None without files of objects; see `IdMaps`."""
        return None if self.objects is None else _values(self.objects / str(self.files[index]), rows, columns)[0]

    def joined(self, classes: np.ndarray, objects: np.ndarray | None) -> np.ndarray:
        """(h, w) int32, the id map from the numbers of classes and of objects."""
        if objects is None:
            return classes
        of_things = np.where(objects == 0, 0, classes | objects << _OBJECT_BITS)
        joined: np.ndarray = np.where(self.things[classes], of_things, classes)
        return joined

    def subset(self, images: np.ndarray) -> ClassMaps:
        """Those of some images."""
        return replace(self, files=self.files[images])


def read_split(
    split: MaskSplit, name: str, *, orientation: Orientation = "auto", stretch_16bit: bool = False, whole: bool
) -> DetectionDataset:
    """The data set of a split; every segment is an object with a mask.

    Args:
        split: one of `find_splits`.
        name: of the data set, for messages.
        orientation: as for `read_coco`.
        stretch_16bit: as for `read_coco`, for the photos.
        whole: whether stuff counts, too; otherwise only objects do.

    Raises:
        NoImagesError: the split has no pictures with masks.
        DataError: a file is missing or cannot be used, or files do not fit each other.
    """
    if not whole and split.objects is None:
        raise DataError(
            f"{split.root} has masks of classes, but no folder 'instances' that tells objects apart: add it, or read the masks as panoptic "
            "(--masks panoptic, in Python masks='panoptic')."
        )
    classes = _read_classes(split)
    pictures, files, notes = matched_files(split)
    things = np.zeros(2**_OBJECT_BITS, np.bool_)
    things[list(classes.things)] = True
    maps = ClassMaps(split.classes, split.objects, np.array(files), things)
    sizes = _check_headers(maps, split.pictures, pictures)
    segments, value_notes = _measured(maps, classes)
    kept = [(ids, seen) if whole else _objects_only(ids, seen) for ids, seen in segments]
    built = build_dataset(
        _contents(pictures, sizes, kept, classes),
        split.classes,
        split.pictures,
        name,
        units=None,
        orientation=orientation,
        stretch_16bit=stretch_16bit,
    )
    _check_sizes(maps, sizes, built)
    ids = np.concatenate([*(ids for ids, _ in kept), np.zeros(0, np.int32)])[built.annotation_ids - 1]
    dataset = numbered_by_names(built)
    left_out = [] if whole else _stuff_notes(segments, classes)
    all_notes = (*notes, *value_notes, *left_out, *dataset.notes)
    return replace(dataset, masks=MapMasks(maps, ids, whole), notes=all_notes)


def _read_classes(split: MaskSplit) -> _Classes:
    source = split.root / _CLASSES
    if not source.is_file():
        raise DataError(
            f"{source} does not exist: write the names of the classes into it, one per line, in the order of the values 1, 2 and so on."
        )
    lines = [line.strip() for line in read_lines(source)]
    names = [line for line in lines if line]
    first = 0 if names and names[0].lower() == _BACKGROUND else 1
    by_value = {value: name for value, name in enumerate(names, start=first) if value}
    if not by_value or len(set(by_value.values())) < len(by_value):
        problem = "names no classes" if not by_value else "has a name twice"
        raise DataError(
            f"{source} {problem}: write each name once, one per line, in the order of the values 1, 2 and so on."
        )
    stuff = set(by_value.values()) if split.objects is None else listed_stuff(split)
    unknown = sorted(stuff - set(by_value.values()))
    if unknown:
        raise DataError(
            f"{split.root / STUFF} lists {first_few(unknown)}, which {_CLASSES} does not: use the same names."
        )
    return _Classes(source, by_value, frozenset(value for value, name in by_value.items() if name not in stuff))


def _values(
    path: Path, rows: np.ndarray | None = None, columns: np.ndarray | None = None
) -> tuple[np.ndarray, int | None]:
    """(h, w) int32 values of a file, 0 in place of the one that belongs to nothing, and this one if the file has it."""
    with readable(str(path)), Image.open(path) as image:
        void = _VOID.get(image.mode, -1)
        values = chosen(np.asarray(image), rows, columns).astype(np.int32)
    is_void = values == void
    values[is_void] = 0
    return values, void if is_void.any() else None


def _check_headers(maps: ClassMaps, folder: Path, pictures: Sequence[str]) -> list[tuple[int, int]]:
    """Heights and widths of the masks; refuses files with colours, and masks of objects of another size. Nothing is decoded for it."""
    faults = Faults()
    paths = [maps.path(index) for index in range(len(pictures))]
    photos = [folder / name for name in pictures]
    facts = inspect_pictures(paths)
    _check_modes(paths, facts, faults)
    if maps.objects is not None:
        objects = [maps.objects / path.name for path in paths]
        lacking = [path.name for path in objects if not path.is_file()]
        if lacking:
            raise DataError(
                f"{maps.objects}: {some_of(len(lacking), len(paths), 'mask')} of objects {agreeing(len(lacking), 'is', 'are')} missing: "
                f"{first_few(lacking)}; add {agreeing(len(lacking), 'it', 'them')}."
            )
        of_objects = inspect_pictures(objects)
        _check_modes(objects, of_objects, faults)
        differ = [
            place
            for place, (one, other) in enumerate(zip(of_objects, facts, strict=True))
            if one.stored_size != other.stored_size
        ]
        for place, photo in zip(differ, inspect_pictures([photos[place] for place in differ]), strict=True):
            pair = ((paths[place], facts[place]), (objects[place], of_objects[place]))
            _add_size_faults(faults, pair, photos[place].name, photo)
    faults.check()
    return [fact.stored_size for fact in facts]


def _add_size_faults(faults: Faults, masks: Sequence[tuple[Path, ImageFacts]], name: str, photo: ImageFacts) -> None:
    """Names those of a photo's two masks, which have different sizes, that differ from the photo as well."""
    sizes = {fact.stored_size for _, fact in masks}
    wanted = photo.stored_size if photo.shown_size not in sizes else photo.shown_size
    for path, fact in masks:
        if fact.stored_size != wanted:
            faults.add("size", str(path), other_size(fact.stored_size, wanted, name))


def _check_modes(paths: Sequence[Path], facts: Sequence[ImageFacts], faults: Faults) -> None:
    for path, fact in zip(paths, facts, strict=True):
        if fact.mode not in _VOID:
            sentence = (
                f"is a picture of mode {fact.mode}, whose pixels are no single numbers: save the mask in grey with 8 or 16 bits, or with a "
                "palette, so that a value is the number of a class."
            )
            faults.add("mode", str(path), sentence)


def _check_sizes(maps: ClassMaps, sizes: Sequence[tuple[int, int]], dataset: DetectionDataset) -> None:
    faults = Faults()
    for index, (size, wanted) in enumerate(zip(sizes, dataset.sizes.tolist(), strict=True)):
        if size != tuple(wanted):
            faults.add("size", str(maps.path(index)), other_size(size, wanted, dataset.image_name(index)))
    faults.check()


def _measured(maps: ClassMaps, classes: _Classes) -> tuple[list[tuple[np.ndarray, Segments]], list[str]]:
    """The segments of every picture, their ids with their areas and boxes, and notes.

    Raises:
        DataError: a file cannot be read, or has values that stand for no class.
    """

    def look(index: int) -> _Look | DataError:
        try:
            return _look(maps, index)
        except DataError as error:
            return error

    faults, changes, found, has_classes = Faults(), Changes(), [], False
    with ThreadPoolExecutor(_THREADS) as pool:
        for index, seen in enumerate(pool.map(look, range(len(maps.files)))):
            if isinstance(seen, DataError):
                raise seen
            path = str(maps.path(index))
            _add_faults(faults, path, seen, classes)
            if seen.lost:
                changes.add("no object", path, path)
            if seen.mixed:
                changes.add("mixed", f"object {seen.mixed} of {path}", path)
            if seen.void is not None and not any(seen.values):
                changes.add("binary", str(seen.void), path)
            has_classes |= any(seen.values)
            found.append((seen.ids, seen.segments))
    faults.check()
    return found, [*_value_notes(changes), *([] if has_classes else _binary_notes(changes))]


@dataclass(frozen=True, eq=False)
class _Look:
    """What decoding one mask showed.

    Attributes:
        ids: (S,) int32 of its segments.
        segments: what they are like.
        values: numbers of pixels, by value.
        lost: number of pixels that have a class of objects but no object, or the reverse.
        mixed: the first object that has pixels of things and of stuff; 0 if none has.
        void: the value that belongs to nothing; None if no pixel of a class's mask has it.
    """

    ids: np.ndarray
    segments: Segments
    values: dict[int, int]
    lost: int
    mixed: int
    void: int | None


def _look(maps: ClassMaps, index: int) -> _Look:
    values, void = _values(maps.path(index))
    objects = maps.read_objects(index)
    id_map = maps.joined(values, objects)
    present, counts = np.unique(values, return_counts=True)
    any_value = values if objects is None else values | objects
    lost = int(((id_map == 0) & (any_value != 0)).sum())
    by_value = dict(zip(present.tolist(), counts.tolist(), strict=True))
    return _Look(*segments_of(id_map), by_value, lost, 0 if objects is None else _mixed(maps, values, objects), void)


def _mixed(maps: ClassMaps, classes: np.ndarray, objects: np.ndarray) -> int:
    """The first object with pixels of things and of stuff, 0 if there is none."""
    is_thing = maps.things[classes]
    of_things = np.bincount(objects[is_thing], minlength=1) > 0
    of_stuff = np.bincount(objects[~is_thing & (classes != 0)], minlength=1) > 0
    both = min(len(of_things), len(of_stuff))
    return next(iter((np.flatnonzero(of_things[1:both] & of_stuff[1:both]) + 1).tolist()), 0)


def _add_faults(faults: Faults, path: str, seen: _Look, classes: _Classes) -> None:
    for value, count in seen.values.items():
        if value and value not in classes.names:
            sentence = f"has {counted(count, 'pixel')} of the value {value}, for which {classes.source} has no name: add it, or correct the mask."
            faults.add("value", path, sentence)
    if (seen.ids < 0).any():
        faults.add(
            "number",
            path,
            f"has an object with a number above {_MOST_OBJECTS:,}: number the objects of a picture from 1.",
        )
    objects, counts = np.unique(seen.ids[seen.ids > _LOWEST_ID] >> _OBJECT_BITS, return_counts=True)
    if (counts > 1).any():
        number = int(objects[counts > 1][0])
        sentence = f"has pixels of several classes in object {number}: an object has one class, so correct the one mask or the other."
        faults.add("classes", path, sentence)


def _objects_only(ids: np.ndarray, seen: Segments) -> tuple[np.ndarray, Segments]:
    kept = ids > _LOWEST_ID
    return ids[kept], replace(seen, areas=seen.areas[kept], boxes_xyxy=seen.boxes_xyxy[kept])


def _stuff_notes(segments: Sequence[tuple[np.ndarray, Segments]], classes: _Classes) -> list[str]:
    """A sentence about the stuff that is left out where only objects are read, if there is any."""
    stuff = np.concatenate([ids[ids <= _LOWEST_ID] for ids, _ in segments])
    if not len(stuff):
        return []
    names = first_few([classes.names[value] for value in np.unique(stuff).tolist()])
    text = (
        f"{counted(len(stuff), 'segment')} of stuff ({names}) {were(len(stuff))} left out, since only objects are read: to keep "
        f"{agreeing(len(stuff), 'it', 'them')}, read the masks as panoptic (--masks panoptic, in Python masks='panoptic')."
    )
    return [Note(text, "stuff", count=len(stuff))]


def _value_notes(changes: Changes) -> list[str]:
    return changes.notes(
        {
            "no object": lambda number, first: (
                f"{counted(number, 'mask')} {have(number)} pixels with a class of objects and no object, or the reverse; they count as nothing "
                f"(the first: {first})."
            ),
            "mixed": lambda number, first: (
                f"{counted(number, 'mask')} {have(number)} objects that also have pixels of stuff, which count as stuff (the first: {first})."
            ),
        }
    )


def _binary_notes(changes: Changes) -> list[str]:
    """A sentence about masks that have background and void alone, where no mask has a class."""
    return changes.notes(
        {
            "binary": lambda number, void: (
                f"No mask has a class: {counted(number, 'mask')} {have(number)} only 0 and {void}, and {void} belongs to nothing; write the "
                f"number of the class, 1 for the first, in place of {void}."
            )
        }
    )


def _contents(
    pictures: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    segments: Sequence[tuple[np.ndarray, Segments]],
    classes: _Classes,
) -> dict[str, list[Record]]:
    """Segments as COCO's annotations of boxes, numbered in their order."""
    images = [
        {"id": number, "file_name": picture, "height": height, "width": width}
        for number, (picture, (height, width)) in enumerate(zip(pictures, sizes, strict=True), start=1)
    ]
    annotations: list[Record] = []
    for image, (ids, seen) in zip(images, segments, strict=True):
        for identifier, area, (left, top, right, bottom) in zip(
            ids.tolist(), seen.areas.tolist(), seen.boxes_xyxy.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": identifier & (2**_OBJECT_BITS - 1),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": area,
                }
            )
    categories = [
        {"id": value, "name": name, "isthing": int(value in classes.things)} for value, name in classes.names.items()
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
