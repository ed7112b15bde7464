"""Hugging Face's image folder: pictures with a `metadata.jsonl` beside them, read into a `DetectionDataset`.

Rules that a user may want to know:

- A split is a folder with its own `metadata.jsonl`, also below `data`. A single one at the root is `train`, unless its file names begin
  with the names of splits (`train/…`, `validation/…`, `test/…`).
- Each line is an object with `file_name` and `objects`: `{"bbox": [[x, y, width, height], …], "categories": [name or number, …]}`, in pixels,
  or a list with one such object for each box. `category`, `label` and `labels` mean the same as `categories`.
- Classes that are texts are sorted over all splits, with ids from 1. Classes that are numbers keep them as ids; their names come from the
  `class_label` in the header of the data set's `README.md`, and without one they are called by their numbers.
- Images are numbered from 1 in the order of the lines.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from detrkit.data.coco import Record, build_dataset
from detrkit.data.coco_values import is_finite
from detrkit.data.dataset import DetectionDataset, NoImagesError, numbered_by_names
from detrkit.data.findings import Changes, Faults
from detrkit.data.pictures import inspect_pictures, pictures_below
from detrkit.data.split_names import plain_split
from detrkit.data.text_files import read_lines, read_text
from detrkit.data.wording import agreeing, are, counted, have, shown_value, some_of, were
from detrkit.data.yaml_files import parse_yaml
from detrkit.errors import DataError

_METADATA, _OTHER_TABLES = "metadata.jsonl", ("metadata.csv", "metadata.parquet")
LOOKED_FOR = (f"<split>/{_METADATA}",)
_CATEGORY_KEYS = ("categories", "category", "labels", "label")
_OPTIONAL_KEYS = ("area", "iscrowd")
_SPLITS = ("train", "val", "test")
_HEADER = re.compile(r"\A---\n(.*?)^---\s*$", flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class MetadataSplit:
    """One split.

    Attributes:
        root: the data set's folder, which may have a README.md.
        files: the metadata files of all splits.
        file: that of this split.
        part: what the file names of this split begin with, if one file lists several splits; otherwise empty.
    """

    root: Path
    files: tuple[Path, ...]
    file: Path
    part: str = ""


@dataclass(frozen=True)
class _Line:
    """A picture and its objects; `objects` have `bbox`, `category`, and `area` and `iscrowd` if they are given; null counts as none."""

    where: str
    file_name: str
    objects: tuple[dict[str, Any], ...]
    is_null: bool = False


def find_splits(folder: Path) -> dict[str, MetadataSplit]:
    """A folder's splits, keyed by the names of their folders; empty if it has no metadata file.

    Raises:
        DataError: the only metadata is in a form that is not read.
    """
    files = {file.parent.name: file for file in [*folder.glob(f"data/*/{_METADATA}"), *folder.glob(f"*/{_METADATA}")]}
    whole = next((file for file in (folder / _METADATA, folder / "data" / _METADATA) if file.is_file()), None)
    files.pop("data", None)
    if files:
        every = tuple(sorted(files.values()))
        return {split: MetadataSplit(folder, every, file) for split, file in sorted(files.items())}
    if whole is None:
        tables = [file for name in _OTHER_TABLES for file in sorted([*folder.glob(name), *folder.glob(f"*/{name}")])]
        if tables:
            raise DataError(f"{tables[0]} is not read, only {_METADATA} is: write that instead.")
        return {}
    parts = {line.file_name.partition("/")[0] for line in _read_lines(whole, Faults()) if "/" in line.file_name}
    splits = sorted(part for part in parts if plain_split(part) in _SPLITS)
    if not splits:
        return {"train": MetadataSplit(folder, (whole,), whole)}
    return {part: MetadataSplit(folder, (whole,), whole, part) for part in splits}


def read_split(split: MetadataSplit, name: str, *, stretch_16bit: bool = False) -> DetectionDataset:
    """The data set of a split.

    Args:
        split: one of `find_splits`.
        name: for messages.
        stretch_16bit: as for `read_coco`.

    Raises:
        NoImagesError: the split's file has no lines.
        DataError: a line or a picture cannot be used; the message names it and the remedy.
    """
    faults, folder = Faults(), split.file.parent
    in_file = _read_lines(split.file, faults)
    faults.check()
    if not in_file:
        raise NoImagesError(f"{split.file} lists no pictures: write a line for each.")
    lines = [line for line in in_file if line.file_name.startswith(split.part and f"{split.part}/")]
    _check_listed_once(lines)
    others = [line for file in split.files if file != split.file for line in _usable_lines(file)]
    categories, notes = _categories([*in_file, *others], split)
    facts = inspect_pictures([folder / line.file_name for line in lines])
    sizes = [each.shown_size for each in facts]
    ids = {category["name"] if category["is_text"] else category["id"]: category["id"] for category in categories}
    contents: dict[str, list[Record]] = {
        "images": [
            {"id": number, "file_name": line.file_name, "height": height, "width": width}
            for number, (line, (height, width)) in enumerate(zip(lines, sizes, strict=True), start=1)
        ],
        "annotations": _annotations(lines, ids),
        "categories": [{"id": category["id"], "name": category["name"]} for category in categories],
    }
    built = build_dataset(
        contents, split.file, folder, name, facts=facts, orientation="shown", stretch_16bit=stretch_16bit
    )
    dataset = numbered_by_names(built)
    return dataclasses.replace(dataset, notes=(*notes, *_null_notes(lines), *_unlisted(lines, split), *dataset.notes))


def _usable_lines(file: Path) -> list[_Line]:
    """What can be used of another split's metadata, for its classes; what is wrong there is said when that split is read."""
    try:
        return _read_lines(file, Faults())
    except DataError:
        return []


def _read_lines(file: Path, faults: Faults) -> list[_Line]:
    """The lines of a metadata file that can be used; what is wrong with others is kept as faults."""
    lines = []
    for number, text in enumerate(read_lines(file), start=1):
        if not text.strip():
            continue
        where = f"{file}, line {number}"
        try:
            content = json.loads(text)
        except ValueError as error:
            faults.add("json", where, f"is not complete JSON ({error}): write the file again.")
            continue
        file_name = content.get("file_name") if isinstance(content, dict) else None
        if not isinstance(file_name, str) or not file_name:
            faults.add(
                "file name", where, f"has the file_name {file_name!r}: give the picture's name, relative to the file."
            )
            continue
        objects = _objects(content, where, faults)
        is_null = _is_null(content.get("objects", content))
        lines.append(_Line(where, file_name.replace("\\", "/").removeprefix("./"), tuple(objects), is_null))
    return lines


def _is_null(given: Any) -> bool:
    """Whether objects, or the lists of their boxes and categories, are given as null."""
    if not isinstance(given, dict):
        return given is None
    keys = [key for key in ("bbox", *_CATEGORY_KEYS) if key in given]
    return bool(keys) and all(given[key] is None for key in keys)


def _objects(content: dict[str, Any], where: str, faults: Faults) -> list[dict[str, Any]]:
    """The objects of a line, one dictionary each, whichever way round they are written."""
    given = content.get("objects", {"bbox": content["bbox"], **content} if "bbox" in content else None)
    shown = shown_value(given)
    if _is_null(given) and ("objects" in content or "bbox" in content):
        return []
    if isinstance(given, dict):
        given = _turned_round(given, where, faults)
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        faults.add(
            "objects",
            where,
            f"{f'has the objects {shown}' if 'objects' in content else 'has no objects'}: write 'objects' with the lists 'bbox' and "
            "'categories', empty if there are none.",
        )
        return []
    objects = []
    for each in given:
        category = next((each[key] for key in _CATEGORY_KEYS if key in each), None)
        if isinstance(category, float) and category.is_integer():  # 1.0, as tables with gaps have it
            category = int(category)
        box = each.get("bbox")
        if isinstance(category, bool) or not isinstance(category, int | str) or category == "":
            faults.add(
                "category",
                where,
                f"has an object of the category {shown_value(category)}: give its name or its number.",
            )
        elif not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
            faults.add(
                "box",
                where,
                f"has the box {shown_value(box)}: give four numbers: left, top, width and height in pixels.",
            )
        else:
            extra = {key: each[key] for key in _OPTIONAL_KEYS if key in each}
            objects.append({"bbox": box, "category": category, **extra})
    return objects


def _turned_round(given: dict[str, Any], where: str, faults: Faults) -> list[dict[str, Any]] | None:
    """Objects that are written as one list for each key, as one dictionary for each object."""
    key = next((key for key in _CATEGORY_KEYS if key in given), None)
    boxes = given.get("bbox")
    if not isinstance(boxes, list) or (key is None and boxes):
        return None
    columns = {"bbox": boxes}
    for other in (key, *_OPTIONAL_KEYS):
        if other is not None and isinstance(given.get(other), list):
            columns["category" if other == key else other] = given[other]
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = " and ".join(f"{count} of {name}" for name, count in lengths.items())
        faults.add("lengths", where, f"has {counts}: write as many of each.")
        return []
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _check_listed_once(lines: list[_Line]) -> None:
    seen: set[str] = set()
    faults = Faults()
    for line in lines:
        if line.file_name in seen:
            faults.add("twice", line.where, f"lists {line.file_name} again: write all its objects into one line.")
        seen.add(line.file_name)
    faults.check()


def _categories(lines: Iterable[_Line], split: MetadataSplit) -> tuple[list[dict[str, Any]], list[str]]:
    """The classes of all splits with `id`, `name` and whether the lines give the name or the number."""
    found = {each["category"]: line.where for line in lines for each in line.objects}
    texts = sorted(category for category in found if isinstance(category, str))
    numbers = sorted(category for category in found if isinstance(category, int))
    if texts and numbers:
        raise DataError(
            f"{found[texts[0]]} has the category '{texts[0]}', but {found[numbers[0]]} has {numbers[0]}: give names everywhere, or numbers."
        )
    if texts:
        return [{"id": number, "name": name, "is_text": True} for number, name in enumerate(texts, start=1)], []
    names = _names_in_readme(split.root / "README.md")
    unnamed = [number for number in numbers if number not in names]
    if names and unnamed:
        more = (
            f" ({some_of(len(unnamed), len(numbers), 'category', 'categories')} are not named.)"
            if len(unnamed) > 1
            else ""
        )
        raise DataError(
            f"{found[unnamed[0]]} has the category {unnamed[0]}, but {split.root / 'README.md'} names {len(names)} classes from "
            f"{min(names)} to {max(names)}: correct one of the two.{more}"
        )
    note = (
        f"{split.file.name} gives classes as numbers and no README.md names them (dataset_info, class_label), so they are called by their "
        "numbers."
    )
    named = names or {number: str(number) for number in numbers}
    return [{"id": number, "name": name, "is_text": False} for number, name in named.items()], [] if names else [note]


def _names_in_readme(readme: Path) -> dict[int, str]:
    """The names of the numbered classes in the header of a data set's README; empty without any.

    Raises:
        DataError: the header cannot be parsed, or its names have no numbers.
    """
    header = _HEADER.search(read_text(readme)) if readme.is_file() else None
    if header is None:
        return {}
    try:
        content = parse_yaml(header[1], readme, first_line=2)
    except yaml.YAMLError as error:
        raise DataError(
            f"{readme} has a header that cannot be parsed ({' '.join(str(error).split())}): correct it."
        ) from None
    labels = list(_class_labels(content, ""))
    chosen = next((names for key, names in labels if key in _CATEGORY_KEYS), labels[0][1] if len(labels) == 1 else None)
    if chosen is None:
        return {}
    pairs = enumerate(chosen) if isinstance(chosen, list) else chosen.items()
    try:
        return {int(number): str(name) for number, name in pairs}
    except ValueError:
        raise DataError(f"{readme} has class names without numbers: write '0': first name, and so on.") from None


def _class_labels(content: Any, name: str) -> Iterable[tuple[str, Any]]:
    """All `class_label` names in a header, each with the name of its feature."""
    if isinstance(content, list):
        for each in content:
            yield from _class_labels(each, name)
    elif isinstance(content, dict):
        name = content["name"] if isinstance(content.get("name"), str) else name
        for key, value in content.items():
            names = value.get("names") if key == "class_label" and isinstance(value, dict) else None
            if isinstance(names, list | dict):
                yield name, names
            else:
                yield from _class_labels(value, name)


def _annotations(lines: Iterable[_Line], ids: dict[Any, int]) -> list[Record]:
    records: list[Record] = []
    for image_id, line in enumerate(lines, start=1):
        for each in line.objects:
            extra = {key: value for key, value in each.items() if key != "category"}
            records.append(
                {"id": len(records) + 1, "image_id": image_id, "category_id": ids[each["category"]], **extra}
            )
    return records


def _null_notes(lines: Iterable[_Line]) -> list[str]:
    """A note if objects are null, as tables write it for nothing."""
    changes = Changes()
    for line in lines:
        if line.is_null:
            changes.add("null", line.where, line.file_name)
    return changes.notes(
        {
            "null": lambda number, first: (
                f"{counted(number, 'line')} {have(number)} null for the objects and {agreeing(number, 'counts', 'count')} as "
                f"{agreeing(number, 'a picture', 'pictures')} without objects (the first: {first})."
            )
        }
    )


def _unlisted(lines: Iterable[_Line], split: MetadataSplit) -> list[str]:
    """A note if pictures of the split's folder are in no line."""
    folder = split.file.parent
    listed = {line.file_name for line in lines}
    changes = Changes()
    for picture in pictures_below(folder / split.part):
        name = picture.relative_to(folder).as_posix()
        if name not in listed:
            changes.add("unlisted", name)
    return changes.notes(
        {
            "unlisted": lambda number, first: (
                f"{counted(number, 'picture')} {are(number)} not in {split.file.name} and {were(number)} left out (the first: {first})."
            )
        }
    )
