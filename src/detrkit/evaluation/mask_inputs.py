"""Masks of objects and detections as an evaluation takes them: run lengths that fit their image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faster_coco_eval.core.mask import area, segmToRle, toBbox

from detrkit.data.coco_truth import Table
from detrkit.data.coco_values import is_finite
from detrkit.data.wording import have, some_of
from detrkit.errors import DataError

Record = dict[str, Any]
_FARTHEST = 100_000  # pixels; following an outline takes memory for each pixel of its length
_SIGN, _MORE, _BITS = 16, 32, 5  # of a character of compressed run lengths
_FIRST_CHARACTER = 48
_LARGEST_SHIFT = 30


def checked_mask(value: Any, size: tuple[int, int] | None, where: str) -> Record:
    """The mask of a result as compressed run lengths.

    Args:
        value: run lengths in COCO's form, compressed or not, or outlines.
        size: height and width of the image; None where they are not known.
        where: the entry, as the beginning of a message.

    Raises:
        DataError: it is neither, or does not fit the image.
    """
    if not isinstance(value, dict):
        if size is None:
            raise DataError(
                f"{where} has outlines as its segmentation, and the annotation file does not say how large the image is: add height and "
                "width to its images."
            )
        return _outlined(value, size, where)
    own = value.get("size")
    if not isinstance(own, list | tuple) or len(own) != 2 or not all(type(side) is int and side > 0 for side in own):
        raise DataError(f"{where} has a segmentation with the size {own!r}: write [height, width] in pixels.")
    if size is not None and tuple(own) != size:
        raise DataError(
            f"{where} has run lengths (RLE) of the size {list(own)}, and its image has {list(size)} (a size is [height, width]): write masks "
            "at the size of the picture."
        )
    return _compressed(value, (own[0], own[1]), where)


def box_of_mask(mask: Record) -> list[float]:
    """The box around a mask: left, top, width, height in pixels; zeros where it has no pixels."""
    return [float(value) for value in toBbox(mask)]


def truth_masks(
    records: Sequence[Record], table: Table, sizes: Sequence[tuple[int, int]], source: str
) -> tuple[list[Record] | None, list[str]]:
    """The masks of annotated objects.

    Args:
        records: the file's annotations.
        table: those that are used.
        sizes: height and width of the image of each row of the table.
        source: the file, for messages.

    Returns:
        Compressed run lengths in the order of the table, or None if the file has no outlines; and sentences about them. An object without an
        outline, among others that have one, has its box as its mask.

    Raises:
        DataError: an outline cannot be used, or does not fit its image.
    """
    numbers = (
        [place for place, _ in enumerate(records, start=1)] if table.numbered else [each["id"] for each in records]
    )
    by_number = {int(number): record for number, record in zip(numbers, records, strict=True)}
    outlines = [by_number[number].get("segmentation") for number in table.annotation_ids.tolist()]
    without = [row for row, outline in enumerate(outlines) if not outline]
    if len(without) == len(outlines):
        return None, [
            f"{source} has no outlines, so the masks of the detections were not compared."
        ] if outlines else []
    masks = []
    for row, (outline, size) in enumerate(zip(outlines, sizes, strict=True)):
        left, top, right, bottom = table.boxes_xyxy[row].tolist()
        shape = outline or [[left, top, right, top, right, bottom, left, bottom]]
        masks.append(checked_mask(shape, size, f"{source}: {table.label(row)}"))
    if not without:
        return masks, []
    number = len(without)
    count = some_of(number, len(outlines), "object")
    return masks, [
        f"{count} {have(number)} no outline, and the box is taken for the mask (the first: {table.label(without[0])})."
    ]


def _outlined(value: Any, size: tuple[int, int], where: str) -> Record:
    """Outlines as run lengths."""
    if (
        not isinstance(value, list | tuple)
        or not value
        or not all(isinstance(part, list | tuple) and len(part) >= 6 and len(part) % 2 == 0 for part in value)
        or not all(is_finite(number) and abs(number) <= _FARTHEST for part in value for number in part)
    ):
        raise DataError(
            f"{where} has a segmentation that is neither run lengths nor a list of outlines [x1, y1, x2, y2, x3, y3, ...] in pixels: "
            f"{str(value)[:60]}"
        )
    height, width = size
    return dict(segmToRle([[float(number) for number in part] for part in value], width, height))


def _compressed(value: Record, size: tuple[int, int], where: str) -> Record:
    """Run lengths in compressed form, if they describe as many pixels as the image has."""
    counts = value.get("counts")
    height, width = size
    if isinstance(counts, list | tuple):
        if not all(type(number) is int and number >= 0 for number in counts):
            raise DataError(f"{where} has a segmentation whose counts are no whole numbers: {str(counts)[:60]}")
        pixels = sum(counts)
    elif isinstance(counts, str | bytes):
        pixels = _pixels(counts if isinstance(counts, bytes) else counts.encode("latin-1", "replace"))
    else:
        raise DataError(f"{where} has a segmentation without counts: write run lengths, or outlines.")
    if pixels != height * width:
        raise DataError(
            f"{where} has a mask whose run lengths do not add up to {width} x {height} pixels: write the mask again."
        )
    mask = {"size": [height, width], "counts": counts}
    if isinstance(counts, list | tuple):
        return dict(segmToRle({**mask, "counts": list(counts)}, width, height))
    try:
        area(mask)
    except (RuntimeError, ValueError) as problem:
        raise DataError(f"{where} has a mask that cannot be read ({problem}): write the mask again.") from None
    return mask


def _pixels(text: bytes) -> int:
    """The number of pixels that compressed run lengths describe; -1 where they are none.

    A number has five bits in each character, the lowest first, a sign in the last one, and from the fourth number on is the difference to the
    number before the last.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - _FIRST_CHARACTER
        if not 0 <= bits < 2 * _MORE or shift > _LARGEST_SHIFT:
            return -1
        value |= (bits & _MORE - 1) << shift
        shift += _BITS
        if bits & _MORE:
            continue
        value -= (bits & _SIGN) << shift - _BITS + 1
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return sum(lengths) if shift == 0 and min(lengths, default=-1) >= 0 else -1
