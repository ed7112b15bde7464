"""Pascal VOC folders: `JPEGImages/`, `Annotations/<image>.xml` and `ImageSets/Main/<split>.txt`, read into a `DetectionDataset`.

Rules that a user may want to know:

- Pixels count from 1 and both corners belong to the box, so `xmin`..`xmax` covers x from xmin - 1 to xmax.
- Classes are the names of all objects of all splits, sorted, with ids from 1; so all splits agree, whichever classes each contains.
- Image ids count from 1 over the sorted image names of all splits; an image has the same id in `train` and in `trainval`.
- Objects marked `difficult` become crowd regions: they are not trained on, and detections inside them are ignored.
- A box whose corners coincide in x or y would be one pixel wide by the rule above; in practice it is a click without a drag. It is dropped
  like a COCO box without area.
- Everything else (images without objects, boxes beyond the edge, EXIF, the check of all files) works as for COCO, whose reader does it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from detrkit.data.coco import Record, build_dataset
from detrkit.data.dataset import DetectionDataset
from detrkit.errors import DataError

SPLIT_LISTS = "ImageSets/Main"
LOOKED_FOR = (f"{SPLIT_LISTS}/<split>.txt",)
_ANNOTATIONS, _PICTURES = "Annotations", "JPEGImages"
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # the first one wins
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class _Object:
    """One object as its file describes it: corners count from 1 and belong to the box."""

    name: str
    corners: tuple[float, ...]
    difficult: bool

    @property
    def has_area(self) -> bool:
        left, top, right, bottom = self.corners
        return right > left and bottom > top


@dataclass(frozen=True)
class _Annotation:
    """What an annotation file says about its image; the size is (None, None) if it is not given."""

    height: int | None
    width: int | None
    objects: tuple[_Object, ...]


def read_voc(folder: str | Path, split: str, *, name: str | None = None) -> DetectionDataset:
    """One split of a Pascal VOC folder.

    Args:
        folder: contains `JPEGImages`, `Annotations` and `ImageSets/Main`.
        split: the name of a list in `ImageSets/Main`, such as `train`.
        name: for messages; by default the folder's name and the split.

    Raises:
        DataError: a list, an annotation file or an image is missing or cannot be used; the message names the file and the remedy.
    """
    folder = Path(folder)
    lists = {listed_split: _image_names(file) for listed_split, file in find_splits(folder).items()}
    if not lists.get(split):
        wanted = folder / SPLIT_LISTS / f"{split}.txt"
        raise DataError(f"{wanted} lists no images: write the names of the split's images into it, one per line.")
    all_names = sorted({image_name for names in lists.values() for image_name in names})
    ids = {image_name: number for number, image_name in enumerate(all_names, start=1)}
    annotations = _read_annotations(folder / _ANNOTATIONS, all_names, needed=lists[split])
    chosen = [(image_name, annotations[image_name]) for image_name in lists[split]]
    _check_pixels(chosen, folder)
    contents = {
        "images": _image_records(chosen, ids, folder),
        "categories": _category_records(annotations.values()),
    }
    contents["annotations"] = _annotation_records(chosen, contents["images"], contents["categories"])
    dataset = build_dataset(
        contents, folder / _ANNOTATIONS, folder / _PICTURES, name or f"{folder.resolve().name} {split}"
    )
    return dataclasses.replace(dataset, notes=(*_notes(chosen), *dataset.notes))


def read_split(list_file: Path, name: str) -> DetectionDataset:
    """The same, from one of `find_splits`."""
    return read_voc(list_file.parents[2], list_file.stem, name=name)


def find_splits(folder: Path) -> dict[str, Path]:
    """A folder's lists of images, keyed by split; empty if it is not a VOC folder."""
    files = sorted(folder.glob(f"{SPLIT_LISTS}/*.txt"))
    return {file.stem: file for file in files if not _is_class_list(file)}


def _is_class_list(file: Path) -> bool:
    """Whether this is one of VOC's lists for a single class, such as `dog_train.txt`, which rates every image and is not a split."""
    first = next((line.split() for line in _lines(file) if line.strip()), [])
    return "_" in file.stem and len(first) == 2 and first[1] in ("-1", "0", "1")


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): make it a readable file.") from None
    except ValueError:
        raise DataError(f"{file} is not UTF-8 text: save it as UTF-8, with one image name per line.") from None


def _image_names(file: Path) -> list[str]:
    """The image names of a split, in the order of its list."""
    names = [line.strip() for line in _lines(file) if line.strip()]
    if len(set(names)) < len(names):
        duplicate = next(name for index, name in enumerate(names) if name in names[:index])
        raise DataError(f"{file} lists {duplicate} twice: remove one of the two lines.")
    return names


def _read_annotations(folder: Path, names: Sequence[str], needed: Sequence[str]) -> dict[str, _Annotation]:
    """The annotations of these images, by name. Only the needed ones must exist: published test splits often come without annotations."""
    for name in needed:
        if not (folder / f"{name}.xml").is_file():
            raise DataError(
                f"{folder / name}.xml does not exist, but a list in {SPLIT_LISTS} has {name!r}: add the file, or correct the list "
                "(names without an ending)."
            )
    files = {name: folder / f"{name}.xml" for name in names}
    return {name: _read_annotation(file) for name, file in files.items() if file.is_file()}


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Builds a tree, but refuses a DOCTYPE: it could define entities that expand without end or fetch files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:  # noqa: ARG002 - the parser passes them
        raise ValueError("it has a DOCTYPE, which annotations do not need")


def _read_annotation(file: Path) -> _Annotation:
    try:
        root = ElementTree.fromstring(file.read_bytes(), ElementTree.XMLParser(target=_WithoutDoctype()))
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): make it a readable file.") from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: an unknown encoding
        raise DataError(f"{file} cannot be parsed ({error}): copy or export the file again.") from None
    if root.tag != "annotation":
        raise DataError(f"{file} holds <{root.tag}>, not <annotation>: export the annotations as Pascal VOC.")
    size = [
        _number(root, f"size/{side}", str(file)) if root.find(f"size/{side}") is not None else 0.0
        for side in ("height", "width")
    ]
    height, width = (int(side) for side in size) if all(size) else (None, None)  # tools write 0 for an unknown size
    return _Annotation(
        height,
        width,
        tuple(_read_object(element, number, file) for number, element in enumerate(root.findall("object"), start=1)),
    )


def _read_object(element: ElementTree.Element, number: int, file: Path) -> _Object:
    name = element.findtext("name", "").strip()
    if not name:
        raise DataError(f"{file}: object {number} has no name; give it one.")
    where = f"{file}: object {number} ({name})"
    corners = tuple(_number(element, f"bndbox/{corner}", where) for corner in _CORNERS)
    return _Object(name, corners, element.findtext("difficult", "").strip() == "1")


def _number(element: ElementTree.Element, path: str, where: str) -> float:
    text = element.findtext(path)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where} has the {path} {text!r}; give a number of pixels.")
    return value


def _check_pixels(chosen: Sequence[tuple[str, _Annotation]], folder: Path) -> None:
    corners = [max(each.corners) for _, annotation in chosen for each in annotation.objects]
    if corners and max(corners) <= 1:
        raise DataError(
            f"{folder / _ANNOTATIONS}: all boxes lie within 0..1, so they are fractions of the image; multiply them by its width and height."
        )


def _image_records(chosen: Sequence[tuple[str, _Annotation]], ids: dict[str, int], folder: Path) -> list[Record]:
    """The images in COCO's format. A picture is named like its annotation: `filename` in the XML often comes from another computer."""
    file_names: dict[str, str] = {}
    for suffix in _PICTURE_SUFFIXES:
        for file in sorted((folder / _PICTURES).glob("*")):
            if file.suffix.lower() == suffix:
                file_names.setdefault(file.stem, file.name)
    return [
        {"id": ids[name], "file_name": file_names.get(name, f"{name}.jpg"), "height": each.height, "width": each.width}
        for name, each in chosen
    ]


def _category_records(annotations: Iterable[_Annotation]) -> list[Record]:
    names = sorted({each.name for annotation in annotations for each in annotation.objects})
    return [{"id": number, "name": name} for number, name in enumerate(names, start=1)]


def _annotation_records(
    chosen: Sequence[tuple[str, _Annotation]], images: Sequence[Record], categories: Sequence[Record]
) -> list[Record]:
    """The boxes that have an area, in COCO's format: left, top, width, height, counted from 0."""
    ids = {category["name"]: category["id"] for category in categories}
    records: list[Record] = []
    for image, (_, annotation) in zip(images, chosen, strict=True):
        for each in annotation.objects:
            if each.has_area:
                left, top, right, bottom = each.corners
                bbox = [left - 1, top - 1, right - left + 1, bottom - top + 1]
                record = {
                    "image_id": image["id"],
                    "category_id": ids[each.name],
                    "bbox": bbox,
                    "iscrowd": each.difficult,
                }
                records.append({"id": len(records) + 1, **record})
    return records


def _notes(chosen: Sequence[tuple[str, _Annotation]]) -> list[str]:
    objects = [(name, number, each) for name, annotation in chosen for number, each in enumerate(annotation.objects, 1)]
    without_area = [(name, number) for name, number, each in objects if not each.has_area]
    difficult = sum(each.difficult for _, _, each in objects if each.has_area)
    notes = []
    if without_area:
        name, number = without_area[0]
        notes.append(
            f"{len(without_area)} of {len(objects)} boxes have no area (xmax is not above xmin, or ymax not above ymin) and were left out "
            f"(the first: object {number} of {name}.xml)."
        )
    if difficult:
        notes.append(
            f"{difficult} of {len(objects)} objects are marked difficult and were made crowd regions: they are not trained on, and detections "
            "inside them are ignored."
        )
    return notes
