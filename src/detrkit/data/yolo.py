"""YOLO data sets, as Ultralytics and Roboflow users have them, read into a `DetectionDataset`.

Rules that a user may want to know:

- Where pictures and labels may lie is said in `yolo_layout`, what a line may be in `yolo_labels`, the YAML file in `yolo_description`.
- Categories have the class numbers as ids, from 0; all named classes are categories, also those without objects.
- Without names, classes are called by their numbers: as many as `nc` says, otherwise those that occur in the labels of all splits.
- Images are numbered from 1 in the sorted order of a split's file names.
- Fractions are of the picture as it is shown, so its EXIF orientation is applied.
- A picture with an empty label file, or without one while others have theirs, is a picture without objects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detrkit.data.coco import Record, build_dataset
from detrkit.data.dataset import DetectionDataset, NoImagesError, numbered_by_names
from detrkit.data.pictures import common_folder, inspect_pictures
from detrkit.data.split_names import spellings
from detrkit.data.yolo_description import YoloDescription
from detrkit.data.yolo_labels import LabelledObject, LabelReader, class_numbers
from detrkit.data.yolo_layout import YoloSplit, find_splits, find_splits_in_file, pair_pictures, splits_without_pictures
from detrkit.errors import DataError
from detrkit.files import expanded


def read_yolo(
    data: str | Path, split: str, *, name: str | None = None, stretch_16bit: bool = False
) -> DetectionDataset:
    """One split of a YOLO data set.

    Args:
        data: a YAML file or Darknet's `obj.data`, or a folder with one, or with `images` and `labels`.
        split: as the YAML file or the folders name it, such as `train`; `val`, `valid` and `validation` mean the same.
        name: for messages; by default the folder's name and the split.
        stretch_16bit: whether 16-bit grey pictures are stretched to the whole range, see `read_image`.

    Raises:
        NoImagesError: the split has no pictures.
        DataError: the description, a list, a label file or a picture is missing or cannot be used; the message names the file and the remedy.
    """
    path = expanded(data)
    splits = find_splits(path) if path.is_dir() else find_splits_in_file(path)
    spelling = next((spelling for spelling in spellings(split) if spelling in splits), None)
    if spelling is None:
        empty = splits_without_pictures(splits) if splits else {}
        named = next((spelling for spelling in spellings(split) if spelling in empty), None)
        if named is not None:
            raise NoImagesError(empty[named])
        raise DataError(f"{path} has no split '{split}' in YOLO's layout, but {', '.join(splits) or 'none'}.")
    folder = path if path.is_dir() else path.parent
    return read_split(splits[spelling], name or f"{folder.resolve().name} {split}", stretch_16bit=stretch_16bit)


def read_split(split: YoloSplit, name: str, *, stretch_16bit: bool = False) -> DetectionDataset:
    """The same, for one of `yolo_layout.find_splits`; the option is as for `read_coco`."""
    paired = pair_pictures(split)
    description = split.description
    names = _class_names(description)
    reader = LabelReader(names, description.key_points, description.source)
    objects = [reader.read(file) if file is not None else [] for file in paired.labels]
    facts = inspect_pictures(paired.pictures)
    sizes = [each.shown_size for each in facts]
    reader.check([size for size, file in zip(sizes, paired.labels, strict=True) if file is not None])
    folder = common_folder(paired.pictures)
    images = [
        {"id": number, "file_name": picture.relative_to(folder).as_posix(), "height": height, "width": width}
        for number, (picture, (height, width)) in enumerate(zip(paired.pictures, sizes, strict=True), start=1)
    ]
    contents: dict[str, list[Record]] = {
        "images": images,
        "annotations": _annotations(objects, images),
        "categories": [{"id": number, "name": class_name} for number, class_name in names.items()],
    }
    built = build_dataset(
        contents,
        description.source,
        folder,
        name,
        facts=facts,
        units=None,
        orientation="shown",
        stretch_16bit=stretch_16bit,
    )
    dataset = numbered_by_names(built)
    return dataclasses.replace(dataset, notes=(*paired.notes, *reader.notes(), *dataset.notes, *reader.doubts()))


def _class_names(description: YoloDescription) -> dict[int, str]:
    """The classes by their numbers; those that have no names are called by their numbers."""
    if description.names is not None:
        return description.names
    # Every split is looked at, so that all have the same classes.
    files = [file for key in description.splits for file in _label_files(YoloSplit(description, key))]
    return {number: str(number) for number in sorted(class_numbers(files))}


def _label_files(split: YoloSplit) -> list[Path]:
    try:
        return [file for file in pair_pictures(split).labels if file is not None]
    except DataError:  # a split without pictures or labels is an error when it is read itself
        return []


def _annotations(objects: Sequence[Sequence[LabelledObject]], images: Sequence[dict[str, Any]]) -> list[Record]:
    """The objects in COCO's format: pixels, left, top, width and height."""
    records: list[Record] = []
    for image, found in zip(images, objects, strict=True):
        width, height = image["width"], image["height"]
        for each in found:
            box = [part * side for part, side in zip(each.box_xywh, (width, height, width, height), strict=True)]
            record = {"image_id": image["id"], "category_id": each.number, "bbox": box}
            records.append({"id": len(records) + 1, "area": each.area * width * height, "iscrowd": 0, **record})
    return records
