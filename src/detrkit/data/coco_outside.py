"""Boxes that lie wholly outside their image: nothing can be learned from them, and no detection can find them, so they are left out.

Data sets judge them by the pictures, the evaluation of result files by the sizes that the annotation file states. Both come to the same,
except where a picture may be turned by its EXIF orientation: then the picture decides if it can be found, and otherwise the box is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from detrkit.data.coco_frames import boxes_inside, stated_size
from detrkit.data.coco_truth import Record, Table
from detrkit.data.findings import Note
from detrkit.data.wording import agreeing, some_of, were
from detrkit.errors import DataError

_MANY, _MOST = 20, 0.5  # boxes, and the share of them, that are no strays
_TURNED_TOLERANCE = 0.01  # of the longer side


def without_boxes_outside(
    table: Table, sizes: np.ndarray, names: Sequence[str], source: str
) -> tuple[Table, list[str]]:
    """The boxes that have an area in common with their image, and a note about the others.

    Args:
        table: the boxes.
        sizes: (I, 2) height and width of the images.
        names: what the images are called.
        source: the file, for messages.

    Raises:
        DataError: most of many boxes lie outside, so they belong to other pictures, or are in another unit.
    """
    return _without(table, _outside(table.boxes_xyxy, sizes[table.image_positions]), names, source)


def without_boxes_outside_stated(
    table: Table, records: Sequence[Record], is_turned: Callable[[Record], bool | None], source: str
) -> tuple[Table, list[str]]:
    """The same by the sizes that an annotation file states; images without one keep their boxes.

    Args:
        table: the boxes.
        records: the images of the file.
        is_turned: whether an image's picture is shown with its width and height exchanged; None if the picture cannot be found.
        source: the file, for messages.

    Raises:
        DataError: most of many boxes lie outside.
    """
    stated = [stated_size(record) for record in records]
    known = np.array([size is not None and min(size) > 0 for size in stated], dtype=np.bool_)
    sizes = np.array([size if size is not None else (0, 0) for size in stated], dtype=np.float64).reshape(-1, 2)
    outside = known[table.image_positions] & _outside(table.boxes_xyxy, sizes[table.image_positions])
    kept: np.ndarray = np.zeros(len(table), dtype=np.bool_)
    for position in np.unique(table.image_positions[outside]).tolist():
        rows = table.image_positions == position
        height, width = sizes[position].tolist()
        if not boxes_inside(table.boxes_xyxy[rows], (int(width), int(height)), _TURNED_TOLERANCE):
            continue  # the boxes fit the turned picture no better
        turned = is_turned(records[position])
        if turned is not False:
            kept |= outside & rows & (turned is None)
            outside &= ~rows
    names = [str(record.get("file_name", record.get("id"))) for record in records]
    inside, notes = _without(table, outside, names, source)
    return inside, [*notes, *_kept_note(table, kept, names)]


def _outside(boxes_xyxy: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) bool, whether boxes (N, 4) have no area in common with images of these heights and widths (N, 2)."""
    outside: np.ndarray = np.any((boxes_xyxy[:, 2:] <= 0) | (boxes_xyxy[:, :2] >= sizes[:, ::-1]), axis=1)
    return outside


def _without(table: Table, outside: np.ndarray, names: Sequence[str], source: str) -> tuple[Table, list[str]]:
    if not outside.any():
        return table, []
    rows = np.flatnonzero(outside)
    count, files = len(rows), [names[position] for position in table.image_positions[rows].tolist()]
    shown = f"{some_of(count, len(outside), 'box', 'boxes')} {agreeing(count, 'lies', 'lie')} wholly outside the image"
    if len(table) >= _MANY and outside.mean() > _MOST:
        raise DataError(
            f"{source}: {shown} (the first: "
            f"{_first(table, outside, names)}), so they belong to other pictures or are not in pixels: use the pictures that were annotated, or "
            "export the boxes again."
        )
    note = (
        f"{shown} and {were(count)} left out (the first: {_first(table, outside, names)}); COCO's own evaluation would count each as an object "
        "that was missed."
    )
    return table.rows(~outside), [Note(note, "outside", count=count, files=files)]


def _kept_note(table: Table, kept: np.ndarray, names: Sequence[str]) -> list[str]:
    if not kept.any():
        return []
    count = int(kept.sum())
    note = (
        f"{some_of(count, len(kept), 'box', 'boxes')} {agreeing(count, 'lies', 'lie')} outside the size that the file states for the image, but "
        f"inside it if the picture is turned by its EXIF orientation (the first: {_first(table, kept, names)}); the picture was not found, so "
        f"{agreeing(count, 'it counts', 'they count')}."
    )
    return [Note(note, "outside unless turned", count=count)]


def _first(table: Table, chosen: np.ndarray, names: Sequence[str]) -> str:
    row = int(np.argmax(chosen))
    return f"{table.label(row)} of {names[table.image_positions[row]]}"
