"""Masks that are pictures: every pixel has the id of the segment that it belongs to, or 0.

The picture of an image is read when its objects' masks are needed, once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from PIL import Image

from detrkit.data.images import readable
from detrkit.errors import DataError
from detrkit.panoptic import VOID

_HIGHEST_ID = 256**3 - 1
_ROWS = 64  # that are converted at a time
_COLOURS = ("RGB", "RGBA", "RGBX")


class IdMaps(Protocol):
    """The id maps of a data set's images."""

    def read(self, index: int, rows: np.ndarray | None = None, columns: np.ndarray | None = None) -> np.ndarray:
        """The id map of one image.

        Args:
            index: of the image.
            rows: (h,) int64, those to keep; None means all.
            columns: (w,) int64, likewise.

        Returns:
            (h, w) int32, `VOID` where a pixel belongs to nothing.

        Raises:
            DataError: the file cannot be read, or is no id map.
        """

    def subset(self, images: np.ndarray) -> Self:
        """Those of some images, in the given order."""


@dataclass(frozen=True, eq=False)
class ColourMaps:
    """Id maps as COCO's panoptic format has them: PNG files whose colour is the id, red + 256 green + 65,536 blue.

    Attributes:
        folder: contains the files.
        files: (I,) strings, paths relative to the folder.
    """

    folder: Path
    files: np.ndarray

    def path(self, index: int) -> Path:
        """The file of one image."""
        return self.folder / str(self.files[index])

    def read(self, index: int, rows: np.ndarray | None = None, columns: np.ndarray | None = None) -> np.ndarray:
        """The id map of one image; see `IdMaps`."""
        path = self.path(index)
        with readable(str(path)), Image.open(path) as image:
            problem = colour_problem(image.mode)
            if problem:
                raise DataError(f"{path} {problem}")
            return _numbers(image, np.arange(image.height) if rows is None else rows, columns)

    def subset(self, images: np.ndarray) -> ColourMaps:
        """Those of some images."""
        return replace(self, files=self.files[images])


@dataclass(frozen=True, eq=False)
class MapMasks:
    """Masks of a data set's objects that are segments of id maps.

    Attributes:
        maps: of the images.
        ids: (N,) int32, the id of each object's pixels in the map of its image.
        whole: whether the objects are all segments of their images, stuff included.
    """

    maps: IdMaps
    ids: np.ndarray
    whole: bool

    def of_image(self, index: int, rows: slice, size: tuple[int, int]) -> SegmentMasks:  # noqa: ARG002 - the map has it
        """The masks of one image's objects; see `DatasetMasks`."""
        return SegmentMasks(self.maps, index, self.ids[rows])

    def subset(self, images: np.ndarray, rows: np.ndarray) -> MapMasks:
        """The masks of some images' objects; see `DatasetMasks`."""
        return replace(self, maps=self.maps.subset(images), ids=self.ids[rows])


@dataclass(frozen=True, eq=False)
class SegmentMasks:
    """The masks of one image's objects that are segments of its id map; see `ObjectMasks`.

    Attributes:
        maps: of the data set's images.
        index: of the image.
        ids: (N,) int32.
    """

    maps: IdMaps
    index: int
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: np.ndarray) -> SegmentMasks:
        """The masks of some objects, given (M,) int64 indices or an (N,) bool selection."""
        return replace(self, ids=self.ids[rows])

    def picked(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(N, h, w) bool; the map is read once, and nothing of its size is kept for each object."""
        if not len(self):
            return np.zeros((0, len(rows), len(columns)), np.bool_)
        picked: np.ndarray = self.maps.read(self.index, rows, columns) == self.ids[:, None, None]
        return picked

    def run_lengths(self) -> list[dict[str, Any]]:
        """The masks in COCO's compressed run lengths."""
        from faster_coco_eval.core import mask as masks  # needed by evaluation alone

        id_map = self.maps.read(self.index) if len(self) else np.zeros((0, 0), np.int32)
        return [masks.encode(np.asfortranarray(id_map == identifier, np.uint8)) for identifier in self.ids.tolist()]


def _numbers(image: Image.Image, rows: np.ndarray, columns: np.ndarray | None) -> np.ndarray:
    """(h, w) int32, the colours of an image as numbers: some rows at a time, since a copy of a large photo's map would be larger than all masks."""
    numbers: np.ndarray = np.empty((len(rows), image.width if columns is None else len(columns)), np.int32)
    for start in range(0, len(rows), _ROWS):
        band = rows[start : start + _ROWS]
        top = int(band.min())
        part = image.crop((0, top, image.width, int(band.max()) + 1)).convert("RGBA")
        values = np.asarray(part).view("<u4")[..., 0]  # red is the lowest byte
        numbers[start : start + _ROWS] = chosen(values, band - top, columns) & _HIGHEST_ID
    return numbers


def chosen(values: np.ndarray, rows: np.ndarray | None, columns: np.ndarray | None) -> np.ndarray:
    """Some rows and columns of a picture (H, W, ...); None means all."""
    values = values if rows is None else values.take(rows, axis=0)
    return values if columns is None else values.take(columns, axis=1)


def colour_problem(mode: str) -> str:
    """Why a picture of this mode cannot say ids by colours, as the end of a sentence; empty if it can.

    Args:
        mode: Pillow's name for the kind of pixels.
    """
    if mode in _COLOURS:
        return ""
    kind = "palette picture, whose pixels are places in a list of colours" if mode == "P" else f"picture of mode {mode}"
    return (
        f"is a {kind}, not RGB: COCO's panoptic format writes an id as a colour (red + 256 green + 65,536 blue); save it as RGB "
        "with the original colours, or export it again."
    )


def other_size(size: Sequence[int], wanted: Sequence[int], picture: object) -> str:
    """That a mask has another size than its picture, as the end of a sentence.

    Args:
        size: height and width of the mask.
        wanted: those of the picture.
        picture: its name.
    """
    return (
        f"has {size[1]} × {size[0]} pixels, but its picture {picture} has {wanted[1]} × {wanted[0]}: export the masks again, or use the "
        "pictures that were annotated."
    )


@dataclass(frozen=True, eq=False)
class Segments:
    """What an id map shows of segments.

    Attributes:
        areas: (S,) int64, numbers of pixels; 0 for a segment that the map lacks.
        boxes_xyxy: (S, 4) float64, the smallest boxes that contain all pixels; right and bottom are past the last ones.
        others: numbers of pixels of ids that are none of these segments, by id.
    """

    areas: np.ndarray
    boxes_xyxy: np.ndarray
    others: dict[int, int]


def segments_of(id_map: np.ndarray, ids: np.ndarray | None = None) -> tuple[np.ndarray, Segments]:
    """What the segments of an id map are like.

    Args:
        id_map: (H, W) int32.
        ids: (S,) int32, those that it should have; None means all that it has.

    Returns:
        Their ids (S,), and what the map shows of them.
    """
    found, all_areas, all_boxes = _measured(id_map)
    present = dict(zip(found.tolist(), range(len(found)), strict=True))
    present.pop(VOID, None)
    wanted = found[found != VOID] if ids is None else ids
    areas, boxes = np.zeros(len(wanted), np.int64), np.zeros((len(wanted), 4))
    for row, identifier in enumerate(wanted.tolist()):
        place = present.pop(identifier, None)
        if place is not None:
            areas[row], boxes[row] = all_areas[place], all_boxes[place]
    return wanted, Segments(areas, boxes, {identifier: int(all_areas[place]) for identifier, place in present.items()})


def _measured(id_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ids of a map (H, W), rising, with their areas and boxes: from the few runs of equal pixels in each row, not from all pixels."""
    starts = np.ones(id_map.shape, np.bool_)
    np.not_equal(id_map[:, 1:], id_map[:, :-1], out=starts[:, 1:])
    first = np.flatnonzero(starts)
    lengths = np.diff(first, append=id_map.size)
    found, kinds = np.unique(id_map.ravel()[first], return_inverse=True)
    order = np.argsort(kinds, kind="stable")
    groups = np.searchsorted(kinds[order], np.arange(len(found)))
    (rows, columns), lengths = np.divmod(first[order], id_map.shape[1]), lengths[order]
    boxes = [
        np.minimum.reduceat(columns, groups),
        np.minimum.reduceat(rows, groups),
        np.maximum.reduceat(columns + lengths, groups),
        np.maximum.reduceat(rows, groups) + 1,
    ]
    return found, np.add.reduceat(lengths, groups), np.stack(boxes, axis=1).astype(np.float64)
