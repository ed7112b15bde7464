"""COCO's panoptic format: a JSON file that lists the segments of each image, and a PNG file for each image whose colours are their ids.

- `annotations/panoptic_<split>.json` (also with `2017` or `2014` after the split), the PNG files in the folder of the same name beside it or in
  the data set's folder, the photos where those of `instances_<split>.json` are.
- Every segment is an object: one of a thing, a crowd of things, or all the stuff of one class (`Category.thing` says which, from `isthing`).
- Boxes and areas are those of the pixels. COCO's own agree, so the file's are taken as they are as long as a check of up to 1,000 images finds
  no other; otherwise all PNG files are decoded. `detrkit inspect` checks all of them.
- Pixels of the colour 0 belong to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detrkit.data.coco import build_dataset
from detrkit.data.coco_frames import Orientation, stated_size
from detrkit.data.coco_ids import Ids, read_ids, whole_number
from detrkit.data.coco_layout import ANNOTATIONS, children, other_splits, picture_folders, root_of_file, split_of_file
from detrkit.data.coco_truth import Record, load_annotations
from detrkit.data.coco_values import given_box
from detrkit.data.dataset import DetectionDataset
from detrkit.data.findings import Changes, Faults, Note
from detrkit.data.id_maps import ColourMaps, MapMasks, Segments, colour_problem, other_size, segments_of
from detrkit.data.images import ImageFacts
from detrkit.data.picture_files import PictureFolders, choose_folder, find_pictures
from detrkit.data.pictures import inspect_pictures
from detrkit.data.wording import agreeing, counted, first_few, have, shown_value, some_of
from detrkit.errors import DataError

PREFIX = "panoptic_"
LOOKED_FOR = (f"annotations/{PREFIX}<split>.json",)
_HIGHEST_ID = 256**3 - 1
_CHECKED = 1000  # images whose pixels are compared before anything else
_THREADS = 8


@dataclass(frozen=True, eq=False)
class _Panoptic:
    """What a file lists, image by image.

    Attributes:
        files: of each image, the name of its PNG file.
        segments: of each image, its entries.
        ids: of each image, (S,) int32 ids of its segments.
    """

    files: list[str]
    segments: list[list[Record]]
    ids: list[np.ndarray]


def find_splits(folder: Path) -> dict[str, Path]:
    """A folder's panoptic files, keyed by the split that their names say; empty if it has none."""
    places = (*children(folder, ANNOTATIONS), folder)
    files = [file for place in places for file in sorted(place.glob(f"{PREFIX}*.json"))]
    return {split_of_file(file) or file.stem.removeprefix(PREFIX): file for file in reversed(files)}


def read_split(
    annotation_file: Path, name: str, *, orientation: Orientation = "auto", stretch_16bit: bool = False
) -> DetectionDataset:
    """The data set of a panoptic file, whose pictures are searched for; every segment is an object with a mask.

    Args:
        annotation_file: one of `find_splits`, or any other.
        name: of the data set, for messages.
        orientation: as for `read_coco`.
        stretch_16bit: as for `read_coco`.

    Raises:
        DataError: the file, a photo or a PNG file cannot be used, or they do not fit each other.
    """
    source, contents = str(annotation_file), load_annotations(annotation_file)
    listed = _listed(contents, source)
    maps, facts, map_notes = _maps(listed, annotation_file)
    _check_headers(maps, facts, contents["images"])
    changes = Changes()
    _settle_pixels(listed, maps, changes, source)
    names = [str(record.get("file_name")) for record in contents["images"]]
    candidates = picture_folders(annotation_file)
    folder = choose_folder(names, candidates) if names else annotation_file.parent
    built = build_dataset(
        {**contents, "annotations": _annotations(contents["images"], listed)},
        annotation_file,
        folder,
        name,
        folders=PictureFolders(folder, tuple(candidates), other_splits(annotation_file)),
        units=None,
        orientation=orientation,
        stretch_16bit=stretch_16bit,
    )
    _check_sizes(maps, facts, built)
    ids = np.concatenate([*listed.ids, np.zeros(0, np.int32)])[built.annotation_ids - 1]
    notes = (*map_notes, *_thing_notes(contents["categories"]), *_pixel_notes(changes), *built.notes)
    return replace(built, masks=MapMasks(maps, ids, whole=True), annotation_ids=ids.astype(np.int64), notes=notes)


def _listed(contents: dict[str, list[Record]], source: str) -> _Panoptic:
    """The entries of each image, in the order of the images.

    Raises:
        DataError: an image has no entry or several, or an entry makes no sense.
    """
    entries = _entries(contents, source)
    listed, faults = _Panoptic([], [], []), Faults(source)
    for record, entry in zip(contents["images"], entries, strict=True):
        name = str(record.get("file_name", record.get("id")))
        listed.files.append(str(entry.get("file_name") or Path(name).with_suffix(".png")))
        listed.segments.append(entry["segments_info"])
        listed.ids.append(_segment_ids(entry["segments_info"], name, faults))
    faults.check()
    return listed


def _entries(contents: dict[str, list[Record]], source: str) -> list[Record]:
    """The entry of each image."""
    images, annotations = read_ids(contents["images"], "image", source), contents["annotations"]
    if annotations and not any(isinstance(entry.get("segments_info"), list) for entry in annotations):
        raise DataError(
            f"{source} is not in COCO's panoptic format, none of its annotations lists 'segments_info': give {PREFIX}<split>.json, or read "
            "outlines of objects as instances."
        )
    found: dict[int, Record] = {}
    faults = Faults(source)
    for place, entry in enumerate(annotations):
        where, image = f"entry {place} of 'annotations'", images.find(entry.get("image_id"))
        if image is None:
            shown = shown_value(entry.get("image_id"))
            faults.add(
                "unlisted",
                where,
                f"belongs to image {shown}, which the file does not list: add it, or remove the entry.",
            )
        elif image in found:
            faults.add("twice", where, f"is the second of image {shown_value(entry['image_id'])}: keep one.")
        elif not _is_list_of_records(entry.get("segments_info")):
            faults.add("no list", where, "has no list 'segments_info' of segments: export the file again.")
        else:
            found[image] = entry
    faults.check()
    return _of_every_image(found, images, contents["images"], source)


def _of_every_image(found: dict[int, Record], images: Ids, records: Sequence[Record], source: str) -> list[Record]:
    without = [
        str(record.get("file_name"))
        for number, record in zip(images.numbers, records, strict=True)
        if number not in found
    ]
    if without:
        raise DataError(
            f"{source}: {some_of(len(without), len(records), 'image')} {have(len(without))} no entry in 'annotations': {first_few(without)}; "
            "add one with its PNG file, or remove the image."
        )
    return [found[number] for number in images.numbers]


def _is_list_of_records(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _segment_ids(segments: Sequence[Record], where: str, faults: Faults) -> np.ndarray:
    """(S,) int32 ids of an image's segments."""
    ids = [whole_number(segment.get("id")) for segment in segments]
    for place, (identifier, segment) in enumerate(zip(ids, segments, strict=True)):
        if identifier is None or not 0 < identifier <= _HIGHEST_ID:
            sentence = f"has a segment with the id {shown_value(segment.get('id'))}, and colours can say 1 to {_HIGHEST_ID:,}: give it another."
            faults.add("no id", where, sentence)
            ids[place] = 0
        elif identifier in ids[:place]:
            faults.add("twice", where, f"has two segments with the id {identifier}: give each its own colour and id.")
    return np.array(ids, dtype=np.int32)


def _maps(listed: _Panoptic, annotation_file: Path) -> tuple[ColourMaps, list[ImageFacts], list[str]]:
    """The PNG files, what their headers say, and notes about files that have other names."""
    root, beside, stem = root_of_file(annotation_file), annotation_file.parent, annotation_file.stem
    split = split_of_file(annotation_file) or stem
    names = dict.fromkeys([stem, f"{PREFIX}{split}", "panoptic", split])
    candidates = [folder / name for name in names for folder in (beside, root)]
    candidates = [folder for folder in dict.fromkeys(candidates) if folder.is_dir()] or [beside / stem]
    folder = choose_folder(listed.files, candidates) if listed.files else candidates[0]
    source = f"{annotation_file} (PNG files)"
    found, notes = find_pictures(listed.files, PictureFolders(folder, tuple(candidates)), source)
    maps = ColourMaps(folder, np.array(listed.files) if found is None else found)
    return maps, inspect_pictures([maps.path(index) for index in range(len(listed.files))]), notes


def _check_headers(maps: ColourMaps, facts: Sequence[ImageFacts], records: Sequence[Record]) -> None:
    """Refuses PNG files that cannot say ids, or have another size than the file states; nothing is decoded for it."""
    faults = Faults()
    for index, (fact, record) in enumerate(zip(facts, records, strict=True)):
        problem, stated = colour_problem(fact.mode), stated_size(record)
        if problem:
            faults.add("mode", str(maps.path(index)), problem)
        elif stated is not None and stated != fact.stored_size:
            faults.add("size", str(maps.path(index)), other_size(fact.stored_size, stated, record.get("file_name")))
    faults.check()


def _check_sizes(maps: ColourMaps, facts: Sequence[ImageFacts], dataset: DetectionDataset) -> None:
    """Refuses PNG files of another size than their photo."""
    faults = Faults()
    for index, (fact, size) in enumerate(zip(facts, dataset.sizes.tolist(), strict=True)):
        if fact.stored_size != tuple(size):
            faults.add("size", str(maps.path(index)), other_size(fact.stored_size, size, dataset.image_name(index)))
    faults.check()


def _settle_pixels(listed: _Panoptic, maps: ColourMaps, changes: Changes, source: str) -> None:
    """Compares segments with the pixels, and gives them the boxes and areas of these where they differ or are missing.

    Raises:
        DataError: a PNG file cannot be read, or has other segments than the file lists.
    """
    count = len(listed.files)
    checked = (
        np.unique(np.linspace(0, count - 1, min(count, _CHECKED)).round().astype(int)) if count else np.zeros(0, int)
    )
    without_box = [place for place, segments in enumerate(listed.segments) if any(map(_lacks_box, segments))]
    checked = np.union1d(checked, np.array(without_box, dtype=int))
    if _compare(checked.tolist(), listed, maps, changes, source) and len(checked) < count:
        rest = np.setdiff1d(np.arange(count), checked)
        _compare(rest.tolist(), listed, maps, changes, source)


def _lacks_box(segment: Record) -> bool:
    box = given_box(segment.get("bbox"))
    return box is None or min(box[2:]) <= 0


def _compare(indices: Sequence[int], listed: _Panoptic, maps: ColourMaps, changes: Changes, source: str) -> bool:
    """Compares some images; returns whether a box or an area was another."""

    def look(index: int) -> Segments | DataError:
        try:
            return segments_of(maps.read(index), listed.ids[index])[1]
        except DataError as error:
            return error

    faults, differ = Faults(), False
    with ThreadPoolExecutor(_THREADS) as pool:
        for index, seen in zip(indices, pool.map(look, indices), strict=True):
            if isinstance(seen, DataError):
                raise seen
            path = str(maps.path(index))
            add_id_faults(faults, path, listed.ids[index], seen, source)
            differ |= _adopt(listed.segments[index], seen, path, changes)
    faults.check()
    return differ


def add_id_faults(faults: Faults, path: str, ids: np.ndarray, seen: Segments, source: str) -> None:
    """Segments that a PNG file lacks, and ids that its JSON file lacks.

    Args:
        faults: gets them.
        path: the PNG file.
        ids: (S,) of the segments that should be there.
        seen: what is there.
        source: the file that lists the segments.
    """
    for identifier in ids[seen.areas == 0].tolist():
        faults.add(
            "missing",
            path,
            f"has no pixel of segment {identifier}, which {source} lists: remove the segment, or draw it.",
        )
    for identifier, pixels in seen.others.items():
        sentence = (
            f"has {counted(pixels, 'pixel')} of the id {identifier}, which {source} does not list: add the segment, or paint these pixels "
            "black if they belong to nothing."
        )
        faults.add("unlisted", path, sentence)


def _adopt(segments: Sequence[Record], seen: Segments, path: str, changes: Changes) -> bool:
    """Gives segments the boxes and areas of their pixels; returns whether a stated one was another."""
    differ = False
    for segment, area, (left, top, right, bottom) in zip(
        segments, seen.areas.tolist(), seen.boxes_xyxy.tolist(), strict=True
    ):
        box = [int(side) for side in (left, top, right - left, bottom - top)]
        for key, value, kind in (("bbox", box, "segment box"), ("area", area, "segment area")):
            stated = segment.get(key)
            if stated is not None and stated != value:
                changes.add(
                    kind, f"segment {segment['id']} of {path}: {key} {shown_value(stated)}, pixels {value}", path
                )
                differ = True
            segment[key] = value
    return differ


def _pixel_notes(changes: Changes) -> list[str]:
    def sentence(noun: str, plural: str) -> Any:
        return lambda number, first: (
            f"{counted(number, noun, plural)} of segments {agreeing(number, 'is not that', 'are not those')} of the pixels, which "
            f"{agreeing(number, 'was', 'were')} taken instead (the first: {first})."
        )

    return changes.notes({"segment box": sentence("box", "boxes"), "segment area": sentence("area", "areas")})


def _thing_notes(categories: Sequence[Record]) -> list[str]:
    """A sentence about categories that do not say whether they are things, if there are any."""
    silent = [str(category.get("name")) for category in categories if category.get("isthing") is None]
    if not silent:
        return []
    number = len(silent)
    text = (
        f"{some_of(number, len(categories), 'category', 'categories')} {agreeing(number, 'does', 'do')} not say 'isthing' and "
        f'{agreeing(number, "counts as a thing", "count as things")} ({first_few(silent)}): write "isthing": 0 for stuff such as sky, 1 for objects.'
    )
    return [Note(text, "no isthing", count=number)]


def _annotations(images: Sequence[Record], listed: _Panoptic) -> list[Record]:
    """Segments as annotations of boxes, numbered in their order."""
    annotations: list[Record] = []
    for image, segments in zip(images, listed.segments, strict=True):
        for segment in segments:
            kept = {key: segment.get(key) for key in ("category_id", "bbox", "area", "iscrowd")}
            annotations.append({"id": len(annotations) + 1, "image_id": image["id"], **kept})
    return annotations
