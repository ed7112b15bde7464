"""One type of data set for every format on disk: images, and their objects in flat arrays.

Worker processes share flat arrays. A list of Python objects would gradually be copied into each of them as it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from detrkit.cards import Category
from detrkit.data.id_maps import MapMasks, segments_of
from detrkit.data.images import read_image
from detrkit.data.masks import DatasetMasks, ObjectMasks
from detrkit.data.wording import counted
from detrkit.errors import DataError
from detrkit.notebooks import paragraph, shown, table
from detrkit.panoptic import VOID, PanopticSegmentation, Segment

_NAMES_SHOWN = 10


class NoImagesError(DataError):
    """A split that is there but lists no images, as some exports write for a split that nothing was assigned to."""


class Images(Protocol):
    """Where the pictures of a data set come from: `ImageFiles`, `ArrayImages`, or another source with these methods."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The name of a picture in messages and result files."""

    def open(self, index: int) -> Image.Image:
        """The picture, in RGB.

        Raises:
            DataError: it cannot be read.
        """

    def subset(self, indices: np.ndarray) -> Images:
        """Some of the pictures, in the given order."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files, opened one at a time; indexing returns the path.

    Attributes:
        folder: contains the files.
        names: (I,) strings, file names as the annotation file gives them.
        as_stored: (I,) bool, True for images that were annotated on their stored pixels: their EXIF orientation is not applied.
        files: (I,) strings, paths relative to the folder where names lead elsewhere; None if all names are such paths.
        stretch_16bit: whether 16-bit grey is stretched to the whole range, see `read_image`.
    """

    folder: Path
    names: np.ndarray
    as_stored: np.ndarray
    files: np.ndarray | None = None
    stretch_16bit: bool = False

    def __repr__(self) -> str:
        return f"<ImageFiles {counted(len(self), 'file')} in {self.folder}>"

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Path:
        return self.folder / str((self.names if self.files is None else self.files)[index])

    def name(self, index: int) -> str:
        """The file name as the annotation file gives it."""
        return str(self.names[index])

    def open(self, index: int) -> Image.Image:
        """The picture, in RGB.

        Raises:
            DataError: the file cannot be read.
        """
        return read_image(self[index], apply_orientation=not self.as_stored[index], stretch_16bit=self.stretch_16bit)

    def subset(self, indices: np.ndarray) -> ImageFiles:
        """Some of the images, in the given order."""
        files = None if self.files is None else self.files[indices]
        return replace(self, names=self.names[indices], as_stored=self.as_stored[indices], files=files)


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images of one size, held in memory.

    Attributes:
        pixels: (I, H, W, 3) uint8, RGB.
    """

    pixels: np.ndarray

    def __repr__(self) -> str:
        _, height, width, _ = self.pixels.shape
        return f"<ArrayImages {counted(len(self), 'image')} of {height} × {width} pixels>"

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        """A name for messages and result files."""
        return array_image_name(index)

    def open(self, index: int) -> Image.Image:
        """The picture, in RGB."""
        return Image.fromarray(self.pixels[index])

    def subset(self, indices: np.ndarray) -> ArrayImages:
        """Some of the images, in the given order."""
        return ArrayImages(self.pixels[indices])


def array_image_name(index: int) -> str:
    """What an image that is no file is called in messages and result files."""
    return f"image_{index:06d}"


@dataclass(frozen=True, eq=False)
class Objects:
    """The annotated objects of one image.

    Attributes:
        boxes_xyxy: (N, 4) float64 pixels, as annotated (they may extend beyond the image).
        labels: (N,) int64 indices into the data set's categories.
        crowd: (N,) bool, True for a region of many objects that were annotated as one.
        areas: (N,) float64 square pixels, of the outline if the file gives it, otherwise of the box.
        masks: the objects' masks; None for data sets without masks.
    """

    boxes_xyxy: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    masks: ObjectMasks | None = None

    def __repr__(self) -> str:
        crowds = int(self.crowd.sum())
        return f"<Objects {counted(len(self) - crowds, 'object')}, {counted(crowds, 'crowd region')}>"

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, repr=False)
class DetectionDataset:
    """I images and their N objects; those of image i are the rows `offsets[i]:offsets[i + 1]`.

    Attributes:
        name: for messages, such as "coco val".
        images: where the pictures come from.
        image_ids: (I,) int64, ids of the annotation file.
        sizes: (I, 2) int64 height and width of the pictures as `image` returns them.
        categories: the classes; `categories[k].index` is k, ids and names are the file's.
        offsets: (I + 1,) int64.
        boxes_xyxy: (N, 4) float64 pixels, as annotated.
        labels: (N,) int64 indices into the categories.
        crowd: (N,) bool.
        areas: (N,) float64 square pixels.
        annotation_ids: (N,) int64, ids of the annotation file.
        notes: what the reader had to drop or change, in plain sentences with counts.
        file_image_ids: (I,) objects, what result files call the images, where that is not `image_ids`; otherwise None. These are ids that
            are no whole numbers, or of formats without ids the numbers in file names.
        file_category_ids: the same for categories, from their whole numbers; otherwise None.
        masks: the objects' masks; None for data sets that were opened without them.
    """

    name: str
    images: Images
    image_ids: np.ndarray
    sizes: np.ndarray
    categories: tuple[Category, ...]
    offsets: np.ndarray
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray
    annotation_ids: np.ndarray
    notes: tuple[str, ...] = ()
    file_image_ids: np.ndarray | None = None
    file_category_ids: Mapping[int, Any] | None = None
    masks: DatasetMasks | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def __repr__(self) -> str:
        return f"<DetectionDataset {self.description()}>"

    def _repr_html_(self) -> str:
        """What notebooks show: how many images and objects there are, and how many of each class, the commonest first."""
        names = [category.name for category in self.categories]
        objects = np.bincount(self.labels[~self.crowd], minlength=len(names)).tolist()
        images_of_objects = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        pairs = np.unique(np.stack([images_of_objects, self.labels], axis=1)[~self.crowd], axis=0)
        images = np.bincount(pairs[:, 1], minlength=len(names)).tolist()
        rows = sorted(zip(names, objects, images, strict=True), key=lambda row: -row[1])
        crowds = int(self.crowd.sum())
        empty = int(np.sum(np.diff(self.offsets) == 0))
        basis = (
            f"{counted(len(self), 'image')} ({empty} without objects), {counted(len(self.labels) - crowds, 'object')}, "
            f"{counted(crowds, 'crowd region')}, {counted(len(names), 'class', 'classes')}."
        )
        notes = (paragraph(f"Note: {note}") for note in self.notes)
        return shown(self.name, paragraph(basis), table(("class", "objects", "images"), rows), *notes)

    @property
    def annotation_digest(self) -> str:
        """16 hexadecimal digits that tell these annotations (boxes, classes, crowd, whose they are) from others; pictures and masks do not count."""
        parts = (self.image_ids, self.offsets, self.boxes_xyxy, self.labels, self.crowd)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:16]

    def image(self, index: int) -> Image.Image:
        """The picture at this index, in RGB.

        Raises:
            DataError: its file cannot be read.
        """
        return self.images.open(index)

    def image_name(self, index: int) -> str:
        """The file name of the picture at this index, as the annotation file gives it."""
        return self.images.name(index)

    def objects(self, index: int) -> Objects:
        """The objects of the image at this index, as views rather than copies."""
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        height, width = self.sizes[index].tolist()
        masks = None if self.masks is None else self.masks.of_image(index, rows, (height, width))
        return Objects(self.boxes_xyxy[rows], self.labels[rows], self.crowd[rows], self.areas[rows], masks)

    @property
    def is_panoptic(self) -> bool:
        """Whether every segment of the images is an object here, so that `panoptic` gives them."""
        return isinstance(self.masks, MapMasks) and self.masks.whole

    def panoptic(self, index: int) -> PanopticSegmentation:
        """The segments of the image at this index; pixels of others than its objects are void.

        Raises:
            DataError: the data set was not opened with panoptic masks, or the file with the image's segments cannot be read.
        """
        if not isinstance(self.masks, MapMasks) or not self.is_panoptic:
            raise DataError(f"{self.name} was opened without panoptic masks: open it with masks='panoptic'.")
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        ids = self.masks.maps.read(index)
        own, seen = segments_of(ids, self.masks.ids[rows])
        if seen.others:
            ids[~np.isin(ids, own)] = VOID
        segments = [
            Segment(identifier, self.categories[label], area, crowd=crowd)
            for identifier, label, area, crowd in zip(
                own.tolist(), self.labels[rows].tolist(), seen.areas.tolist(), self.crowd[rows].tolist(), strict=True
            )
            if area
        ]
        return PanopticSegmentation(ids, tuple(sorted(segments, key=lambda segment: segment.id)))

    def description(self) -> str:
        """One line: the numbers of images, of images without objects, of objects and of crowd regions, the kind of masks, and the classes."""
        empty = int(np.sum(np.diff(self.offsets) == 0))
        names = [category.name for category in self.categories]
        if len(names) > _NAMES_SHOWN:
            names = [*names[: _NAMES_SHOWN - 1], "…", names[-1]]
        crowds = int(self.crowd.sum())
        and_crowds = f" and {counted(crowds, 'crowd region')}" if crowds else ""
        return (
            f"{self.name}: {counted(len(self), 'image')} ({empty} without objects), "
            f"{counted(len(self.labels) - crowds, 'object')}{and_crowds}{self._masks_in_words()}, "
            f"{counted(len(self.categories), 'class', 'classes')}: {', '.join(names)}"
        )

    def _masks_in_words(self) -> str:
        if self.masks is None:
            return ""
        return " with masks of segments (things and stuff)" if self.is_panoptic else " with masks of objects"

    def to_coco(self, *, own_ids: bool = False) -> dict[str, list[dict[str, Any]]]:
        """The ground truth in COCO's format, as evaluators read it.

        Annotations are numbered from 1: COCO's evaluation takes the id 0, which occurs in real files, for "no match".

        Args:
            own_ids: whether images and categories have the ids that the annotation file uses itself, which may be texts; otherwise they
                have the whole numbers of `image_ids` and `categories`, which evaluators need. The two differ only for ids that are no
                whole numbers.
        """
        images = [
            {"id": image_id, "file_name": self.images.name(index), "height": height, "width": width}
            for index, (image_id, (height, width)) in enumerate(
                zip(self.image_ids.tolist(), self.sizes.tolist(), strict=True)
            )
        ]
        file_ids = np.array([category.id for category in self.categories], dtype=np.int64)
        boxes_xywh = np.concatenate([self.boxes_xyxy[:, :2], self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2]], axis=1)
        columns = zip(
            np.repeat(self.image_ids, np.diff(self.offsets)).tolist(),
            file_ids[self.labels].tolist(),
            boxes_xywh.tolist(),
            self.areas.tolist(),
            self.crowd.astype(np.int64).tolist(),
            strict=True,
        )
        names = ("image_id", "category_id", "bbox", "area", "iscrowd")
        annotations = [
            {"id": number, **dict(zip(names, row, strict=True))} for number, row in enumerate(columns, start=1)
        ]
        categories = [{"id": category.id, "name": category.name} for category in self.categories]
        if own_ids:
            annotations = self.with_file_ids(annotations)
            own_images, own_categories = self._own_ids()
            images = [
                {**entry, "id": own_images.get(image_id, image_id)}
                for entry, image_id in zip(images, self.image_ids.tolist(), strict=True)
            ]
            categories = [
                {"id": own_categories.get(category.id, category.id), "name": category.name}
                for category in self.categories
            ]
        return {"images": images, "annotations": annotations, "categories": categories}

    def with_file_ids(self, entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Result entries for a file that goes with the annotation file: with the ids that it uses itself.

        Args:
            entries: with the ids of `image_ids` and `categories`.
        """
        own_images, own_categories = self._own_ids()
        changed = [dict(entry) for entry in entries]
        for entry in changed:
            if own_images:
                entry["image_id"] = own_images[entry["image_id"]]
            if own_categories:
                entry["category_id"] = own_categories[entry["category_id"]]
        return changed

    def _own_ids(self) -> tuple[Mapping[Any, Any], Mapping[Any, Any]]:
        """What the annotation file calls images and categories, from their whole numbers; empty where its ids are these numbers."""
        images = {} if self.file_image_ids is None else zip(self.image_ids.tolist(), self.file_image_ids, strict=True)
        return dict(images), self.file_category_ids or {}

    def subset(self, indices: Sequence[int] | np.ndarray) -> DetectionDataset:
        """Some of the images, in the given order, with all categories."""
        chosen = np.asarray(indices, dtype=np.int64)
        counts = np.diff(self.offsets)[chosen]
        rows = np.concatenate(
            [np.arange(self.offsets[index], self.offsets[index + 1]) for index in chosen] or [np.zeros(0, np.int64)]
        )
        return replace(
            self,
            images=self.images.subset(chosen),
            image_ids=self.image_ids[chosen],
            sizes=self.sizes[chosen],
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes_xyxy=self.boxes_xyxy[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            areas=self.areas[rows],
            annotation_ids=self.annotation_ids[rows],
            file_image_ids=None if self.file_image_ids is None else self.file_image_ids[chosen],
            masks=None if self.masks is None else self.masks.subset(chosen, rows),
        )


def numbered_by_names(dataset: DetectionDataset) -> DetectionDataset:
    """The data set with the numbers in its file names as the ids in result files, where every name is another number.

    For formats without ids. `detrkit predict` takes the same numbers, so its results go with such a data set, and those of COCO's pictures
    with COCO's annotation files.
    """
    stems = [Path(dataset.image_name(index)).stem for index in range(len(dataset))]
    numbers = [int(stem) if stem.isascii() and stem.isdigit() else None for stem in stems]
    if (
        any(number is None or number >= 2**63 for number in numbers)
        or len(set(numbers)) < len(numbers)
        or numbers == dataset.image_ids.tolist()
    ):
        return dataset
    return replace(dataset, file_image_ids=np.array(numbers, dtype=object))
