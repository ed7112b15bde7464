"""Detections as COCO result entries, and pictures as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import supervision as sv
from PIL import Image

from detrkit.errors import OutputError
from detrkit.files import expanded, write_atomically

KEPT_FORMATS = (".jpg", ".jpeg", ".png", ".webp")


def to_entries(detections: sv.Detections, image_id: int) -> list[dict[str, Any]]:
    """COCO result entries of one image, in the order of the detections.

    Args:
        detections: boxes in pixels of the original image; `class_id` is the category's id.
        image_id: the image's id in its annotation file.

    Returns:
        `image_id`, `category_id`, `bbox` as [x, y, width, height], `score`.
    """
    if detections.class_id is None or detections.confidence is None:
        raise ValueError("result entries need class_id and confidence")
    return [
        result_entry(image_id, int(category_id), box, float(score))
        for category_id, box, score in zip(
            detections.class_id, detections.xyxy.tolist(), detections.confidence, strict=True
        )
    ]


def result_entry(image_id: int, category_id: int, box_xyxy: Sequence[float], score: float) -> dict[str, Any]:
    """One COCO result entry. Numbers keep nine digits, the precision of float32."""
    left, top, right, bottom = box_xyxy
    bbox = [_nine_digits(value) for value in (left, top, right - left, bottom - top)]
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": _nine_digits(score)}


def to_file_entries(paths: Sequence[Path], detections: Sequence[sv.Detections]) -> list[dict[str, Any]]:
    """COCO result entries for single image files, which have no ids of their own.

    Args:
        paths: of the images.
        detections: of each image.

    Returns:
        If all file names are different numbers, as in COCO (`000000000139.jpg`), they become the image ids. Otherwise images are numbered
        from 1, and each entry also has the `file_name`.
    """
    stems = [path.stem for path in paths]
    numbered = all(stem.isascii() and stem.isdigit() for stem in stems) and len({int(stem) for stem in stems}) == len(
        stems
    )
    entries: list[dict[str, Any]] = []
    for number, (path, image_detections) in enumerate(zip(paths, detections, strict=True), start=1):
        if numbered:
            entries += to_entries(image_detections, int(path.stem))
        else:
            entries += [entry | {"file_name": path.as_posix()} for entry in to_entries(image_detections, number)]
    return entries


def output_names(paths: Sequence[Path]) -> list[str]:
    """Names for the drawn copies of images, so that all of them can be saved in one folder.

    Args:
        paths: of the images; equal names from different folders get numbers (`dog.jpg`, `dog_2.jpg`).

    Returns:
        File names; images in formats other than JPEG, PNG and WebP become PNG files.
    """
    names: dict[str, str] = {}
    for path in paths:
        suffix = path.suffix if path.suffix.lower() in KEPT_FORMATS else ".png"
        number, name = 1, f"{path.stem}{suffix}"
        # Some file systems ignore case.
        while name.casefold() in names:
            number += 1
            name = f"{path.stem}_{number}{suffix}"
        names[name.casefold()] = name
    return list(names.values())


def save_image(path: str | Path, image: Image.Image) -> Path:
    """Saves a picture in the format of the path's suffix, completely or not at all.

    Raises:
        OutputError: the file cannot be written, or its suffix is not that of an image format.
    """
    path = expanded(path)
    file_format = Image.registered_extensions().get(path.suffix.lower())
    if file_format not in Image.SAVE:
        raise OutputError(f"{path} does not end like an image file that can be written: use .jpg or .png.")
    return write_atomically(path, lambda temporary: image.save(temporary, format=file_format, quality=92))


def _nine_digits(value: float) -> float:
    return float(f"{value:.9g}")
