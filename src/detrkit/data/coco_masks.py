"""Masks of COCO's annotations: polygons and run lengths, kept as the file has them and decoded one object at a time.

Polygons of fewer than three points are left out where their object has others. Everything else that is no mask of its picture is refused
before anything is trained: annotations without an outline, coordinates that are no pairs of numbers, run lengths of another size.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detrkit.data.coco_ids import whole_number
from detrkit.data.coco_truth import Record, Table
from detrkit.data.findings import Changes, Faults
from detrkit.data.wording import agreeing, counted, shown_value, were

_LEAST_POINTS = 3
_DECIMALS = 2  # of COCO's coordinates: single precision holds them, and this many digits bring them back exactly
_LEAST_CODE, _CODES, _MORE, _SIGN, _BITS = 48, 64, 0x20, 0x10, 5  # COCO's way of writing run lengths as text
_LONGEST_NUMBER = 7  # letters: more pixels than any picture has


@dataclass(frozen=True, eq=False)
class Outlines:
    """Outlines of N objects in flat arrays: of each its polygons, or its run lengths.

    Attributes:
        coordinates: (P,) float32, x and y in turn, of all polygons.
        polygons: (K + 1,) int64; polygon k is `coordinates[polygons[k]:polygons[k + 1]]`.
        polygons_of: (N + 1,) int64; object n has the polygons `polygons_of[n]` to `polygons_of[n + 1]`.
        runs: (R,) uint8, compressed run lengths of all objects that have some.
        runs_of: (N + 1,) int64; those of object n are `runs[runs_of[n]:runs_of[n + 1]]`.
    """

    coordinates: np.ndarray
    polygons: np.ndarray
    polygons_of: np.ndarray
    runs: np.ndarray
    runs_of: np.ndarray

    def decoded(self, place: int, size: tuple[int, int]) -> np.ndarray:
        """The mask of one object as (H, W) uint8, column by column in memory.

        Args:
            place: of the object.
            size: height and width of its picture.
        """
        from faster_coco_eval.core import mask as masks  # not needed for boxes

        decoded: np.ndarray = masks.decode(self.run_lengths(place, size))
        return decoded

    def run_lengths(self, place: int, size: tuple[int, int]) -> dict[str, Any]:
        """The mask of one object as COCO's compressed run lengths."""
        from faster_coco_eval.core import mask as masks

        start, end = self.runs_of[place : place + 2].tolist()
        if end > start:
            return {"size": list(size), "counts": self.runs[start:end].tobytes()}
        polygons = []
        for number in range(*self.polygons_of[place : place + 2].tolist()):
            values = self.coordinates[self.polygons[number] : self.polygons[number + 1]].astype(np.float64)
            polygons.append(values.round(_DECIMALS).tolist())
        merged: dict[str, Any] = masks.merge(masks.frPyObjects(polygons, *size))
        return merged


@dataclass(frozen=True, eq=False)
class OutlineMasks:
    """Masks of a data set's objects that are outlines.

    Attributes:
        outlines: of all annotations of the file that were read.
        places: (N,) int64, the data set's objects among them.
    """

    outlines: Outlines
    places: np.ndarray

    def of_image(self, index: int, rows: slice, size: tuple[int, int]) -> ObjectOutlines:  # noqa: ARG002 - outlines need no file
        """The masks of one image's objects; see `DatasetMasks`."""
        return ObjectOutlines(self.outlines, self.places[rows], size)

    def subset(self, images: np.ndarray, rows: np.ndarray) -> OutlineMasks:  # noqa: ARG002 - likewise
        """The masks of some images' objects; see `DatasetMasks`."""
        return OutlineMasks(self.outlines, self.places[rows])


@dataclass(frozen=True, eq=False)
class ObjectOutlines:
    """The masks of one image's objects that are outlines; see `ObjectMasks`.

    Attributes:
        outlines: of these and other objects.
        places: (N,) int64, these objects among them.
        size: height and width of the image.
    """

    outlines: Outlines
    places: np.ndarray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.places)

    def subset(self, rows: np.ndarray) -> ObjectOutlines:
        """The masks of some objects, given (M,) int64 indices or an (N,) bool selection."""
        return ObjectOutlines(self.outlines, self.places[rows], self.size)

    def picked(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(N, h, w) bool, decoded one after another, so that one mask of the photo's size exists at a time."""
        picked: np.ndarray = np.empty((len(self), len(rows), len(columns)), np.bool_)
        for place, mask in zip(self.places.tolist(), picked, strict=True):
            mask[:] = self.outlines.decoded(place, self.size).T[columns][:, rows].T
        return picked

    def run_lengths(self) -> list[dict[str, Any]]:
        """The masks in COCO's compressed run lengths; those of the file stay as they are."""
        return [self.outlines.run_lengths(place, self.size) for place in self.places.tolist()]


def read_masks(
    records: Sequence[Record], table: Table, sizes: np.ndarray, names: Sequence[str], source: str
) -> tuple[OutlineMasks, list[str]]:
    """The masks of a file's annotations, in the order of the table, and notes about what was left out.

    Args:
        records: all annotations of the file.
        table: those that are objects of the data set.
        sizes: (I, 2) height and width of the pictures.
        names: of the pictures, for messages.
        source: the file, for messages.

    Raises:
        DataError: an annotation has no mask, or one that makes no sense or does not fit its picture.
    """
    reader = _Reader(source)
    places, positions = table.places.tolist(), table.image_positions.tolist()
    for row, (place, position) in enumerate(zip(places, positions, strict=True)):
        where = f"{table.label(row)} of {names[position]}"
        reader.add(records[place].get("segmentation"), tuple(sizes[position].tolist()), where, names[position])
    reader.faults.check()
    return OutlineMasks(reader.outlines(), np.arange(len(table))), reader.notes()


class _Reader:
    """Gathers outlines one by one, and what is wrong with them, so that messages can give counts."""

    def __init__(self, source: str) -> None:
        self.faults = Faults(source)
        self._changes = Changes()
        self._coordinates = array("f")
        self._polygons = array("q", [0])
        self._polygons_of = array("q", [0])
        self._runs = bytearray()
        self._runs_of = array("q", [0])

    def add(self, segmentation: Any, size: tuple[int, int], where: str, picture: str) -> None:
        """One object.

        Args:
            segmentation: as the file has it.
            size: height and width of its picture.
            where: how messages call the annotation.
            picture: name of its picture.
        """
        if isinstance(segmentation, dict):
            self._add_runs(segmentation, size, where)
        elif isinstance(segmentation, list) and segmentation:
            nested = isinstance(segmentation[0], list)
            self._add_polygons(segmentation if nested else [segmentation], where, picture)
        else:
            sentence = "has no outline: draw one, export the outlines, too, or read the data without masks."
            self.faults.add("no outline", where, sentence)
        self._polygons_of.append(len(self._polygons) - 1)
        self._runs_of.append(len(self._runs))

    def outlines(self) -> Outlines:
        """All of them."""
        return Outlines(
            np.array(self._coordinates, dtype=np.float32),
            np.array(self._polygons, dtype=np.int64),
            np.array(self._polygons_of, dtype=np.int64),
            np.frombuffer(bytes(self._runs), dtype=np.uint8),
            np.array(self._runs_of, dtype=np.int64),
        )

    def notes(self) -> list[str]:
        """A sentence about polygons that were left out, if there are any."""
        return self._changes.notes(
            {
                "short polygon": lambda number, first: (
                    f"{counted(number, 'polygon')} of fewer than {_LEAST_POINTS} points {were(number)} left out of "
                    f"{agreeing(number, 'an object that has', 'objects that have')} others (the first: {first})."
                )
            }
        )

    def _add_polygons(self, polygons: list[Any], where: str, picture: str) -> None:
        usable = [polygon for polygon in polygons if self._is_outline(polygon, where)]
        if len(usable) < len(polygons) and usable:
            self._changes.add("short polygon", where, picture)
        lengths = [len(polygon) if isinstance(polygon, list) else -1 for polygon in polygons]
        if not usable and all(length in range(0, 2 * _LEAST_POINTS, 2) for length in lengths):
            points = counted(max(lengths) // 2, "point")
            sentence = (
                f"has a polygon of {points}, and it takes {_LEAST_POINTS}: draw it again, or remove the annotation."
            )
            self.faults.add("short polygon", where, sentence)
        for polygon in usable:
            self._coordinates.extend(polygon)
            self._polygons.append(len(self._coordinates))

    def _is_outline(self, polygon: Any, where: str) -> bool:
        """Whether it is a polygon of enough points; a fault if it is no polygon at all."""
        try:
            numbers = isinstance(polygon, list) and bool(np.isfinite(array("f", polygon)).all())
        except (TypeError, ValueError, OverflowError):
            numbers = False
        if not numbers or len(polygon) % 2:
            sentence = (
                f"has a polygon {shown_value(polygon)}, which is not finite numbers, x and y in turn: export it again."
            )
            self.faults.add("no polygon", where, sentence)
            return False
        return len(polygon) >= 2 * _LEAST_POINTS

    def _add_runs(self, mask: dict[str, Any], size: tuple[int, int], where: str) -> None:
        problem, runs = _read_runs(mask, size)
        if problem:
            self.faults.add("run lengths", where, f"{problem}: export it again, with the pictures that were annotated.")
        self._runs += runs


def _read_runs(mask: dict[str, Any], size: tuple[int, int]) -> tuple[str, bytes]:
    """What is wrong with run lengths, empty if nothing is, and the run lengths as compressed text."""
    from faster_coco_eval.core import mask as masks

    given, counts = mask.get("size"), mask.get("counts")
    sides = [whole_number(side) for side in given] if isinstance(given, list | tuple) else []
    if sides != list(size):
        wanted = f"its picture has {list(size)} (a size is [height, width])"
        return f"has run lengths (RLE) of the size {shown_value(given)}, but {wanted}", b""
    if isinstance(counts, list):
        numbers = [whole_number(count) for count in counts]
        usable = [number for number in numbers if number is not None and number >= 0]
        total = sum(usable) if usable and len(usable) == len(counts) else None
    elif isinstance(counts, str | bytes):
        text = counts.encode("utf-8", "replace") if isinstance(counts, str) else counts
        total = pixels_of_runs(text)
    else:
        total = None
    if total is None:
        return f"has run lengths (RLE) that cannot be read ({shown_value(counts)})", b""
    if total != size[0] * size[1]:
        return f"has run lengths (RLE) of {total:,} pixels in all, but its picture has {size[0] * size[1]:,}", b""
    if isinstance(counts, list):
        text = masks.frPyObjects({"size": list(size), "counts": usable}, *size)["counts"]
    return "", text


def pixels_of_runs(counts: bytes) -> int | None:
    """The sum of compressed run lengths; None if they make no sense.

    Each number is written as letters of five bits each, the lowest first; from the fourth on, it is the difference to the last but one.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - _LEAST_CODE
    if not len(codes) or codes.min() < 0 or codes.max() >= _CODES or codes[-1] & _MORE:
        return None
    ends = np.flatnonzero(codes & _MORE == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_NUMBER:
        return None
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & (_MORE - 1)) << (_BITS * places), starts)
    numbers -= np.where(codes[ends] & _SIGN, 1 << (_BITS * lengths), 0)
    numbers[1::2], numbers[2::2] = numbers[1::2].cumsum(), numbers[2::2].cumsum()
    return None if numbers.min() < 0 else int(numbers.sum())
