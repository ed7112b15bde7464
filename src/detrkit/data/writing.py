"""Writes data sets as files in COCO's and YOLO's layout, with their pictures copied byte by byte.

Rules that a user may want to know:

- Pictures keep their names where these are unique within a split; otherwise the folders above become part of the name, then a number.
- Boxes that were annotated on the stored pixels of a turned picture are turned with it: copies keep their EXIF orientation, and every
  reader that applies it finds the boxes in place. A note counts these pictures.
- COCO keeps the ids and names of images and categories. Annotations keep their ids, unless 0 or the same id twice is among them.
- YOLO numbers classes from 0 without gaps, has no crowd regions (left out, with a note) and no ids. Fractions have nine decimals: reading
  them gives the boxes back within a millionth of the picture's side. A box that YOLO cannot hold, because its centre or size leaves the
  picture, is clipped to it.

Outlines are not kept: a `DetectionDataset` has boxes only.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import yaml
from PIL import ExifTags, Image

from detrkit.data.dataset import DetectionDataset, ImageFiles
from detrkit.data.file_names import folded
from detrkit.data.findings import Changes, Sentence
from detrkit.data.pictures import PICTURE_SUFFIXES
from detrkit.data.wording import agreeing, counted, were
from detrkit.data.yolo_description import check_split_name, described_so_far
from detrkit.errors import OutputError
from detrkit.files import write_json, write_text

_DECIMALS = 9
_YAML = "data.yaml"

_YOLO_SENTENCES: dict[str, Sentence] = {
    "crowd": lambda number, first: (
        f"{counted(number, 'crowd region')} {were(number)} left out, which YOLO cannot mark (the first: in {first})."
    ),
    "clipped": lambda number, first: (
        f"{counted(number, 'box', 'boxes')} {were(number)} clipped to the picture, for YOLO's numbers end there (the first: in {first})."
    ),
    "repeated": lambda number, first: (
        f"{counted(number, 'box', 'boxes')} {agreeing(number, 'repeats', 'repeat')} another of the same class in the same picture and "
        f"{were(number)} written once, for YOLO's readers leave repeated lines out (the first: in {first})."
    ),
    "outside": lambda number, first: (
        f"{counted(number, 'box', 'boxes')} {agreeing(number, 'lies', 'lie')} outside the picture and {were(number)} left out "
        f"(the first: in {first})."
    ),
}


def write_coco(dataset: DetectionDataset, folder: Path, split: str) -> list[str]:
    """Writes `annotations/instances_<split>.json`, and the pictures into `<split>/`.

    Args:
        dataset: one split.
        folder: of the whole data set; other splits may be in it already.
        split: the name of the split.

    Returns:
        Notes: what could not be kept, in plain sentences with counts.

    Raises:
        OutputError: a file cannot be written.
    """
    dataset, notes = as_shown(dataset)
    content = dataset.to_coco(own_ids=True)
    ids = dataset.annotation_ids
    if len(np.unique(ids)) == len(ids) and not (ids == 0).any():
        for entry, annotation_id in zip(content["annotations"], ids.tolist(), strict=True):
            entry["id"] = annotation_id
    else:
        notes.append(
            "Annotations are numbered anew from 1: their ids were not unique, or 0, which evaluators take for none."
        )
    for entry, name in zip(content["images"], copy_pictures(dataset, folder / split), strict=True):
        entry["file_name"] = name
    write_json(folder / "annotations" / f"instances_{split}.json", content)
    return notes


def write_yolo(dataset: DetectionDataset, folder: Path, split: str) -> list[str]:
    """Writes `labels/<split>/<picture>.txt`, the pictures into `images/<split>/`, and the split and the classes into `data.yaml`.

    Args:
        dataset: one split.
        folder: of the whole data set; classes of other splits that are in it already keep their numbers.
        split: the name of the split.

    Returns:
        Notes: what could not be kept, in plain sentences with counts.

    Raises:
        DataError: the split has a name that means something else in the YAML file.
        OutputError: a file cannot be written.
    """
    dataset, notes = as_shown(dataset)
    numbers = _describe_split(dataset, folder / _YAML, split)
    changes = Changes()
    names = copy_pictures(dataset, folder / "images" / split)
    for index, name in enumerate(names):
        lines = _label_lines(dataset, index, numbers, changes)
        write_text(
            folder / "labels" / split / f"{PurePosixPath(name).stem}.txt", "".join(f"{line}\n" for line in lines)
        )
    return [*notes, *changes.notes(_YOLO_SENTENCES)]


def _describe_split(dataset: DetectionDataset, file: Path, split: str) -> list[int]:
    """Adds a split and its classes to the YAML file; returns the number of each category."""
    check_split_name(split)
    splits, names = described_so_far(file) if file.is_file() else ({}, {})
    numbers = {name: number for number, name in names.items()}
    for category in dataset.categories:
        numbers.setdefault(category.name, max(numbers.values(), default=-1) + 1)
    content = {**splits, split: f"images/{split}", "names": {number: name for name, number in numbers.items()}}
    write_text(file, yaml.safe_dump(content, allow_unicode=True, sort_keys=False))
    return [numbers[category.name] for category in dataset.categories]


def _label_lines(dataset: DetectionDataset, index: int, numbers: Sequence[int], changes: Changes) -> list[str]:
    """The lines of one label file: class, centre and size as fractions of the picture; each line once, for readers drop repeated ones."""
    lines: dict[str, None] = {}  # each once, in order
    height, width = dataset.sizes[index].tolist()
    objects, name = dataset.objects(index), dataset.image_name(index)
    for label, crowd, (left, top, right, bottom) in zip(
        objects.labels.tolist(), objects.crowd.tolist(), objects.boxes_xyxy.tolist(), strict=True
    ):
        if crowd:
            changes.add("crowd", name)
            continue
        numbers_cxcywh = _fractions((left, top, right, bottom), width, height)
        if min(numbers_cxcywh) < 0 or max(numbers_cxcywh) > 1:
            clipped = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
            if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
                changes.add("outside", name)
                continue
            changes.add("clipped", name)
            numbers_cxcywh = _fractions(clipped, width, height)
        line = " ".join([str(numbers[label]), *(f"{number:.{_DECIMALS}f}" for number in numbers_cxcywh)])
        if line in lines:
            changes.add("repeated", name)
        else:
            lines[line] = None
    return list(lines)


def _fractions(box_xyxy: tuple[float, float, float, float], width: int, height: int) -> tuple[float, ...]:
    left, top, right, bottom = box_xyxy
    numbers = ((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height)
    return tuple(round(number, _DECIMALS) + 0.0 for number in numbers)  # never -0.0, whose text would differ


def copy_pictures(dataset: DetectionDataset, folder: Path) -> list[str]:
    """Copies the pictures of a data set into a folder, byte by byte; pictures that are no files are saved as PNG.

    Returns:
        Their new names, unique also without their endings.

    Raises:
        OutputError: a picture cannot be written.
    """
    images = dataset.images
    names = _unique_names([_with_suffix(dataset, index) for index in range(len(dataset))])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(names):
            if isinstance(images, ImageFiles):
                shutil.copyfile(images[index], folder / name)
            else:
                images.open(index).save(folder / name)
    except OSError as error:
        raise OutputError(
            f"{error.filename or folder} cannot be copied to {folder} ({error.strerror}): make room, or choose another folder"
        ) from error
    return names


def _with_suffix(dataset: DetectionDataset, index: int) -> str:
    """The name of a picture with an ending that says what it is."""
    images, name = dataset.images, dataset.image_name(index).replace("\\", "/")
    if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES:
        return name
    if not isinstance(images, ImageFiles):
        return f"{name}.png"
    with Image.open(images[index]) as picture:
        return f"{name}.{str(picture.format).lower()}"


def _unique_names(names: Sequence[str]) -> list[str]:
    """File names without folders, which differ in more than case and ending, because labels are named after pictures."""
    plain = [PurePosixPath(name).name for name in names]
    counts: dict[str, int] = {}
    for name in plain:
        counts[_stem(name)] = counts.get(_stem(name), 0) + 1
    taken: set[str] = {_stem(name) for name in plain if counts[_stem(name)] == 1}
    unique = []
    for name, short in zip(names, plain, strict=True):
        if counts[_stem(short)] > 1:
            parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
            path = PurePosixPath("_".join(parts))
            candidates = (path.name, *(f"{path.stem}_{number}{path.suffix}" for number in range(2, len(names) + 2)))
            short = next(candidate for candidate in candidates if _stem(candidate) not in taken)
            taken.add(_stem(short))
        unique.append(short)
    return unique


def _stem(name: str) -> str:
    return folded(PurePosixPath(name).stem)


def as_shown(dataset: DetectionDataset) -> tuple[DetectionDataset, list[str]]:
    """The data set with the boxes of pictures that were annotated on their stored pixels turned to the pictures as they are shown.

    Returns:
        The same data set and no notes if there are no such pictures.
    """
    images = dataset.images
    if not isinstance(images, ImageFiles) or not images.as_stored.any():
        return dataset, []
    chosen = np.flatnonzero(images.as_stored).tolist()
    boxes, sizes = dataset.boxes_xyxy.copy(), dataset.sizes.copy()
    for index in chosen:
        rows = slice(dataset.offsets[index], dataset.offsets[index + 1])
        orientation = _orientation(images[index])
        boxes[rows] = _turned(boxes[rows], tuple(sizes[index]), orientation)
        sizes[index] = sizes[index][::-1] if orientation >= 5 else sizes[index]
    note = (
        f"{counted(len(chosen), 'picture')} {were(len(chosen))} annotated on the stored pixels; boxes were turned to the picture as EXIF "
        f"orientation shows it "
        f"(the first: {images.name(chosen[0])})."
    )
    unturned = dataclasses.replace(images, as_stored=np.zeros_like(images.as_stored))
    # Masks stay behind: they lie on the stored pixels, and nothing that is written needs them.
    return dataclasses.replace(dataset, images=unturned, boxes_xyxy=boxes, sizes=sizes, masks=None), [note]


def _orientation(picture: Path) -> int:
    """The EXIF orientation of a picture, 1 for none."""
    with Image.open(picture) as image:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if value in range(1, 9) else 1


def _turned(boxes_xyxy: np.ndarray, size: tuple[int, ...], orientation: int) -> np.ndarray:
    """Boxes (N, 4) on the stored pixels of a picture of this height and width, as they lie after its EXIF orientation is applied."""
    height, width = size
    left, top, right, bottom = boxes_xyxy.T
    if orientation in (2, 3, 7, 8):  # the picture is shown with its columns the other way round
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):  # and these with their rows
        top, bottom = height - bottom, height - top
    columns = (top, left, bottom, right) if orientation >= 5 else (left, top, right, bottom)
    return np.stack(columns, axis=1)
