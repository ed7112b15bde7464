"""Writes a data set as a Pascal VOC folder, which `read_voc` and other tools read."""

from __future__ import annotations

import filecmp
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from detrkit.data.dataset import DetectionDataset, ImageFiles
from detrkit.data.file_names import folded
from detrkit.data.voc_files import without_ending
from detrkit.data.voc_layout import PICTURE_SUFFIXES, SPLIT_LISTS
from detrkit.data.wording import are, first_few, have, some_of, were
from detrkit.errors import DataError, OutputError
from detrkit.files import expanded, prepare_folder, write_atomically, write_text

_ANNOTATIONS, _PICTURES = "Annotations", "JPEGImages"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")  # what XML cannot hold
_UNSAFE = re.compile(
    r'[<>:"|?*\x00-\x1f\x7f\x85\u2028\u2029\ufffe\uffff\ud800-\udfff]'
)  # what some file systems refuse, and line breaks

Corners = tuple[Decimal, Decimal, Decimal, Decimal]


def write_voc(dataset: DetectionDataset, folder: str | Path, split: str, *, link: bool = False) -> tuple[str, ...]:
    """Writes one split: `Annotations/<image>.xml`, `JPEGImages/<image>.<ending>` and last of all `ImageSets/Main/<split>.txt`.

    VOC's pixels count from 1 and both corners belong to the box: xmin is the left edge plus 1, xmax the right edge, and the same for y.
    Nothing is rounded: corners are whole numbers where the edges are, otherwise decimal numbers with all the digits of float64, and reading
    them back gives the same edges. (A tool that allows whole numbers only has to round them.) A box that is at most a pixel wide or high
    cannot be written in this way and is left out. Crowd regions become `difficult`; areas of outlines and ids are not kept.

    Pictures are copied byte by byte. Those that were annotated on their stored pixels in spite of an EXIF orientation, that have no file, or
    whose names do not end like a picture's are written as PNG. Folders become part of the names (`day/a.jpg` is `day_a.jpg`), and a name
    that another picture has got gets a number. Several splits can be written into one folder, one after the other: an image that is already
    there from another split, with the same objects, is shared.

    Args:
        dataset: what to write.
        folder: is created if it does not exist.
        split: the name of the list.
        link: whether to make symbolic links to the pictures instead of copies.

    Returns:
        What the format cannot hold, in plain sentences with counts.

    Raises:
        DataError: a picture cannot be read, or class names cannot be written.
        OutputError: the folder already has this split, or a file cannot be written.
    """
    folder = expanded(folder)
    _check_classes(dataset)
    list_file = folder / SPLIT_LISTS / f"{split}.txt"
    if list_file.exists():
        raise OutputError(f"{list_file} exists already: choose another folder or another name for the split")
    for part in (_ANNOTATIONS, _PICTURES, SPLIT_LISTS):
        prepare_folder(folder / part)
    names = _Names(folder)
    too_small: list[str] = []
    for index in range(len(dataset)):
        picture = _picture(dataset, index)
        kept, left_out = _boxes(dataset, index)
        too_small += [dataset.image_name(index)] * left_out
        for name in names.spellings(dataset.image_name(index)):
            place = folder / _PICTURES / f"{name}{picture.ending}"
            annotation = _annotation(dataset, index, place.name, kept)
            if names.is_free(name):
                picture.write(place, link=link)
                write_text(folder / _ANNOTATIONS / f"{name}.xml", annotation)
            elif not names.is_shared(name, annotation, picture, place):
                continue
            names.take(name)
            break
    write_text(list_file, "".join(f"{name}\n" for name in names.taken))
    return tuple(_notes(dataset, too_small))


@dataclass(frozen=True)
class _Picture:
    """A picture to write: a file to copy, or the bytes of a new one."""

    ending: str
    source: Path | None
    content: bytes = b""

    def write(self, place: Path, *, link: bool) -> None:
        source = self.source
        if source is None:
            write_atomically(place, lambda temporary: _write_bytes(temporary, self.content))
        elif link:
            try:
                place.symlink_to(source.resolve())
            except OSError as error:
                raise OutputError(
                    f"{place} cannot be made a link ({error.strerror}): copy the pictures instead"
                ) from error
        else:
            write_atomically(place, lambda temporary: _copy(source, temporary))

    def is_in(self, place: Path) -> bool:
        """Whether this file has the same bytes."""
        if not place.is_file():
            return False
        if self.source is None:
            return place.read_bytes() == self.content
        return filecmp.cmp(self.source, place, shallow=False)


class _Names:
    """The names of a folder's images: those that other splits have left there, and those of this split.

    Names that differ only in case or in how accents are composed count as equal: some file systems take them for the same.
    """

    def __init__(self, folder: Path) -> None:
        self.taken: dict[str, None] = {}
        self._folder = folder
        present = [file for part in (_ANNOTATIONS, _PICTURES) for file in (folder / part).iterdir()]
        self._others = {folded(without_ending(file.name)) for file in present}
        self._own: set[str] = set()

    def spellings(self, image_name: str) -> Iterator[str]:
        """A safe name for a picture's file, without ending and folders, and then the same name with numbers."""
        parts = [part for part in image_name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        plain = _UNSAFE.sub("_", without_ending("_".join(parts))).strip().lstrip(".").strip() or "image"
        yield plain
        yield from (f"{plain}_{number}" for number in count(2))

    def is_free(self, name: str) -> bool:
        return folded(name) not in self._others and folded(name) not in self._own

    def is_shared(self, name: str, annotation: str, picture: _Picture, place: Path) -> bool:
        """Whether another split has left the same image here, with the same objects."""
        file = self._folder / _ANNOTATIONS / f"{name}.xml"
        if folded(name) in self._own or not file.is_file() or file.read_text(encoding="utf-8") != annotation:
            return False
        return picture.is_in(place)

    def take(self, name: str) -> None:
        self.taken[name] = None
        self._own.add(folded(name))


def _check_classes(dataset: DetectionDataset) -> None:
    """VOC knows classes by their names only, and its readers take blanks around them away."""
    names = [category.name.strip() for category in dataset.categories]
    for name in names:
        if not name or _NO_TEXT.search(name):
            raise DataError(f"{dataset.name} has a class named {name!r}, which XML cannot hold: rename it.")
    twins = next((name for name in names if names.count(name) > 1), None)
    if twins is not None:
        raise DataError(f"{dataset.name} has two classes named {twins!r} but for blanks around the name: rename one.")


def _picture(dataset: DetectionDataset, index: int) -> _Picture:
    images = dataset.images
    if isinstance(images, ImageFiles) and not images.as_stored[index]:
        source = images[index]
        if source.suffix.lower() in PICTURE_SUFFIXES:
            if not source.is_file():
                raise DataError(f"{source} does not exist: correct its name or put the file there.")
            return _Picture(source.suffix, source)
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(dataset.image(index))).save(buffer, format="PNG")  # without an EXIF orientation
    return _Picture(".png", None, buffer.getvalue())


def _boxes(dataset: DetectionDataset, index: int) -> tuple[list[tuple[str, Corners, bool]], int]:
    """Name, corners and crowd of the objects that VOC can hold, and the number of others."""
    objects = dataset.objects(index)
    kept = []
    for box, label, crowd in zip(objects.boxes_xyxy.tolist(), objects.labels, objects.crowd, strict=True):
        left, top, right, bottom = (Decimal(repr(edge)) for edge in box)
        if left + 1 < right and top + 1 < bottom:
            name = dataset.categories[label].name.strip()
            kept.append((name, (left + 1, top + 1, right, bottom), bool(crowd)))
    return kept, len(objects) - len(kept)


def _annotation(dataset: DetectionDataset, index: int, file_name: str, objects: list[tuple[str, Corners, bool]]) -> str:
    root = ElementTree.Element("annotation")
    _add(root, "folder", _PICTURES)
    _add(root, "filename", file_name)
    size = ElementTree.SubElement(root, "size")
    height, width = dataset.sizes[index].tolist()
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        _add(size, tag, str(value))
    _add(root, "segmented", "0")
    for name, corners, crowd in objects:
        element = ElementTree.SubElement(root, "object")
        _add(element, "name", name)
        _add(element, "pose", "Unspecified")
        _add(element, "truncated", "0")
        _add(element, "difficult", str(int(crowd)))
        box = ElementTree.SubElement(element, "bndbox")
        for tag, corner in zip(_CORNERS, corners, strict=True):
            _add(box, tag, _plain_number(corner))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text


def _plain_number(value: Decimal) -> str:
    """A number without exponent and trailing zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _notes(dataset: DetectionDataset, too_small: list[str]) -> list[str]:
    notes = []
    if too_small:
        number = len(too_small)
        notes.append(
            f"{some_of(number, len(dataset.labels), 'box', 'boxes')} {are(number)} at most a pixel wide or high, which Pascal VOC cannot hold, and {were(number)} left "
            f"out (the first: in {too_small[0]})."
        )
    used = set(dataset.labels.tolist())
    unused = [category.name for category in dataset.categories if category.index not in used]
    if unused:
        notes.append(
            f"{some_of(len(unused), len(dataset.categories), 'class', 'classes')} {have(len(unused))} no objects here, and Pascal VOC has no list of "
            f"classes; without objects in another split they are lost: {first_few(unused)}."
        )
    return notes


def _copy(source: Path, place: Path) -> None:
    shutil.copyfile(source, place)


def _write_bytes(place: Path, content: bytes) -> None:
    place.write_bytes(content)
