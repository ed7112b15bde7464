"""Detections as COCO result entries, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import supervision as sv
from PIL import Image

from detrkit.errors import OutputError


def to_entries(detections: sv.Detections, image_id: int) -> list[dict[str, Any]]:
    """COCO result entries of one image, in the order of the detections.

    Args:
        detections: boxes in pixels of the original image; `class_id` is the category's id.
        image_id: of the image in its annotation file.

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
    """One COCO result entry. Nine digits are kept: all that a float32 holds."""
    left, top, right, bottom = box_xyxy
    bbox = [_short(value) for value in (left, top, right - left, bottom - top)]
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": _short(score)}


def to_file_entries(paths: Sequence[Path], detections: Sequence[sv.Detections]) -> list[dict[str, Any]]:
    """COCO result entries for loose image files, which have no ids of their own.

    Args:
        paths: of the images.
        detections: of each image.

    Returns:
        Where all file names are different numbers, as in COCO (`000000000139.jpg`), these are the image ids. Otherwise images are numbered
        from 1, and each entry has the `file_name`, too.
    """
    stems = [path.stem for path in paths]
    numbered = all(stem.isascii() and stem.isdigit() for stem in stems) and len({int(stem) for stem in stems}) == len(
        stems
    )
    entries: list[dict[str, Any]] = []
    for number, (path, found) in enumerate(zip(paths, detections, strict=True), start=1):
        if numbered:
            entries += to_entries(found, int(path.stem))
        else:
            entries += [entry | {"file_name": path.as_posix()} for entry in to_entries(found, number)]
    return entries


def write_json_atomically(path: str | Path, value: Any) -> Path:
    """Writes JSON; a reader sees the old file or the new one, never half of one.

    Raises:
        OutputError: where the file cannot be written.
    """
    return write_text_atomically(path, json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def write_text_atomically(path: str | Path, text: str) -> Path:
    """Writes a text in UTF-8, whole or not at all.

    Raises:
        OutputError: where the file cannot be written.
    """
    return _write_atomically(Path(path), lambda draft: draft.write_text(text, encoding="utf-8"))


def save_image_atomically(path: str | Path, image: Image.Image) -> Path:
    """Saves a picture in the format of the path's ending, whole or not at all.

    Raises:
        OutputError: where the file cannot be written, or its ending is that of no image format.
    """
    path = Path(path)
    file_format = Image.registered_extensions().get(path.suffix.lower())
    if file_format not in Image.SAVE:
        raise OutputError(f"{path} has no ending of an image format that can be written: use .jpg or .png.")
    return _write_atomically(path, lambda draft: image.save(draft, format=file_format, quality=92))


def prepare_output_folder(path: str | Path) -> Path:
    """Makes a folder, with its parents, and writes a file into it, so that a long run cannot fail at its end.

    Raises:
        OutputError: where that is not possible.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = _draft_beside(folder / "probe")
        probe.write_text("probe")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"The folder {folder} cannot be written ({error.strerror}): name another one, or mend its rights."
        ) from error
    return folder


def _write_atomically(path: Path, write: Callable[[Path], Any]) -> Path:
    draft = _draft_beside(path)
    try:
        write(draft)
        draft.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        if isinstance(error, OSError):
            raise OutputError(
                f"{path} cannot be written ({error.strerror or error}): name another place, or mend its rights."
            ) from error
        raise
    return path


def _draft_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")


def _short(value: float) -> float:
    return float(f"{value:.9g}")
