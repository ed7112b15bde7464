"""Panoptic segmentations in COCO's form: a JSON file, and beside it a folder with a PNG file for each image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrkit.cards import Category
from detrkit.data.coco_ids import whole_number
from detrkit.data.coco_values import crowd_flag, is_finite
from detrkit.data.wording import counted, first_few
from detrkit.errors import DataError, OutputError
from detrkit.files import expanded, refuse_folder, write_atomically, write_json
from detrkit.panoptic import VOID, PanopticSegmentation, Segment, colors_of_ids, ids_of_colors, runs_of

_MOST_SEGMENTS = 2**24  # ids that three bytes of a pixel tell apart


def write_panoptic(
    path: str | Path,
    results: Iterable[tuple[int, str, PanopticSegmentation]],
    categories: Sequence[Category],
) -> Path:
    """Writes the segments of many images as COCO's tools read them.

    Args:
        path: of the JSON file; the PNG files go into the folder beside it that has its name without the ending.
        results: of each image its id, its file name and its segments; taken one at a time.
        categories: the classes that segments may have.

    Returns:
        The JSON file.

    Raises:
        OutputError: a file cannot be written, two images have one name, or an id does not fit into a PNG file.
    """
    path = refuse_folder(path)
    images, entries = [], []
    names: set[str] = set()
    for image_id, file_name, segmentation in results:
        name = f"{Path(file_name).stem}.png"
        if name.casefold() in names:
            raise OutputError(
                f"Two images would be written to {path.with_suffix('') / name}: give them different names"
            )
        names.add(name.casefold())
        entries.append(write_map(path, segmentation, image_id, name))
        height, width = segmentation.ids.shape
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
    return write_json(path, {"images": images, "annotations": entries, "categories": category_records(categories)})


def write_map(path: Path, segmentation: PanopticSegmentation, image_id: int, name: str) -> dict[str, Any]:
    """Writes the PNG file of one image.

    Args:
        path: of the JSON file.
        segmentation: the image's segments.
        image_id: of the image.
        name: of the PNG file, in the folder beside the JSON file.

    Returns:
        The image's entry for the JSON file.

    Raises:
        OutputError: the file cannot be written, or an id does not fit into it.
    """
    file = path.with_suffix("") / name
    if segmentation.ids.size and not 0 <= int(segmentation.ids.min()) <= int(segmentation.ids.max()) < _MOST_SEGMENTS:
        raise OutputError(
            f"{file} cannot hold the ids of {segmentation!r}: COCO's PNG files have room for ids up to {_MOST_SEGMENTS - 1}; number segments from 1"
        )
    picture = Image.fromarray(colors_of_ids(segmentation.ids))
    write_atomically(file, lambda temporary: picture.save(temporary, format="PNG"))
    boxes = boxes_of(segmentation)
    records = [_segment_record(each, box) for each, box in zip(segmentation.segments, boxes.tolist(), strict=True)]
    return {"image_id": image_id, "file_name": name, "segments_info": records}


def category_records(categories: Sequence[Category]) -> list[dict[str, Any]]:
    """The list of categories of a panoptic file, in the order of the classes."""
    return [{"id": each.id, "name": each.name, "isthing": int(each.thing)} for each in categories]


def boxes_of(segmentation: PanopticSegmentation) -> np.ndarray:
    """(N, 4) int64 the box around each segment in pixels: left, top, width, height; zeros for a segment without pixels."""
    ids = np.array([segment.id for segment in segmentation.segments], dtype=np.int64)
    boxes = np.zeros((len(ids), 4), dtype=np.int64)
    if not segmentation.ids.size:
        return boxes
    width = segmentation.ids.shape[1]
    # Every other row is marked, so that no run goes on in the next row.
    striped = segmentation.ids.astype(np.int64) * 2 + (np.arange(len(segmentation.ids)) % 2)[:, None]
    starts, lengths = runs_of(striped)
    values = segmentation.ids.ravel()[starts]
    rows, columns = np.divmod(starts, width)
    order = np.argsort(values, kind="stable")
    values, rows, columns, ends = values[order], rows[order], columns[order], (columns + lengths)[order]
    firsts = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
    found = {number: place for place, number in enumerate(values[firsts].tolist())}
    corners = np.stack(
        [
            np.minimum.reduceat(columns, firsts),
            np.minimum.reduceat(rows, firsts),
            np.maximum.reduceat(ends, firsts),
            np.maximum.reduceat(rows, firsts) + 1,
        ],
        axis=1,
    )
    there = np.array([number in found for number in ids.tolist()], dtype=np.bool_)
    boxes[there] = corners[[found[number] for number in ids[there].tolist()]]
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _segment_record(segment: Segment, box: list[int]) -> dict[str, Any]:
    record = {
        "id": segment.id,
        "category_id": segment.category.id,
        "isthing": int(segment.category.thing),
        "area": segment.area,
        "bbox": box,
        "iscrowd": int(segment.crowd),
    }
    return record if segment.score is None else record | {"score": segment.score}


@dataclass(frozen=True, eq=False)
class PanopticFile:
    """A panoptic file in COCO's form; indexing and iterating read the PNG files, one at a time.

    Attributes:
        source: the JSON file.
        folder: holds the PNG files.
        categories: the classes, in the order of the file.
        image_ids: of the images, as the file has them.
        names: of their PNG files.
        records: the segments of each image, as the file has them.
        numbered: whether ids are mere numbers of the pictures that `detrkit predict` was given, so that names say which they are.
    """

    source: Path
    folder: Path
    categories: tuple[Category, ...]
    image_ids: tuple[int | str, ...]
    names: tuple[str, ...]
    records: tuple[tuple[dict[str, Any], ...], ...]
    numbered: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<PanopticFile {self.source}: {counted(len(self), 'image')}, {counted(len(self.categories), 'class', 'classes')}>"

    def __iter__(self) -> Iterator[PanopticSegmentation]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> PanopticSegmentation:
        """The segments of an image.

        Raises:
            DataError: the PNG file cannot be read, or its pixels are not those of the segments that the JSON file lists.
        """
        file = self.folder / self.names[index]
        ids = read_map(file)
        where = f"{self.source}, segments of {self.names[index]}"
        known = {category.id: category for category in self.categories}
        segments = [_segment(record, known, where) for record in self.records[index]]
        if any(segment[0] == VOID for segment in segments):  # as DETR's authors number segments; then no pixel is void
            ids, shift = ids + 1, 1
        else:
            shift = 0
        areas = _areas(ids)
        _check_ids([number + shift for number, *_ in segments], set(areas) - {VOID}, shift, where, file)
        made = (
            Segment(number + shift, category, areas[number + shift], score, crowd)
            for number, category, score, crowd in segments
        )
        return PanopticSegmentation(ids, tuple(sorted(made, key=lambda segment: segment.id)))


def read_panoptic(
    path: str | Path, folder: str | Path | None = None, *, categories: Sequence[Category] | None = None
) -> PanopticFile:
    """Opens a panoptic file in COCO's form: annotations or results.

    Args:
        path: the JSON file.
        folder: holds the PNG files; by default the folder beside the JSON file that has its name without the ending, or in COCO's layout the
            one beside its folder.
        categories: the classes, for a result file that lists none; they take precedence over those of the file.

    Raises:
        DataError: the file cannot be read, is not a panoptic file, or lists an image twice; the folder is missing.
    """
    source = expanded(path)
    content = _loaded(source)
    entries = content["annotations"]
    if categories is None:
        categories = _categories(content.get("categories"), source)
    place = _folder_of(source) if folder is None else expanded(folder)
    if entries and not place.is_dir():
        raise DataError(f"The PNG files of {source} are not in {place}: put their folder there.")
    image_ids, names = [], []
    for number, entry in enumerate(entries):
        image_id, name = entry.get("image_id"), entry.get("file_name")
        if not isinstance(image_id, int | str) or not isinstance(name, str):
            raise DataError(
                f"{source}: entry {number} of 'annotations' has no image_id and file_name: write both for every image."
            )
        image_ids.append(image_id)
        names.append(name)
    twice = [image_id for image_id, number in Counter(image_ids).items() if number > 1]
    if twice:
        raise DataError(f"{source} has more than one entry for the image {twice[0]!r}: keep one for each image.")
    records = tuple(tuple(entry["segments_info"]) for entry in entries)
    numbered = bool(entries) and all("image" in entry for entry in entries)
    return PanopticFile(source, place, tuple(categories), tuple(image_ids), tuple(names), records, numbered)


def is_panoptic(content: Any) -> bool:
    """Whether loaded JSON has the form of COCO's panoptic files."""
    entries = content.get("annotations") if isinstance(content, dict) else None
    return (
        isinstance(entries, list)
        and bool(entries)
        and all(isinstance(entry, dict) and isinstance(entry.get("segments_info"), list) for entry in entries)
    )


def read_map(file: Path) -> np.ndarray:
    """The ids that a panoptic PNG file stores, (H, W) int32.

    Raises:
        DataError: the file cannot be read, or its pixels are no colours.
    """
    try:
        with Image.open(file) as picture:
            if picture.mode not in ("RGB", "RGBA"):
                raise DataError(
                    f"{file} has pixels of the kind {picture.mode}, and ids are stored as RGB colours: write it again as COCO's tools do."
                )
            return ids_of_colors(np.asarray(picture))
    except FileNotFoundError:
        raise DataError(f"{file} is missing: each image of a panoptic file needs its PNG file.") from None
    except DataError:
        raise
    except Exception as problem:  # Pillow's parsers raise many errors
        raise DataError(f"{file} cannot be read ({problem}): copy or write it again.") from problem


def _folder_of(source: Path) -> Path:
    beside, above = source.with_suffix(""), source.absolute().parent.parent / source.stem
    return above if above.is_dir() and not beside.is_dir() else beside


def _loaded(source: Path) -> dict[str, Any]:
    try:
        content = json.loads(source.read_bytes())
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error.strerror}): give the path of a JSON file.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source} is not complete JSON ({error}): copy or write the file again.") from None
    if not is_panoptic(content):
        raise DataError(
            f"{source} is not a panoptic file: it needs a list of annotations, one for each image, each with segments_info."
        )
    return dict(content)


def _categories(records: Any, source: Path) -> tuple[Category, ...]:
    if not isinstance(records, list) or not records:
        raise DataError(f"{source} lists no categories: add them, or compare it with ground truth that lists them.")
    categories = []
    for index, record in enumerate(records):
        number = whole_number(record.get("id")) if isinstance(record, dict) else None
        if number is None or not isinstance(record.get("name"), str):
            raise DataError(f"{source}: entry {index} of 'categories' has no id and name: write both for every class.")
        categories.append(
            Category(number, record["name"], index, thing=crowd_flag(record.get("isthing", 1)) is not False)
        )
    if len({category.id for category in categories}) < len(categories):
        raise DataError(f"{source} lists two categories with one id: give each an id of its own.")
    return tuple(categories)


def _segment(record: Any, known: dict[int, Category], where: str) -> tuple[int, Category, float | None, bool]:
    """The id, class, score and crowd flag of a segment."""
    number = whole_number(record.get("id")) if isinstance(record, dict) else None
    if number is None or number < 0:
        raise DataError(f"{where}: {str(record)[:60]!r} has no id of a segment: write one from 1 on.")
    category_id = whole_number(record.get("category_id"))
    if category_id is None or category_id not in known:
        raise DataError(
            f"{where}: the segment {number} has the category_id {record.get('category_id')!r}, and there is no such category: use one of "
            f"the {len(known)} ids that are listed."
        )
    score = record.get("score")
    if score is not None and not is_finite(score):
        raise DataError(f"{where}: the segment {number} has the score {score!r}, which is not a number in [0, 1].")
    crowd = crowd_flag(record.get("iscrowd"))
    if crowd is None:
        raise DataError(
            f"{where}: the segment {number} has the iscrowd {record['iscrowd']!r}: write 0, or 1 for a crowd."
        )
    return number, known[category_id], None if score is None else float(score), crowd


def _areas(ids: np.ndarray) -> dict[int, int]:
    """The number of pixels of each id."""
    starts, lengths = runs_of(ids)
    values, inverse = np.unique(ids.ravel()[starts], return_inverse=True)
    pixels = np.bincount(inverse, weights=lengths, minlength=len(values)).astype(np.int64)
    return dict(zip(values.tolist(), pixels.tolist(), strict=True))


def _check_ids(listed: Sequence[int], drawn: set[int], shift: int, where: str, file: Path) -> None:
    """Refuses segments without pixels, pixels without a segment, and ids that occur twice."""
    if len(set(listed)) < len(listed):
        raise DataError(f"{where}: two segments have one id: give each segment an id of its own.")
    for extra, message in (
        (set(listed) - drawn, "have no pixels in it: leave them out"),
        (drawn - set(listed), "are in it and not in the list: list them with their classes"),
    ):
        if extra:
            shown = first_few([str(number - shift) for number in sorted(extra)])
            raise DataError(f"{where} do not agree with {file}: the ids {shown} {message}.")
