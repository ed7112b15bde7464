"""Recognises boxes that are not left, top, width and height in pixels: fractions, percentages, corners.

Most of the boxes decide, not the largest value. What could also be pixels is left alone, or at most noted: tiny objects and objects in the
upper left corner are as good as any.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detrkit.data.coco_truth import Table
from detrkit.data.findings import Note
from detrkit.data.wording import agreeing, some_of
from detrkit.errors import DataError

_MOST = 0.5
_NEARLY_ALL = 0.98
_FEW = 20
_FRACTION_LIMIT, _PERCENT_LIMIT = 1.01, 101.0  # rounding and careless clicks
_SMALLEST_JUDGED = 2  # pixels: in smaller images fractions and pixels are the same
_RIGHT_FORM = "boxes are left, top, width, height in pixels"
_VOC_FORM = "Pascal VOC's boxes are xmin, ymin, xmax, ymax in pixels"


@dataclass(frozen=True, eq=False)
class _Boxes:
    """Boxes with what they are judged by.

    Attributes:
        values: (N, 4) as the file has them.
        sizes: (N, 2) width and height of their images in pixels.
        stated_areas: (N,), NaN where none is stated.
    """

    values: np.ndarray
    sizes: np.ndarray
    stated_areas: np.ndarray

    def has_area(self, areas: np.ndarray) -> np.ndarray:
        """(N,) bool, whether the stated areas are these; outlines have other areas, so rounding is all that is allowed."""
        fits: np.ndarray = np.abs(self.stated_areas - areas) <= 0.51 + 0.001 * np.abs(areas)  # False for NaN
        return fits

    def areas_say_pixels(self) -> bool:
        """Whether the stated areas of a few boxes are those of boxes in pixels; many boxes speak for themselves."""
        return len(self.values) < _FEW and bool(self.has_area(np.prod(self.values[:, 2:], axis=1)).mean() > _MOST)

    def leave(self) -> np.ndarray:
        """(N,) bool, whether boxes of left, top, width and height in pixels would leave their image by more than a careless click."""
        margin = np.maximum(2.0, 0.05 * self.sizes)
        corners = self.values[:, :2] + self.values[:, 2:]
        beyond: np.ndarray = np.any((self.values[:, :2] < -margin) | (corners > self.sizes + margin), axis=1)
        return beyond


def check_units(table: Table, sizes: np.ndarray, source: str, *, voc: bool = False) -> list[str]:
    """Refuses boxes in another unit or another form; returns notes about those that may be.

    Args:
        table: the boxes, all with an area.
        sizes: (I, 2) height and width of the images.
        source: the file, for messages.
        voc: whether the boxes come from Pascal VOC's corners, whose pixels count from 1 and belong to the box.

    Raises:
        DataError: most of the boxes are fractions, percentages or corners.
    """
    if not len(table):
        return []
    left_top = table.boxes_xyxy[:, :2] + (1 if voc else 0)  # what the file says
    values = np.concatenate([left_top, table.boxes_xyxy[:, 2:] - left_top], axis=1)
    boxes = _Boxes(values, sizes[table.image_positions][:, ::-1].astype(np.float64), table.stated_areas)
    if voc:
        return _check_percent(boxes, source, _VOC_FORM)
    fractions = _check_fractions(boxes, source)
    _check_corners(boxes, source)
    notes = _check_percent(boxes, source, _right_form(source))
    if fractions.any():
        first, count = int(np.argmax(fractions)), int(fractions.sum())
        note = (
            f"{some_of(count, len(table), 'box', 'boxes')} {agreeing(count, 'lies', 'lie')} within 0..1, the first pixel of the image (the first: "
            f"{table.label(first)}); if these are fractions of the image, multiply them by its width and height."
        )
        notes.append(Note(note, "perhaps fractions", count=count))
    return notes


def _right_form(source: str) -> str:
    """How boxes are meant to be; the check also serves formats that other tools than COCO's write."""
    return f"COCO {_RIGHT_FORM}" if source.lower().endswith(".json") else _RIGHT_FORM


def _check_fractions(boxes: _Boxes, source: str) -> np.ndarray:
    """Refuses fractions; returns which boxes look like some, (N,) bool."""
    values = boxes.values
    inside = np.all((values >= 1 - _FRACTION_LIMIT) & (values <= _FRACTION_LIMIT), axis=1)
    inside &= boxes.sizes.max(axis=1) > _SMALLEST_JUDGED
    first, second = values[:, :2], values[:, 2:]
    forms = {
        "": np.all(first + second <= _FRACTION_LIMIT, axis=1),
        " with the box's centre in place of its left and top": np.all(
            (first - second / 2 >= 1 - _FRACTION_LIMIT) & (first + second / 2 <= _FRACTION_LIMIT), axis=1
        ),
        " with its right and bottom in place of its width and height": np.all(second > first, axis=1),
    }
    # A box of the very first pixel may be meant if its area says so.
    meant = np.all(values == np.round(values), axis=1) & boxes.has_area(values[:, 2] * values[:, 3])
    counts = {form: int((inside & fits & ~meant).sum()) for form, fits in forms.items()}
    form = max(counts, key=lambda name: counts[name])  # the first of equals
    if counts[form] > _MOST * len(values):
        raise DataError(
            f"{source}: {some_of(counts[form], len(values), 'box', 'boxes')} {agreeing(counts[form], 'lies', 'lie')} within 0..1, so boxes are fractions of the image{form}; "
            f"{_right_form(source)}: multiply them by the image's width and height{_conversion(form)}."
        )
    fractions: np.ndarray = inside & forms[""] & ~meant
    return fractions


def _conversion(form: str) -> str:
    if "centre" in form:
        return ", and subtract half of the width and height from the centre"
    return ", and subtract left and top from right and bottom" if "right" in form else ""


def _check_corners(boxes: _Boxes, source: str) -> None:
    """Refuses left, top, right, bottom: where most boxes would leave the image, or where the stated areas say so."""
    first, second = boxes.values[:, :2], boxes.values[:, 2:]
    fits: np.ndarray = np.all((second > first) & (first >= -2) & (second <= boxes.sizes + 2), axis=1)
    if fits.mean() < _NEARLY_ALL:
        return
    leave = int(boxes.leave().sum())
    as_corners = boxes.has_area(np.prod(second - first, axis=1)) & ~boxes.has_area(np.prod(second, axis=1))
    if leave > _MOST * len(first) and not boxes.areas_say_pixels():
        reason = f"{some_of(leave, len(first), 'box', 'boxes')} would leave the image, and nearly all fit"
    elif as_corners.sum() > _MOST * len(first):
        reason = f"the stated areas of {some_of(int(as_corners.sum()), len(first), 'box', 'boxes')} fit"
    else:
        return
    raise DataError(
        f"{source}: {reason} as left, top, right, bottom, so the boxes are corners; {_right_form(source)}: subtract left from right and top from bottom."
    )


def _check_percent(boxes: _Boxes, source: str, right_form: str) -> list[str]:
    """Refuses percentages where something besides their small values shows them; otherwise returns a note."""
    values, count = boxes.values, len(boxes.values)
    corners = values[:, :2] + values[:, 2:]
    inside = np.all((values >= -1) & (values <= _PERCENT_LIMIT), axis=1) & np.all(corners <= _PERCENT_LIMIT, axis=1)
    if inside.mean() < _NEARLY_ALL:
        return []
    scale = np.prod(boxes.sizes / 100, axis=1)
    pixels = np.prod(values[:, 2:], axis=1)
    leave = boxes.leave()
    # An outline fills at most its box, so a larger area proves something; a smaller one only if some boxes would also leave the image.
    by_area = (boxes.stated_areas > 1.05 * pixels) & (boxes.stated_areas <= 1.05 * pixels * scale)
    by_area |= (scale < 0.9) & bool(leave.any()) & boxes.has_area(pixels * scale)
    spread = bool(np.all(corners.max(axis=0) > 60))  # a few careless boxes in a tiny image are no percentages
    if leave.mean() > _MOST and spread and not boxes.areas_say_pixels():
        reason = f"{some_of(int(leave.sum()), count, 'box', 'boxes')} would leave the image, and nearly all fit"
    elif by_area.mean() > _MOST:
        reason = f"the stated areas of {some_of(int(by_area.sum()), count, 'box', 'boxes')} fit"
    elif _become_whole(boxes):
        reason = "nearly all become whole numbers of pixels if they are taken"
    else:
        return _percent_note(boxes, corners, pixels)
    raise DataError(
        f"{source}: {reason} as percentages, so the boxes are percentages of the image; {right_form}: multiply them by its "
        "width and height and divide by 100."
    )


def _become_whole(boxes: _Boxes) -> bool:
    """Whether values with many decimals, taken as percentages, are whole numbers of pixels: people click on pixels."""
    rough = np.all(np.abs(boxes.values * 20 - np.round(boxes.values * 20)) < 1e-6, axis=1)
    pixels = boxes.values * np.tile(boxes.sizes, 2) / 100
    whole = np.all(np.abs(pixels - np.round(pixels)) < 0.02, axis=1)
    return bool((~rough).mean() > _MOST and whole.mean() >= 0.9)


def _percent_note(boxes: _Boxes, corners: np.ndarray, pixels: np.ndarray) -> list[str]:
    """A sentence if many boxes fill the first 100 × 100 pixels of larger images, unless their areas say that they are pixels."""
    fill = len(corners) >= 10 and bool(np.all(corners.max(axis=0) > 80)) and bool(np.all(boxes.sizes >= 150))
    if not fill or boxes.has_area(pixels).mean() > _MOST:
        return []
    return [
        f"The {len(corners)} boxes lie in the first 100 × 100 pixels of larger images; if they are percentages, multiply them by the image's "
        "width and height and divide by 100."
    ]
