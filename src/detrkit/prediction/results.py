"""Detections as COCO result entries, and pictures as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image

from detrkit.errors import OutputError
from detrkit.files import expanded, refuse_folder, write_atomically
from detrkit.prediction.mask_encoding import encoded_mask

if TYPE_CHECKING:
    import supervision as sv

KEPT_FORMATS = (".jpg", ".jpeg", ".png", ".webp")
_SOFTWARE = "detrkit"  # what the pictures that are written here name as the software that made them


def to_entries(detections: sv.Detections, image_id: int) -> list[dict[str, Any]]:
    """COCO result entries of one image, in the order of the detections.

    Args:
        detections: boxes in pixels of the original image; `class_id` is the category's id. A mask has the size of the image.
        image_id: the image's id in its annotation file.

    Returns:
        `image_id`, `category_id`, `bbox` as [x, y, width, height], `score`, and `segmentation` as run lengths where there are masks.
    """
    if detections.class_id is None or detections.confidence is None:
        raise ValueError("result entries need class_id and confidence")
    masks = [None] * len(detections) if detections.mask is None else detections.mask
    return [
        result_entry(image_id, int(category_id), box, float(score), mask)
        for category_id, box, score, mask in zip(
            detections.class_id, detections.xyxy.tolist(), detections.confidence, masks, strict=True
        )
    ]


def result_entry(
    image_id: int, category_id: int, box_xyxy: Sequence[float], score: float, mask: np.ndarray | None = None
) -> dict[str, Any]:
    """One COCO result entry. Numbers keep nine digits, the precision of float32.

    Args:
        image_id: of the image.
        category_id: of the class.
        box_xyxy: in pixels.
        score: in [0, 1].
        mask: (H, W) bool, which becomes the `segmentation`; None for entries without one.
    """
    left, top, right, bottom = box_xyxy
    bbox = [_nine_digits(value) for value in (left, top, right - left, bottom - top)]
    entry: dict[str, Any] = {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "score": _nine_digits(score),
    }
    return entry if mask is None else entry | {"segmentation": encoded_mask(mask)}


def to_file_entries(paths: Sequence[Path], detections: Sequence[sv.Detections]) -> list[dict[str, Any]]:
    """COCO result entries for single image files, which have no ids of their own.

    Args:
        paths: of the images.
        detections: of each image.

    Returns:
        If all file names are different numbers, as in COCO (`000000000139.jpg`), they become the image ids. Otherwise images are numbered
        from 1, and each entry also has the `file_name`.
    """
    ids, named = image_ids(paths)
    entries: list[dict[str, Any]] = []
    for path, image_id, image_detections in zip(paths, ids, detections, strict=True):
        more = {"file_name": path.as_posix()} if named else {}
        entries += [entry | more for entry in to_entries(image_detections, image_id)]
    return entries


def named_entries(detections: sv.Detections, image_id: int, more: Mapping[str, Any]) -> list[dict[str, Any]]:
    """COCO result entries of one image that also have the `category_name`.

    Args:
        detections: as for `to_entries`, with `data["class_name"]`.
        image_id: as for `to_entries`.
        more: what else each entry gets, such as the `file_name`.
    """
    entries = to_entries(detections, image_id)
    names = detections.data["class_name"] if entries else ()
    return [{**entry, "category_name": str(name), **more} for entry, name in zip(entries, names, strict=True)]


def image_ids(paths: Sequence[Path]) -> tuple[list[int], bool]:
    """The ids of image files, and whether entries need the `file_name` as well; see `to_file_entries`."""
    stems = [path.stem for path in paths]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers, False
    return list(range(1, len(paths) + 1)), True


def output_names(paths: Sequence[Path]) -> list[str]:
    """Names for the drawn copies of images, so that all of them can be saved in one folder.

    Args:
        paths: of the images; names that are equal but for their folder, ending or case get numbers (`dog.jpg`, `dog_2.jpg`).

    Returns:
        File names, different also without their endings; images in formats other than JPEG, PNG and WebP become PNG files.
    """
    taken: set[str] = set()
    last_number: dict[str, int] = {}
    names = []
    for path in paths:
        stem, folded = path.stem, path.stem.casefold()  # some file systems ignore case
        number = last_number.get(folded, 0)
        while not number or stem.casefold() in taken:
            number += 1
            stem = path.stem if number == 1 else f"{path.stem}_{number}"
        last_number[folded] = number
        taken.add(stem.casefold())
        names.append(f"{stem}{path.suffix if path.suffix.lower() in KEPT_FORMATS else '.png'}")
    return names


def save_image(path: str | Path, image: Image.Image) -> Path:
    """Saves a picture in the format of the path's suffix, completely or not at all.

    JPEG, PNG and WebP files say that detrkit made them, so that a later run can tell them from a user's pictures.

    Raises:
        OutputError: the file cannot be written, or its suffix is not that of an image format.
    """
    path = expanded(path)
    file_format = _format_of(path)
    more: dict[str, Any] = {}
    if path.suffix.lower() in KEPT_FORMATS:
        exif = Image.Exif()
        exif[ExifTags.Base.Software] = _SOFTWARE
        more["exif"] = exif
    return write_atomically(path, lambda temporary: image.save(temporary, format=file_format, quality=92, **more))


def check_picture_file(path: str | Path) -> Path:
    """The path of a picture that will be saved, or the reason why that cannot be.

    Raises:
        OutputError: the path is a folder, or its suffix is not that of an image format.
    """
    path = refuse_folder(path)
    _format_of(path)
    return path


def is_drawing(path: Path) -> bool:
    """Whether `save_image` wrote a picture."""
    try:
        with Image.open(path) as image:
            return "exif" in image.info and image.getexif().get(ExifTags.Base.Software) == _SOFTWARE
    except Exception:  # Pillow's parsers raise many errors; whatever cannot be read was not drawn here
        return False


def _format_of(path: Path) -> str:
    """Pillow's name for the format of a file that is to be written."""
    file_format = Image.registered_extensions().get(path.suffix.lower())
    if file_format is None or file_format not in Image.SAVE:
        raise OutputError(f"{path} does not end like an image file that can be written: use .jpg or .png")
    return file_format


def _nine_digits(value: float) -> float:
    return float(f"{value:.9g}")
